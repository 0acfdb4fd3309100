"""Networks opened on several threads at once leave transformers as it was."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

from tiny_encoders import siglip
from transformers import PreTrainedModel

from glyphflow.perception.alignment import DualEncoder

THREADS = 4


def test_threads_that_load_leave_transformers_as_it_was(tmp_path: Path) -> None:
    # Without a turn for each, the methods that one thread's load replaces are put back by another's, as the replacements.
    siglip(tmp_path)
    before = (PreTrainedModel.tie_weights, PreTrainedModel.init_weights)
    together = Barrier(THREADS)

    def load(_: int) -> None:
        for _ in range(5):
            together.wait()
            DualEncoder(tmp_path)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(load, range(THREADS)))
    assert (PreTrainedModel.tie_weights, PreTrainedModel.init_weights) == before
