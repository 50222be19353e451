"""What pictures are made before the model sees them: when that changes, builds must learn of it."""

import hashlib
from io import BytesIO
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageDraw

from search.engine.model.preparation import MIN_DECODED_SIDE, PREPARATION
from search.engine.model.transform import TRANSFORMS
from search.engine.model.weights import _fingerprint, builtin_weights
from search.engine.pictures.decode import open_image

# By the text of the preparation, of the released ones too: an entry never changes.
PINNED: dict[str, dict[str, str]] = {
    "resized to the crop at once, JPEGs decoded to 448, white on #808080": {
        "small.jpg": "122ae9c4543a84b2",
        "tall.jpg": "c3ce4c5cf5e8aecf",
        "camera.jpg": "0aaf8d2730836a7c",
        "opaque.png": "a6fc8fda2127a8cc",
        "disc.png": "934b061297f8e05b",
        "white-logo.png": "124952490856c492",
    }
}


def scene(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return a drawing with soft and hard edges, and with shades; its own alpha, if any, is a disc."""
    across, down = np.meshgrid(np.arange(width) * 5120 // width, np.arange(height) * 3600 // height)
    waves = [abs((shift * across + (4 - shift) * down) % 510 - 255) for shift in (1, 2, 3)]
    picture = Image.fromarray(np.stack(waves, axis=2).astype(np.uint8))
    ImageDraw.Draw(picture).rectangle((width // 5, height // 5, width // 3, height // 2), "navy")
    if mode == "RGBA":
        disc = Image.new("L", picture.size)
        ImageDraw.Draw(disc).ellipse((0, 0, width - 1, height - 1), 255)
        picture.putalpha(disc)
    return picture


def white_logo() -> Image.Image:
    logo = Image.new("RGBA", (300, 200), (255, 255, 255, 0))
    ImageDraw.Draw(logo).polygon([(20, 180), (150, 20), (280, 180)], "white")
    return logo


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    data = BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


PICTURES = {
    "small.jpg": lambda: encoded(scene(500, 333), "JPEG", quality=90),
    "tall.jpg": lambda: encoded(scene(400, 800), "JPEG", quality=90),
    "camera.jpg": lambda: encoded(scene(2400, 1800), "JPEG", quality=80),
    "opaque.png": lambda: encoded(scene(320, 480), "PNG"),
    "disc.png": lambda: encoded(scene(320, 280, "RGBA"), "PNG"),
    "white-logo.png": lambda: encoded(white_logo(), "PNG"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_other_pixels_come_with_another_name_of_the_preparation(name: str) -> None:
    image = open_image(BytesIO(PICTURES[name]()), name=name, max_pixels=10**7, min_side=MIN_DECODED_SIDE)
    pixels = TRANSFORMS["IMAGENET1K_V1"].apply(image)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
    assert PINNED.get(PREPARATION, {}).get(name) == digest, (
        f"What {name} becomes changed. Give PREPARATION in search/engine/model/preparation.py another text, so that "
        "builds embed all pictures again, and pin its digests here as a new entry. If only Pillow is another "
        f"({PIL.__version__} here), pin them in place of the old ones: builds then compare a few vectors by themselves"
    )


def test_fingerprints_are_those_of_every_index_there_is() -> None:
    made_of_zeros = "0" * 64  # the digest of a weights file
    assert builtin_weights().passport.fingerprint == "eab324cb0d147433e44814dab7519b79b3606fa21b9a8f766291fead2cb096c7"
    assert {name: _fingerprint(made_of_zeros, transform)[:16] for name, transform in TRANSFORMS.items()} == {
        "IMAGENET1K_V1": "65135d909f0c408a",
        "IMAGENET1K_V2": "026e7717e85f6a23",
    }
