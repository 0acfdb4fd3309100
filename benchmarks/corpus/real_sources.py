"""Pictures, documents and pages that ship in packages, laid out for `glyphflow corpus ingest` with their captions.

`python -m benchmarks.corpus.real_sources UNPACKED OUT [--documents 30] [--pages 60]`

UNPACKED holds one folder a package, unpacked and not installed, so no root is needed:

    mkdir -p UNPACKED debs && cd debs
    apt-get download endless-sky-data tuxpaint-stamps-default gimp-help-en gimp-help-zh-cn kstars-data parley-data \\
        sweethome3d-furniture gnome-backgrounds mate-backgrounds plasma-workspace-wallpapers lomiri-wallpapers-16.04 \\
        lomiri-wallpapers-20.04 ukui-wallpapers debian-handbook texlive-lang-chinese
    for deb in *.deb; do dpkg -x "$deb" ../UNPACKED/"${deb%%_*}"; done
    npm pack startbootstrap-sb-admin-2@4.1.4 && mkdir ../UNPACKED/sb-admin-2
    tar xf startbootstrap-*.tgz -C ../UNPACKED/sb-admin-2

OUT gets a folder for each source with links to the files and a .json of captions beside each; a missing package leaves
its folder empty. The licence of each file is in its package (usr/share/doc/PACKAGE/copyright).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PICTURES = {".jpg", ".jpeg", ".png", ".webp"}
Found = Iterator[tuple[Path, dict[str, str]]]
"""Files with captions by language ("en", "zh")."""


def words(name: str) -> str:
    """A file's name as words: "blur-demo_orig2" is "blur demo orig"."""
    return " ".join(re.findall(r"[A-Za-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name)))


def named(root: Path, *folders: str) -> Found:
    """Pictures whose name says what they show."""
    for folder in folders or (".",):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix.lower() in PICTURES and path.is_file():
                yield path, {"en": words(path.stem)}


def wallpapers(root: Path) -> Found:
    """Pictures of KDE's wallpapers are named after their size; the folder has the name."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file():
            inside = path.relative_to(root).parts
            title = inside[inside.index("contents") - 1] if "contents" in inside else path.stem
            yield path, {"en": f"{words(title)} wallpaper"}


def stamps(root: Path) -> Found:
    """Cut-outs with a sentence in many languages: English first, then lines of "language.utf8=…"."""
    for path in sorted(root.rglob("*.png")):
        sentences = path.with_suffix(".txt")
        if not sentences.is_file():
            continue
        first, *others = sentences.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        chinese = [line.partition("=")[2].strip() for line in others if line.startswith("zh_CN.utf8=")]
        yield path, {"en": first.strip(), **({"zh": chinese[0]} if chinese else {})}


def manual(english: Path, chinese: Path) -> Found:
    """Figures of GIMP's manual: the title of each picture in the English and the Chinese pages."""
    roots = {"en": english / "usr/share/gimp/2.0/help/en", "zh": chinese / "usr/share/gimp/2.0/help/zh_CN"}
    captions: dict[str, dict[str, str]] = {}
    for language, root in roots.items():
        for page in sorted(root.glob("*.html")):
            text = page.read_text(encoding="utf-8", errors="replace")
            for source, alt in re.findall(r'<img src="(images/[^"]+)" alt="([^"]+)"', text):
                captions.setdefault(source, {}).setdefault(language, " ".join(alt.split()))
    for path, names in named(roots["en"], "images"):
        yield path, captions.get(path.relative_to(roots["en"]).as_posix(), names)


def furniture(root: Path, out: Path) -> Found:
    """Sweet Home 3D's catalogues: a zip each, with names of every object in English and Chinese."""
    for catalogue in sorted(root.rglob("*.sh3f")):
        with zipfile.ZipFile(catalogue) as archive:
            lists = {language: _names(archive, suffix) for language, suffix in (("en", ""), ("zh", "_zh_CN"))}
            for number, icon in sorted(_fields(archive, "", "icon").items()):
                member = icon.lstrip("/")
                if member in archive.namelist():
                    path = out / catalogue.stem / Path(member).name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(member))
                    yield path, {language: names[number] for language, names in lists.items() if number in names}


def _names(archive: zipfile.ZipFile, suffix: str) -> dict[str, str]:
    return _fields(archive, suffix, "name")


def _fields(archive: zipfile.ZipFile, suffix: str, field: str) -> dict[str, str]:
    """The lines "field#number=value" of a catalogue's properties; Java writes what is not ASCII as \\uXXXX."""
    member = f"PluginFurnitureCatalog{suffix}.properties"
    if member not in archive.namelist():
        return {}
    text = archive.read(member).decode("latin-1")
    found = re.findall(rf"^{field}#(\d+)=(.*)$", text, re.MULTILINE)
    return {number: re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), value).strip() for number, value in found}


