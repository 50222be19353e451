"""A part of a picture, as callers name it."""

import re
from dataclasses import dataclass
from math import ceil

from search.engine.errors import CropRefused

MIN_CROP_SIDE = 16  # pixels of the picture as it is; of less nothing can be told

_FRACTION = re.compile(r"[01](?:\.[0-9]{0,30})?|\.[0-9]{1,30}")
_NOISE = 1e-6  # what rounding adds to x + width


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle in fractions, 0 to 1, of the upright picture, from its upper left corner."""

    x: float
    y: float
    width: float
    height: float

    @classmethod
    def parse(cls, text: str) -> "Crop":
        """Return the crop that x,y,width,height name. Raises CropRefused."""
        numbers = text.split(",", 4)
        if len(numbers) != 4 or not all(map(_FRACTION.fullmatch, numbers)):
            raise CropRefused(
                "crop must be x,y,width,height, four fractions from 0 to 1 of the upright picture: 0.25,0.1,0.5,0.4"
            )
        x, y, width, height = map(float, numbers)
        if width <= 0 or height <= 0:
            raise CropRefused("crop must have a width and a height of more than 0")
        if x >= 1 or y >= 1 or x + width > 1 + _NOISE or y + height > 1 + _NOISE:
            raise CropRefused("crop must lie inside the picture: x + width and y + height are at most 1")
        return cls(x, y, min(width, 1 - x), min(height, 1 - y))

    def require_pixels(self, size: tuple[int, int]) -> None:
        """Raise CropRefused where too few pixels are left of an upright picture of this size; all of it is enough."""
        left, top, right, bottom = self.box(size)
        kept = right - left, bottom - top
        if min(kept) < MIN_CROP_SIDE and kept != size:
            raise CropRefused(
                f"crop leaves {kept[0]} x {kept[1]} pixels of {size[0]} x {size[1]}: "
                f"at least {MIN_CROP_SIDE} x {MIN_CROP_SIDE} are needed"
            )

    def box(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom, in pixels of an upright picture of this size."""
        width, height = size
        left, top = round(self.x * width), round(self.y * height)
        return left, top, round((self.x + self.width) * width), round((self.y + self.height) * height)

    def whole_size(self, side: int) -> tuple[int, int]:
        """Return how large an upright picture is, at least, whose crop has no side shorter than side."""
        return ceil(side / self.width), ceil(side / self.height)
