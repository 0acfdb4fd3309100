"""Numbers that people give are finite and in range, or a sentence says which is not."""

import math

import numpy as np
import pytest

from glyphflow.core.errors import InputError
from glyphflow.core.numbers import checked, whole


def test_numbers_in_range_are_given_back() -> None:
    assert checked(0.5, "x", 0, 1) == 0.5 and checked(-3, "x") == -3
    assert whole(3, "x", 1, 5) == 3 and whole(np.int64(3), "x", 1, 5) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 2, "1", None, 10**400])
def test_others_are_named_with_their_limits(value: float) -> None:
    with pytest.raises(InputError, match=r"strength is .* must be from 0 to 1; more is noise"):
        checked(value, "strength", 0, 1, "more is noise")


def test_one_sided_limits() -> None:
    with pytest.raises(InputError, match="at least 3"):
        checked(2, "x", low=3)
    with pytest.raises(InputError, match="at most 3"):
        checked(4, "x", high=3)
    with pytest.raises(InputError, match="a finite number"):
        checked(math.inf, "x")


@pytest.mark.parametrize("value", [0, 6, 2.0, math.nan, True, "3", None, 10**400])
def test_whole_numbers(value: int) -> None:
    with pytest.raises(InputError, match=r"steps is .* whole number from 1 to 5"):
        whole(value, "steps", 1, 5)
