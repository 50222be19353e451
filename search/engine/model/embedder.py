from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.engine.model.transform import Pixels
from search.engine.pictures.decode import open_image

MODEL = "MobileNetV3-Large"
DIMENSION = 960
UNTRAINED = "untrained"

Vector = npt.NDArray[np.float32]  # [960], unit length
Vectors = npt.NDArray[np.float32]  # [N, 960], rows of unit length


@dataclass(frozen=True, slots=True)
class ModelPassport:
    """Which model made a vector: vectors of two fingerprints are never compared."""

    weights: str  # a torchvision weights entry, a file's name, or "untrained"
    fingerprint: str  # hex digest over architecture, weights and transform

    def __str__(self) -> str:
        return f"{self.weights} ({self.fingerprint[:12]})"


class Embedder(Protocol):
    """A picture becomes a vector in two steps, so that builds can prepare pictures beside the model.

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

    def prepare(self, image: Image.Image) -> Pixels:
        """Return an RGB picture as the model's input, uint8 [side, side, 3]."""
        ...

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        """Return one unit vector a prepared picture, in their order, float32 [len(batch), 960]."""
        ...


def read_prepared(embedder: Embedder, source: Path | BinaryIO, *, name: str, max_pixels: int) -> Pixels:
    """Return a picture file as the model's input, read alike for queries and for builds.

    name and the errors are those of open_image.
    """
    return embedder.prepare(open_image(source, name=name, max_pixels=max_pixels, min_side=embedder.min_side))


def unit_length(vectors: Vectors) -> Vectors:
    """Return the rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
