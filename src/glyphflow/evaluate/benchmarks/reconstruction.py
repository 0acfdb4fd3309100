"""What an autoencoder loses: each picture of a folder against its reconstruction.

PSNR and SSIM on RGB in [0, 1], one value a picture, averaged; the published table does not say whether it did the same. For
text, whose loss these numbers hardly see, the same judge reads both pictures, and the agreement of the readings is measured:
character agreement is 1 - Levenshtein / longer length without spaces, weighted by length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from glyphflow.core.errors import InputError
from glyphflow.evaluate.benchmark import Benchmark, Metric, Sample, SampleScore, ratio
from glyphflow.evaluate.benchmarks.shared import chunks, failed_row, file_id, first_failure, good, lines_of, metric
from glyphflow.evaluate.benchmarks.texts import unique
from glyphflow.evaluate.benchmarks.views import similarity_metrics, similarity_row
from glyphflow.evaluate.case import Verdict
from glyphflow.evaluate.folder import SUFFIXES
from glyphflow.evaluate.metrics.normalise import NORMALISATION, letters
from glyphflow.evaluate.metrics.strings import levenshtein
from glyphflow.evaluate.question import Question


class Reconstruction(Benchmark):
    """The pictures of the folder ``data``, at the size that the autoencoder gets them (sides of a multiple of 16 pixels).

    With ``text`` the judge reads every picture and its reconstruction, too.
    """

    version = "1"
    licence = "data of the user"
    kinds = frozenset({"pixels"})
    task = "reconstruct"

    def __init__(self, data: Path | None = None, *, text: bool = False) -> None:
        self.name, self._text = "vae-text" if text else "vae", text
        self.kinds = frozenset({"pixels", "ocr"} if text else {"pixels"})
        if data is None or not Path(data).is_dir():
            found = "none was named" if data is None else f"{data} is none"
            raise InputError(f"{self.name} needs a folder of pictures, and {found}; give --data such a folder.")
        files = sorted(
            path for path in Path(data).iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        if not files:
            raise InputError(f"{data} holds no picture ({', '.join(SUFFIXES)}).")
        stems = Counter(file_id(path.stem).casefold() for path in files)
        names = [file_id(path.stem if stems[file_id(path.stem).casefold()] == 1 else path.name) for path in files]
        self._samples = unique([Sample(name, "", (), {}, (path,)) for name, path in zip(names, files, strict=True)], str(data))

    def samples(self) -> tuple[Sample, ...]:
        return self._samples

    def cases(self, sample: Sample, pictures: Sequence[Path]) -> list[Question]:
        original, found = sample.references[0], []
        for path in pictures:
            found.append(Question(path.stem, "pixels", (path, original), {"measure": "similarity"}))
            if self._text:
                found += [Question(f"{path.stem}/read", "ocr", (path,)), Question(f"{path.stem}/original", "ocr", (original,))]
        return found

    def score(self, sample: Sample, verdicts: Sequence[Verdict]) -> list[SampleScore]:
        rows = []
        for repeat, (pixels, *read) in enumerate(chunks(verdicts, 3 if self._text else 1)):
            rows.append(similarity_row(sample, repeat, pixels, "", "pixels"))
            if self._text:
                rows.append(agreement_row(sample, repeat, read))
        return rows

    def aggregate(self, rows: Sequence[SampleScore]) -> list[Metric]:
        found = similarity_metrics([row for row in rows if row.part == "pixels"])
        if self._text:
            read = [row for row in rows if row.part == "text"]
            how = f"1 - Levenshtein / longer length of the readings of both pictures ({NORMALISATION}), length-weighted"
            found.append(metric("character_agreement", how, ratio(row.values["counts"] for row in good(read)), read))
        return found


def agreement_row(sample: Sample, repeat: int, verdicts: Sequence[Verdict]) -> SampleScore:
    """[characters that agree, longer length] of the readings of a reconstruction and of the original."""
    if (failure := first_failure(verdicts)) is not None:
        return failed_row(sample, repeat, failure, part="text")
    a, b = (letters(" ".join(lines_of(verdict)), casefold=False) for verdict in verdicts)
    longer = max(len(a), len(b))
    same = longer - levenshtein(a, b)
    values = {"counts": [same, longer], "reading": lines_of(verdicts[0]), "original": lines_of(verdicts[1])}
    return SampleScore(sample.id, repeat, "ok", "text", "", same / longer if longer else 1.0, values)
