"""Picture files into 8-bit sRGB: every number that a format may hold, and what is refused."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

import glyphflow
from glyphflow.core.errors import InputError
from glyphflow.core.pictures import PictureError, foreign_profile, on_white, open_picture, plain, read_picture, read_rgb

_TURN = 0x0112


def _bytes(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def _steps() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (6, 9, 3), dtype=np.uint8))


def _profile(red: tuple[float, float, float], green: tuple[float, float, float], blue: tuple[float, float, float]) -> bytes:
    """An RGB profile of these primaries (XYZ under D50) with a gamma of 2.2."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, int(2.2 * 256)) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"a\0" + bytes(81),
        b"wtpt": xyz(0.9642, 1, 0.8249), b"rXYZ": xyz(*red), b"gXYZ": xyz(*green), b"bXYZ": xyz(*blue),
        b"rTRC": curve, b"gTRC": curve, b"bTRC": curve, b"cprt": b"text\0\0\0\0CC0\0",
    }  # fmt: skip
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value
    head = bytearray(128)
    head[4:8], head[8:12], head[12:16], head[16:20], head[20:24] = b"lcms", b"\x02\x10\0\0", b"mntr", b"RGB ", b"XYZ "
    head[36:40] = b"acsp"
    head[68:80] = b"".join(struct.pack(">i", int(value * 65536)) for value in (0.9642, 1, 0.8249))
    whole = bytes(head) + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


DISPLAY_P3 = _profile((0.5151, 0.2412, -0.0011), (0.292, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_another_profile_is_converted_and_srgb_is_left_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_bytes(Image.new("RGB", (4, 4), (230, 40, 40)), icc_profile=DISPLAY_P3))
    # Display P3 (230, 40, 40) in sRGB: the red is outside and clips; by the matrices of both spaces, gamma 2.2 against sRGB's.
    red, green, blue = np.asarray(read_rgb(path))[0, 0].tolist()
    assert red >= 250 and green <= 10 and blue <= 30
    assert "icc_profile" not in read_picture(path).info  # the numbers are sRGB's now
    assert foreign_profile(open_picture(path)) == DISPLAY_P3
    for form in ("PNG", "JPEG", "TIFF", "WEBP"):
        own, bare = (
            np.asarray(plain(open_picture(_bytes(_steps(), form, **given)))) for given in ({"icc_profile": SRGB}, {})
        )  # fmt: skip
        assert np.array_equal(own, bare)
    assert foreign_profile(open_picture(_bytes(_steps(), icc_profile=SRGB))) == b""


def test_alpha_survives_a_profile_and_white_is_behind_it() -> None:
    see_through = Image.new("RGBA", (2, 2), (230, 40, 40, 0))
    see_through.putpixel((0, 0), (230, 40, 40, 255))
    picture = plain(open_picture(_bytes(see_through, icc_profile=DISPLAY_P3)))
    assert picture.mode == "RGBA" and [picture.getpixel((0, 0))[3], picture.getpixel((1, 1))[3]] == [255, 0]  # type: ignore[index]
    flat = on_white(picture)
    assert flat.getpixel((1, 1)) == (255, 255, 255) and flat.getpixel((0, 0)) != (255, 255, 255)


@pytest.mark.parametrize("profile", [b"nonsense", DISPLAY_P3[:200], b""])
def test_a_damaged_profile_costs_nothing_but_itself(profile: bytes) -> None:
    picture = plain(open_picture(_bytes(_steps(), icc_profile=profile)))
    assert np.array_equal(np.asarray(picture), np.asarray(_steps()))


def test_sixteen_bits_are_scaled_and_not_cut() -> None:
    deep = np.array([[0, 128, 257, 25_700, 65_535]], np.uint16)
    assert np.asarray(plain(open_picture(_bytes(Image.fromarray(deep))))).tolist() == [[0, 0, 1, 100, 255]]
    assert np.asarray(plain(open_picture(_bytes(Image.fromarray(deep), "TIFF")))).tolist() == [[0, 0, 1, 100, 255]]


def test_numbers_without_an_agreed_scale_are_refused_by_name() -> None:
    unit = np.array([[0.0, 0.5, 1.0]], np.float32)
    assert np.asarray(plain(open_picture(_bytes(Image.fromarray(unit), "TIFF")))).tolist() == [[0, 128, 255]]
    for values in (np.array([[0.0, 400.0]], np.float32), np.array([[np.nan, 0.5]], np.float32)):
        with pytest.raises(PictureError, match="floating-point numbers"):
            plain(open_picture(_bytes(Image.fromarray(values), "TIFF")))
    with pytest.raises(PictureError, match="32-bit numbers from -5 to 70000"):
        plain(open_picture(_bytes(Image.fromarray(np.array([[-5, 70_000]], np.int32)), "TIFF")))


def test_cmyk_grey_bilevel_and_palettes_become_plain() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    assert plain(open_picture(_bytes(cmyk, "TIFF"))).convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert plain(open_picture(_bytes(Image.new("1", (3, 3), 1)))).convert("L").getpixel((0, 0)) == 255
    assert plain(open_picture(_bytes(Image.new("LA", (3, 3), (9, 0))))).mode == "LA"
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    for form in ("PNG", "GIF"):
        picture = plain(open_picture(_bytes(palette, form, transparency=1)))
        assert picture.mode == "RGBA" and [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0, 255), (0, 0, 255, 0)]
        assert on_white(picture).getpixel((1, 0)) == (255, 255, 255)
    keyed = plain(open_picture(_bytes(Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))))
    assert keyed.mode == "RGBA" and keyed.getpixel((0, 0)) == (1, 2, 3, 0)


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("form", ["TIFF", "PNG", "JPEG", "WEBP"])
def test_every_turn_is_done_once(form: str, turn: int) -> None:
    exif = Image.Exif()
    exif[_TURN] = turn
    options = {"exif": exif} | ({"quality": 95} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {})
    data = _bytes(_steps(), form, **options)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert wanted.size == ((9, 6) if turn < 5 else (6, 9))
    assert np.array_equal(np.asarray(plain(open_picture(data))), np.asarray(wanted))


