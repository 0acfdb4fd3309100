"""Pictures as files that say how they were made: PNG, JPEG and WebP, and the forms of layers.

PNG keeps the metadata as a text of its own, the others in an XMP packet. Ordinary viewers show the prompt of either.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from xml.sax.saxutils import escape, unescape

from PIL import Image, PngImagePlugin

from glyphflow.core.config import load_config
from glyphflow.core.errors import ConfigError, InputError
from glyphflow.core.files import atomic_path
from glyphflow.generate.metadata import Metadata

_KEY = "glyphflow"
FLATTENED = "flattened.png"  # the picture that stands for all layers of a directory or ZIP
XMP_IN_PSD = 1060  # the number of the image resource that holds an XMP packet
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"lossless": True, "exact": True}),
}
_WRITTEN = ("PNG", "JPEG", "WEBP", "PSD")
_WEBP_SIDE = 16383
_JPEG_PACKET = 65_000  # bytes
ENDINGS = tuple(_FORMATS)
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:glyphflow="urn:glyphflow"><dc:description><rdf:Alt><rdf:li xml:lang="x-default">{prompt}</rdf:li></rdf:Alt>
</dc:description><xmp:CreatorTool>{software}</xmp:CreatorTool><glyphflow:metadata>{content}</glyphflow:metadata>
</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>"""
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def check_ending(path: Path, mode: str = "RGB") -> None:
    """Refuse a file name whose ending is no picture's, or names one that cannot hold pictures of ``mode`` (RGB or RGBA)."""
    if path.suffix.lower() not in _FORMATS:
        raise InputError(f"{path} does not end like a picture; use {', '.join(ENDINGS)}.")
    if mode == "RGBA" and _FORMATS[path.suffix.lower()][0] == "JPEG":
        raise InputError(f"{path}: the picture is transparent (RGBA) and JPEG holds no transparency; use .png or .webp.")


def check_metadata(path: Path, metadata: Metadata) -> None:
    """Refuse metadata and sizes that a file of this ending cannot hold: the metadata of a JPEG are one segment."""
    if path.suffix.lower() == ".webp" and max(metadata.width, metadata.height) > _WEBP_SIDE:
        raise InputError(
            f"{path}: {metadata.width}x{metadata.height} is over the {_WEBP_SIDE} pixels a side of WebP; use .png."
        )
    if path.suffix.lower() in (".jpg", ".jpeg") and len(_packet(metadata.shared())) > _JPEG_PACKET:
        raise InputError(f"{path}: the prompts are too long for the metadata of a JPEG; use .png or .webp.")


def write_picture(image: Image.Image, path: Path, metadata: Metadata | None) -> None:
    """Write ``image`` with ``metadata`` (None: without any) to ``path``, atomically, in the format of its ending.

    PNG and WebP keep every pixel, JPEG is written at quality 95. Equal pixels and metadata give equal bytes. An RGBA picture as
    JPEG and other endings raise :class:`InputError`.
    """
    check_ending(path, image.mode)
    kind, how = _FORMATS[path.suffix.lower()]
    if metadata is not None:
        how = how | ({"pnginfo": png_texts(metadata)} if kind == "PNG" else {"xmp": xmp_packet(metadata)})
    bare = image.copy()
    bare.info.clear()  # comments and resolutions of a photograph that was painted on are not ours to pass on
    with atomic_path(path) as temporary:
        bare.save(temporary, format=kind, **how)


def png_texts(metadata: Metadata) -> PngImagePlugin.PngInfo:
    """``metadata`` as the texts of a PNG."""
    metadata = _passed_on(metadata)
    info = PngImagePlugin.PngInfo()
    info.add_itxt("Description", metadata.prompt)  # shown by ordinary viewers
    info.add_itxt("Software", _software(metadata))
    info.add_itxt(_KEY, json.dumps(metadata.model_dump(), ensure_ascii=False, sort_keys=True))
    return info


def xmp_packet(metadata: Metadata) -> bytes:
    """``metadata`` as an XMP packet, in UTF-8."""
    return _packet(_passed_on(metadata))


def _packet(metadata: Metadata) -> bytes:
    content = json.dumps(metadata.model_dump(), sort_keys=True)  # in ASCII, because XML has no place for control characters
    prompt = _NOT_IN_XML.sub(" ", metadata.prompt)
    return _PACKET.format(prompt=escape(prompt), software=_software(metadata), content=escape(content)).encode()


def read_metadata(path: Path) -> Metadata:
    """The metadata of a file (or a directory of layers) written here; anything else raises :class:`InputError`."""
    try:
        with warnings.catch_warnings(), _opened(path) as file:
            warnings.simplefilter("ignore")  # Pillow's words on large pictures
            Image.init()
            # Not through core.pictures: the texts are wanted and no pixel, and layers are PSD, which is read nowhere else.
            with Image.open(file, formats=_WRITTEN) as image:
                text = _metadata_text(image)
    except Exception as error:  # codecs and archives raise what they like on damaged input
        if isinstance(error, MemoryError):
            raise
        reason = "does not exist" if isinstance(error, FileNotFoundError) else "is not a picture that can be read"
        raise InputError(f"{path} {reason}; give a picture that glyphflow wrote.") from error
    if text is None:
        raise InputError(
            f"{path} carries no GlyphFlow metadata (it may have been edited or converted); give the original file."
        )
    try:
        return load_config(Metadata, json.loads(text))
    except (ConfigError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: its GlyphFlow metadata is damaged or of another version ({error}).") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The picture that speaks for ``path``: itself, or that of the flattened layers."""
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(FLATTENED) as file:
            yield file
    else:
        with (path / FLATTENED if path.is_dir() else path).open("rb") as file:
            yield file


def _metadata_text(image: Image.Image) -> str | None:
    if image.format == "PNG":
        text: str | None = image.info.get(_KEY)
        return text
    packet = image.info.get("xmp", b"")
    for number, _, data in getattr(image, "resources", ()):
        packet = data if number == XMP_IN_PSD else packet
    found = re.search(rb"<glyphflow:metadata>(.*?)</glyphflow:metadata>", packet, re.DOTALL)
    return None if found is None else unescape(found[1].decode())


def _passed_on(metadata: Metadata) -> Metadata:
    """What the file says; this machine alone remembers the directories that it leaves out."""
    metadata.remember()
    return metadata.shared()


def _software(metadata: Metadata) -> str:
    return f"GlyphFlow {metadata.versions['glyphflow']}"
