"""The edits of the benchmark do what they are called."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from benchmarks.finding.edits import EDITS, altered, cropped, turned
from benchmarks.finding.scenes import off, pasted
from search.engine.pictures.crop import Crop

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)).resize((90, 120))


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_is_another_file_and_the_same_one_each_time(kind: str) -> None:
    files = [EDITS[kind](PICTURE, np.random.default_rng(1), [PICTURE] * 3) for _ in range(2)]
    assert files[0] == files[1]
    with Image.open(BytesIO(files[0])) as edited:
        assert edited.convert("RGB").tobytes() != PICTURE.tobytes()


def test_altered_pictures_differ_by_chance() -> None:
    rng = np.random.default_rng(1)
    assert altered(PICTURE, rng) != altered(PICTURE, rng)


def test_a_crop_has_the_share_of_the_area_that_it_says() -> None:
    part = cropped(PICTURE, np.random.default_rng(1), area=0.4)
    assert part.width * part.height == pytest.approx(0.4 * 90 * 120, rel=0.05)


def test_a_turned_picture_has_no_empty_corners() -> None:
    white = Image.new("RGB", (90, 120), "white")
    assert turned(white, np.random.default_rng(1), degrees=7).getextrema() == ((255, 255),) * 3


def test_a_product_lies_in_its_box_and_takes_its_share_of_the_scene() -> None:
    white, black = Image.new("RGB", (90, 120), "white"), Image.new("RGB", (400, 300), "black")
    scene, box = pasted(white, black, np.random.default_rng(1), area=0.1)
    assert box.width * box.height == pytest.approx(0.1, rel=0.02)
    assert scene.crop(box.box(scene.size)).getextrema() == ((255, 255),) * 3
    assert np.asarray(scene).mean() == pytest.approx(25.5, rel=0.02)


def test_a_box_that_is_off_stays_inside_the_picture() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        moved = off(Crop(0.7, 0, 0.3, 0.2), 0.15, rng)
        assert moved.x >= 0
        assert moved.y >= 0
        assert moved.x + moved.width <= 1
        assert moved.y + moved.height <= 1
        assert 0.7 * 0.3 <= moved.width <= 1.3 * 0.3