def test_damaged_exif_leaves_the_picture() -> None:
    data = bytearray(_bytes(_steps(), "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40))
    assert plain(open_picture(bytes(data))).size == (9, 6)


@pytest.mark.parametrize("add", ["add_itxt", "add_text"])
def test_texts_of_megabytes_leave_the_picture(add: str) -> None:
    told = PngImagePlugin.PngInfo()
    getattr(told, add)("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    assert np.array_equal(np.asarray(plain(open_picture(_bytes(_steps(), pnginfo=told)))), np.asarray(_steps()))


def test_profiles_of_megabytes_still_count_and_bombs_do_not_unpack() -> None:
    big = _bytes(Image.new("RGB", (4, 4), (230, 40, 40)), icc_profile=DISPLAY_P3 + bytes(1_200_000))
    assert np.asarray(on_white(plain(open_picture(big))))[0, 0, 0] >= 250
    body = b"c\0\0" + zlib.compress(bytes(60_000_000), 9)
    chunk = struct.pack(">I", len(body)) + b"iCCP" + body + struct.pack(">I", zlib.crc32(b"iCCP" + body))
    good = _bytes(_steps())
    assert np.array_equal(np.asarray(plain(open_picture(good[:33] + chunk + good[33:]))), np.asarray(_steps()))


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 300 300\n%%EndComments\nshowpage\n%%EOF\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"<html>404</html>", b"", bytes(5000), b"8BPS\0\1" + bytes(100),
    ],
)  # fmt: skip
def test_other_formats_are_refused_and_no_program_is_started(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    with pytest.raises(PictureError, match="not a picture in a known format"):
        open_picture(data)


def test_files_are_named_in_what_is_said_of_them(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(_bytes(_steps().resize((300, 300)))[:400])
    for name, reason in (("cut.png", "cannot be read as a picture"), ("gone.png", "there is no such file")):
        with pytest.raises(InputError, match=rf"{name} cannot be read as a picture: .*; give another file") as told:
            read_rgb(tmp_path / name)
        assert reason in str(told.value)


def test_every_reader_has_a_list_of_formats() -> None:
    """Pillow alone would hand PostScript to Ghostscript: whatever opens a file says which formats it takes."""
    root = Path(glyphflow.__file__).parent
    calls = [call for path in root.rglob("*.py") for call in re.findall(r"Image\.open\(.*", path.read_text(encoding="utf-8"))]
    assert calls and all("formats=" in call for call in calls)
