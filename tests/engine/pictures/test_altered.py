"""Copies of pictures, altered as those that people search with are."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from search.engine.pictures.altered import LONGEST_SIDE, altered_copy


def picture(width: int = 160, height: int = 120) -> Image.Image:
    """Return one that is dark and red at its left and light and blue at its right."""
    across = np.linspace(0, 255, width, dtype=np.uint8)[np.newaxis, :].repeat(height, axis=0)
    return Image.fromarray(np.dstack([255 - across, across // 2, across]))


def opened(copy: BytesIO) -> Image.Image:
    return Image.open(copy).convert("RGB")


def test_a_seed_gives_the_same_copy_each_time_and_another_seed_another() -> None:
    assert altered_copy(picture(), seed="a").getvalue() == altered_copy(picture(), seed="a").getvalue()
    assert altered_copy(picture(), seed="a").getvalue() != altered_copy(picture(), seed="b").getvalue()


def test_copies_are_small_and_of_about_the_same_shape() -> None:
    for seed in range(12):
        width, height = opened(altered_copy(picture(), seed=str(seed))).size
        assert 150 <= max(width, height) <= LONGEST_SIDE
        assert width / height == pytest.approx(4 / 3, rel=0.05)


def test_about_half_of_the_copies_are_mirrored() -> None:
    mirrored = 0
    for seed in range(24):
        pixels = np.asarray(opened(altered_copy(picture(), seed=str(seed)))).astype(int)
        mirrored += pixels[:, :20, 2].mean() > pixels[:, -20:, 2].mean()
    assert 6 <= mirrored <= 18


def test_no_copy_has_empty_corners_though_many_are_turned() -> None:
    white = Image.new("RGB", (300, 200), "white")
    for seed in range(20):
        pixels = np.asarray(opened(altered_copy(white, seed=str(seed))))
        assert pixels.min() > 100


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 1), (8, 8)])
def test_tiny_and_narrow_pictures_have_copies_too(size: tuple[int, int]) -> None:
    for seed in range(6):
        assert max(opened(altered_copy(picture(*size), seed=str(seed))).size) <= LONGEST_SIDE
