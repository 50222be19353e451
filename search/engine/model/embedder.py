from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from PIL import Image

from search.engine.model.passport import ModelPassport
from search.engine.model.transform import Pixels
from search.engine.pictures.borders import inside_borders
from search.engine.pictures.crop import Crop
from search.engine.pictures.decode import open_image
from search.engine.pictures.gates import ONE_LARGE, Gate
from search.engine.pictures.hashes import perceptual_hash
from search.engine.vectors import Vectors


class Embedder(Protocol):
    """A picture becomes a vector in two steps, so that several can be prepared for one run of the model.

    Both are safe to call from many threads.
    """

    @property
    def passport(self) -> ModelPassport: ...

    @property
    def libraries(self) -> dict[str, str]:
        """The versions of the libraries that compute the vectors."""
        ...

    @property
    def min_side(self) -> int:
        """What open_image is to be told before prepare, for queries and builds alike: it alters the vectors."""
        ...

    @property
    def preparation(self) -> str:
        """What names open_image and prepare as they are today: see search.engine.model.preparation."""
        ...

    @property
    def pictures_a_run(self) -> int:
        """How many pictures embed() takes best at once, where many are to be embedded."""
        ...

    def prepare(self, image: Image.Image) -> Pixels:
        """Return an RGB picture as the model's input, uint8 [side, side, 3]."""
        ...

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        """Return one unit vector a prepared picture, in their order, float32 [len(batch), 960]."""
        ...


def read_prepared(
    embedder: Embedder,
    source: Path | BinaryIO,
    *,
    name: str,
    max_pixels: int,
    crop: Crop | None = None,
    gate: Gate = ONE_LARGE,
) -> Pixels:
    """Return a picture file, or a part of it, as the model's input, read alike for queries and for builds.

    name, crop, gate and the errors are those of open_image.
    """
    image = open_image(source, name=name, max_pixels=max_pixels, min_side=embedder.min_side, crop=crop, gate=gate)
    return embedder.prepare(image)


def read_query(
    embedder: Embedder, source: Path | BinaryIO, *, name: str, max_pixels: int, gate: Gate = ONE_LARGE
) -> list[Pixels]:
    """Return a picture file as the model's input, as read_prepared does, and what is inside its borders if it has any.

    The catalogue may have it without the bars of a letterbox or the page of a screenshot.
    """
    image = open_image(source, name=name, max_pixels=max_pixels, min_side=embedder.min_side, gate=gate)
    inside = inside_borders(image)
    return [embedder.prepare(each) for each in ([image, image.crop(inside)] if inside else [image])]


@dataclass(frozen=True, slots=True)
class Hashed:
    """A picture that is to be indexed."""

    pixels: Pixels
    perceptual_hash: int


def read_hashed(
    embedder: Embedder, source: Path | BinaryIO, *, name: str, max_pixels: int, gate: Gate = ONE_LARGE
) -> Hashed:
    """Return a picture file as the model's input, as read_prepared does, and its perceptual hash."""
    image = open_image(source, name=name, max_pixels=max_pixels, min_side=embedder.min_side, gate=gate)
    return Hashed(embedder.prepare(image), perceptual_hash(image))
