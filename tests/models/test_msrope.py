"""MSRoPE against positions written down by hand and angles from the definition."""

from __future__ import annotations

import math

import torch

from glyphflow.models.msrope import joint_positions, rotate, rotate_real, rotation_table, text_start

CPU = torch.device("cpu")


def test_positions_of_an_even_image_are_centred_and_text_follows_on_the_diagonal() -> None:
    positions = joint_positions(((1, 2, 4),), 3).tolist()
    assert positions[:3] == [[2, 2, 2], [3, 3, 3], [4, 4, 4]]
    assert positions[3:] == [[0, -1, c] for c in (-2, -1, 0, 1)] + [[0, 0, c] for c in (-2, -1, 0, 1)]


def test_odd_sizes_have_one_more_negative_position_and_text_starts_at_the_half_rounded_down() -> None:
    positions = joint_positions(((1, 3, 3),), 1).tolist()
    assert positions[0] == [1, 1, 1]
    assert [p[1:] for p in positions[1:]] == [[r, c] for r in (-2, -1, 0) for c in (-2, -1, 0)]


def test_references_take_the_next_frames_and_the_largest_image_pushes_the_text() -> None:
    shapes = ((1, 2, 2), (2, 1, 10), (1, 5, 1))
    positions = joint_positions(shapes, 1)
    assert text_start(shapes) == 5
    assert positions[1:, 0].tolist() == [0] * 4 + [1] * 10 + [2] * 10 + [2] * 5


def test_table_holds_the_angles_of_the_definition() -> None:
    table = torch.view_as_complex(rotation_table(((1, 2, 2),), 1, (2, 4, 4), CPU))
    text = [1.0, 1.0, 0.01, 1.0, 0.01]  # position 1 on each axis; frequencies 10000 ** (-2 j / d)
    first_pixel = [0.0, -1.0, -0.01, -1.0, -0.01]
    for row, angles in ((0, text), (1, first_pixel)):
        expected = torch.tensor([complex(math.cos(a), math.sin(a)) for a in angles])
        torch.testing.assert_close(table[row], expected)


def test_positions_go_on_where_tables_of_4096_end() -> None:
    assert rotation_table(((1, 83, 83),), 5000, (2, 2, 2), CPU).shape == (5000 + 83 * 83, 3, 2)


def test_rotation_turns_adjacent_pairs_and_keeps_the_dtype() -> None:
    x = torch.tensor([1.0, 0.0, 0.0, 2.0]).reshape(1, 1, 1, 4)
    table = torch.view_as_real(torch.tensor([[1j, -1.0 + 0j]]))
    assert rotate(x, table).flatten().tolist() == [0.0, 1.0, 0.0, -2.0]
    assert rotate(x.bfloat16(), table).dtype == torch.bfloat16


def test_scores_depend_on_distance_only() -> None:
    """The point of rotary positions: shifting query and key together changes nothing."""
    table = rotation_table(((1, 1, 1),), 9, (4, 4, 4), CPU)
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 9, 1, 12, generator=generator)
    q, k = q[:, :1].expand(-1, 9, -1, -1), k[:, :1].expand(-1, 9, -1, -1)
    q, k = rotate(q, table[:9]), rotate(k, table[:9])
    scores = torch.einsum("bshd,bshd->s", q[:, 2:], k[:, :-2])
    torch.testing.assert_close(scores, scores[:1].expand_as(scores))


def test_layers_count_up_and_the_picture_they_come_from_stands_before_them() -> None:
    shapes = [(1, 1, 1)] * 4
    assert joint_positions(shapes, 1, layered=True)[:, 0].tolist() == [3, 0, 1, 2, -1]
    assert text_start(shapes, layered=True) == 3 and text_start([(1, 9, 1)] * 4, layered=True) == 4


def test_rotation_without_complex_numbers_is_the_same_rotation() -> None:
    table = rotation_table(((1, 5, 3),), 9, (4, 4, 4), CPU)
    x = torch.randn(2, 24, 3, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(rotate_real(x, table), rotate(x, table), atol=5e-7, rtol=0)
    assert rotate_real(x.bfloat16(), table).dtype == torch.bfloat16
