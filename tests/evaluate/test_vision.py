"""Detectors and CLIP with small random weights, against transformers' own arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
    DetrImageProcessor,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    SwinConfig,
    YolosConfig,
    YolosForObjectDetection,
)

from glyphflow.core.errors import InputError
from glyphflow.evaluate.case import Case
from glyphflow.evaluate.judges.vision import ObjectJudge, SimilarityJudge, _cut

NAMES = {0: "dog", 1: "mouse", 2: "N/A", 3: "chair"}
PICTURES = np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = {
        token: n for n, token in enumerate([*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"])
    }
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    (directory / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        **small, vocab_size=len(vocabulary), max_position_embeddings=24, eos_token_id=vocabulary["<|endoftext|>"]
    )
    vision = CLIPVisionConfig(**small, image_size=32, patch_size=8)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).save_pretrained(
        directory
    )
    tokenizer = CLIPTokenizer(str(directory / "vocab.json"), str(directory / "merges.txt"))
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("yolos")
    torch.manual_seed(1)
    config = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 48], patch_size=8,
        num_detection_tokens=6, id2label=NAMES, label2id={name: n for n, name in NAMES.items()},
    )  # fmt: skip
    model = YolosForObjectDetection(config)
    torch.nn.init.normal_(model.class_labels_classifier.layers[-1].weight, std=3)
    model.save_pretrained(directory)
    DetrImageProcessor(size={"height": 32, "width": 48}, do_pad=False).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def outlines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mask2former")
    torch.manual_seed(2)
    swin = SwinConfig(
        image_size=32, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=5,
        id2label=NAMES, label2id={name: n for n, name in NAMES.items()},
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(config).save_pretrained(directory)
    Mask2FormerImageProcessor(size={"height": 64, "width": 64}, do_reduce_labels=False).save_pretrained(directory)
    return directory


def test_similarity_is_clips_cosine(clip: Path) -> None:
    cases = [Case(str(n), "similarity", (picture,), {"text": f"a dog {'x' * n * 30}"}) for n, picture in enumerate(PICTURES)]
    cases.insert(1, Case("pair", "similarity", (PICTURES[0], PICTURES[1])))
    verdicts = SimilarityJudge(clip, device="cpu")(cases)
    model, processor = CLIPModel.from_pretrained(clip).eval(), CLIPProcessor.from_pretrained(clip)
    texts = [case.request["text"] for case in cases if case.request]
    inputs = processor(
        text=texts,
        images=[Image.fromarray(p) for p in PICTURES],
        return_tensors="pt",
        padding=True,
        truncation=True,
        max_length=24,
    )
    with torch.inference_mode():
        output = model(**inputs)
    expected = (output.image_embeds * output.text_embeds).sum(dim=1).tolist()
    expected.insert(1, float(output.image_embeds[0] @ output.image_embeds[1]))
    assert [verdict.value for verdict in verdicts] == pytest.approx(expected, abs=1e-5)


def test_boxes_are_the_detectors_own(boxes: Path) -> None:
    judge = ObjectJudge(boxes, device="cpu")
    [verdict] = judge([Case("a", "objects", (PICTURES[0],), {"threshold": 0.05})])
    model, processor = YolosForObjectDetection.from_pretrained(boxes).eval(), DetrImageProcessor.from_pretrained(boxes)
    with torch.inference_mode():
        outputs = model(**processor(images=Image.fromarray(PICTURES[0]), return_tensors="pt"))
    [found] = processor.post_process_object_detection(outputs, threshold=0.05, target_sizes=[(40, 56)])
    expected = sorted(
        zip(found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist(), strict=True), reverse=True
    )
    assert len(expected) > 0 and [detection["label"] for detection in verdict.value] == [
        NAMES[label] for _, label, _ in expected
    ]
    for detection, (score, _, box) in zip(verdict.value, expected, strict=True):
        assert detection["score"] == pytest.approx(score, abs=1e-4) and detection["box"] == pytest.approx(box, abs=0.02)


def test_only_what_was_asked_for_under_the_name_it_was_asked_by(boxes: Path) -> None:
    [verdict] = ObjectJudge(boxes, device="cpu")(
        [Case("a", "objects", (PICTURES[0],), {"threshold": 0.0, "classes": ["computer mouse"]})]
    )
    assert verdict.value == [] or {detection["label"] for detection in verdict.value} == {"computer mouse"}
    every = ObjectJudge(boxes, device="cpu")([Case("a", "objects", (PICTURES[0],), {"threshold": 0.0})])[0].value
    assert len(verdict.value) == sum(detection["label"] == "mouse" for detection in every)


def test_a_class_the_detector_does_not_know_is_an_error(boxes: Path) -> None:
    [verdict] = ObjectJudge(boxes, device="cpu")([Case("a", "objects", (PICTURES[0],), {"classes": ["dog", "unicorn"]})])
    assert (verdict.status, verdict.value) == ("error", None) and "unicorn" in verdict.reason and "dog" not in verdict.reason


def test_colours_are_probabilities_over_those_asked_for(boxes: Path, clip: Path) -> None:
    colours = ["red", "green", "blue"]
    request = {"threshold": 0.0, "coloured": ["dog"], "colours": colours}
    [verdict] = ObjectJudge(boxes, clip, device="cpu")([Case("a", "objects", (PICTURES[0],), request)])
    for detection in verdict.value:
        assert ("colours" in detection) == (detection["label"] == "dog")
        if "colours" in detection:
            assert list(detection["colours"]) == colours and sum(detection["colours"].values()) == pytest.approx(1, abs=1e-4)
    [verdict] = ObjectJudge(boxes, device="cpu")([Case("a", "objects", (PICTURES[0],), request)])
    assert verdict.status == "error" and "no CLIP" in verdict.reason


def test_outlines_give_boxes(outlines: Path) -> None:
    judge = ObjectJudge(outlines, device="cpu")
    found = judge._find(PICTURES[0], 0.0)
    for _, score, (left, top, right, bottom), mask in found:
        assert mask is not None and mask.shape == (40, 56) and 0 <= score <= 1
        assert mask[int(top) : int(bottom), int(left) : int(right)].sum() == mask.sum()
    assert "mask2former" in judge.identity
    [verdict] = judge([Case("a", "objects", (PICTURES[0],), {"threshold": 0.0})])
    assert len(verdict.value) == len(found)


def test_what_is_outside_the_outline_is_grey() -> None:
    mask = np.zeros((40, 56), bool)
    mask[10:20, 30:40] = True
    cut = _cut(PICTURES[0], (28.0, 9.0, 41.0, 21.0), mask)
    assert cut.shape == (12, 13, 3)
    assert (cut[0] == 0x99).all() and np.array_equal(cut[1:11, 2:12], PICTURES[0][10:20, 30:40])
    assert _cut(PICTURES[0], (55.9, 39.9, 56.0, 40.0), None).size and _cut(PICTURES[0], (3.2, 3.2, 3.3, 3.3), None).size


def test_directories_that_hold_no_model_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        SimilarityJudge(tmp_path / "none")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds no"):
        ObjectJudge(tmp_path)
