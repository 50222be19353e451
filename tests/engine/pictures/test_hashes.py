import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from search.engine.pictures.hashes import BLANK, perceptual_hash
from tests.support.drawing import scene


def distance(one: Image.Image, other: Image.Image) -> int:
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


def as_jpeg(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


@pytest.mark.parametrize(
    "edit",
    [
        lambda picture: picture.resize((80, 60)),
        lambda picture: picture.resize((1600, 1200)),
        lambda picture: as_jpeg(picture, 30),
        lambda picture: picture.point(lambda level: level * 0.8),
    ],
)
def test_copies_in_other_sizes_and_qualities_differ_in_a_few_bits(
    edit: Callable[[Image.Image], Image.Image],
) -> None:
    assert distance(scene(1), edit(scene(1))) <= 4


def test_other_pictures_differ_in_many_bits() -> None:
    assert min(distance(scene(one), scene(other)) for one in range(5) for other in range(one)) > 10


@pytest.mark.parametrize("colour", ["white", "black", (120, 30, 200)])
def test_a_picture_of_one_colour_is_blank_also_with_the_noise_of_its_file(colour: str) -> None:
    plain = Image.new("RGB", (300, 200), colour)
    grain = np.random.default_rng(0).integers(-3, 4, size=(200, 300, 3))
    noisy = Image.fromarray(np.clip(np.asarray(plain) + grain, 0, 255).astype(np.uint8))
    assert perceptual_hash(plain) == perceptual_hash(as_jpeg(noisy, 50)) == BLANK


def test_a_pale_product_on_white_is_not_blank() -> None:
    picture = Image.new("RGB", (300, 200), "white")
    picture.paste((232, 232, 232), (100, 60, 200, 140))
    assert perceptual_hash(picture) != BLANK
