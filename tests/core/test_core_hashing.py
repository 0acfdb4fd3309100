"""Seeds and fingerprints are fixed for all time: a changed one would change every corpus and every run."""

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from glyphflow.core.hashing import derive_seed, fingerprint, sha256_bytes, sha256_file


def test_known_values() -> None:
    expected = int.from_bytes(hashlib.sha256(b"str:noise\x1fint:7").digest()[:8], "little") >> 1
    assert derive_seed("noise", 7) == expected
    assert sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fingerprint({"b": 1, "a": [None, "字"]}) == sha256_bytes('{"a":[null,"字"],"b":1}'.encode())[:16]


def test_a_file_has_the_hash_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "f") == sha256_bytes(b"x" * 3_000_000)


@given(st.lists(st.one_of(st.integers(), st.text()), min_size=1, max_size=4))
def test_seeds_are_in_range_and_kinds_and_borders_count(parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63
    assert derive_seed(*parts, 1) != derive_seed(*parts, "1")