def documents(root: Path, suffix: str, most: int) -> Found:
    """Up to ``most`` documents, evenly from all; their text is their caption, which ingesting finds."""
    every = sorted(path for path in root.rglob(f"*{suffix}") if path.is_file() and path.stat().st_size < 4_000_000)
    for number in range(min(most, len(every))):
        yield every[number * len(every) // min(most, len(every))], {}


def place(out: Path, found: Found) -> int:
    """Link every file into ``out`` under a name of its own, its captions beside it."""
    count = 0
    for path, captions in found:
        name = f"{count:05d}-{re.sub(r'[^A-Za-z0-9]+', '-', path.stem)[:60]}"
        target = out / f"{name}{path.suffix.lower()}"
        out.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            os.link(path.resolve(), target)  # a package may link to its own files
        if captions:
            (out / f"{name}.json").write_text(json.dumps(captions, ensure_ascii=False), encoding="utf-8")
        count += 1
    return count


def pages(root: Path, out: Path, most: int) -> int:
    """HTML pages need the files beside them, so their folder is linked whole and the pages that are too many are left out."""
    every = sorted(root.glob("*.html"))
    chosen = {every[number * len(every) // min(most, len(every))] for number in range(min(most, len(every)))}
    for path in sorted(root.rglob("*")):
        if path.is_file() and (path.suffix != ".html" or path in chosen) and path.suffix.lower() not in PICTURES:
            target = out / path.relative_to(root)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                os.link(path.resolve(), target)
    return len(chosen)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("unpacked", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--documents", type=int, default=30)
    parser.add_argument("--pages", type=int, default=60)
    given = parser.parse_args()
    root, out = given.unpacked, given.out
    handbook = root / "debian-handbook/usr/share/doc/debian-handbook/html"
    sources: dict[str, Callable[[], int]] = {
        "endless-sky": lambda: place(
            out / "endless-sky",
            named(root / "endless-sky-data/usr/share/games/endless-sky/images", "land", "scene", "ship", "outfit", "planet"),
        ),
        "stamps": lambda: place(out / "stamps", stamps(root / "tuxpaint-stamps-default")),
        "manual": lambda: place(out / "manual", manual(root / "gimp-help-en", root / "gimp-help-zh-cn")),
        "furniture": lambda: place(out / "furniture", furniture(root / "sweethome3d-furniture", out / ".furniture")),
        "handbook-figures": lambda: place(out / "handbook-figures", named(handbook)),
        "astronomy": lambda: place(out / "astronomy", named(root / "kstars-data/usr/share")),
        "vocabulary": lambda: place(out / "vocabulary", named(root / "parley-data/usr/share")),
        "wallpapers": lambda: place(
            out / "wallpapers",
            (
                each
                for package in sorted(root.glob("*wallpapers*")) + sorted(root.glob("*backgrounds*"))
                for each in wallpapers(package)
            ),
        ),
        "documents": lambda: place(out / "documents", documents(root / "texlive-lang-chinese", ".pdf", given.documents)),
        "pages-en": lambda: pages(handbook / "en-US", out / "pages-en", given.pages),
        "pages-zh": lambda: pages(handbook / "zh-CN", out / "pages-zh", given.pages),
        "pages-ui": lambda: pages(root / "sb-admin-2/package", out / "pages-ui", given.pages),
    }
    for name, make in sources.items():
        print(f"{name}: {make()}", flush=True)


if __name__ == "__main__":
    main()
