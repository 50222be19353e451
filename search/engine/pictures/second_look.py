"""Whether two pictures show the same, by looking at both: one may be part of the other, mirrored, turned or stretched.

Small grey pictures without their slow changes of light are laid over each other in many sizes and places; the best
agreement counts. What is only alike, such as two shoes of a kind, does not agree in its edges.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from search.engine.errors import ImageUnreadable, PathRefused
from search.engine.pictures.borders import inside_borders

MIN_SIDE = 128  # pixels of the shorter side that are looked at

_SIDE = 64  # of the longer side, laid over each other
_BLUR = 4.0  # pixels; what changes more slowly is light
_MARGIN = 2  # pixels of a laid picture that the blur has made otherwise than in the whole
_SCALES = tuple(float(scale) for scale in np.geomspace(1.0, 0.42, num=12))
_TURNS = (-9.0, -6.0, -3.0, 3.0, 6.0, 9.0)  # degrees
_TURNED_SCALES = (1.0, 0.88)
_TURNED_PART = 0.6  # of a turned picture, from its middle: the rest shows corners
_LEAST_DETAIL = 1.5  # of 255: the standard deviation of what is laid; less is nothing that could agree
_KEPT = 256  # pictures whose views are kept: 25 MB

Grey = npt.NDArray[np.float32]  # [height, width]
Picture = TypeVar("Picture", bound=Hashable)


@dataclass(frozen=True, slots=True)
class View:
    """A picture as it is looked at."""

    whole: Grey  # [at most 64, at most 64], without slow changes
    square: Grey  # [64, 64], stretched
    parts: list[Grey]  # smaller ones, by scale, to be laid over others
    turned: list[Grey]  # the middles of turned ones


class Looks(Generic[Picture]):
    """Looks at pairs of pictures, and remembers the last pictures it has read."""

    def __init__(self, open_picture: Callable[[Picture], Image.Image]) -> None:
        """open_picture: returns a picture as RGB; OSError, PathRefused and ImageUnreadable mean that it cannot."""
        self._open = open_picture
        self._views: OrderedDict[Picture, View | None] = OrderedDict()

    def agreement(self, one: Picture, other: Picture) -> float:
        """Return how well two pictures agree at best, -1..1; NaN where one cannot be read."""
        views = self._view(one), self._view(other)
        return float("nan") if views[0] is None or views[1] is None else agreement(views[0], views[1])

    def _view(self, picture: Picture) -> View | None:
        if picture not in self._views:
            try:
                self._views[picture] = view(self._open(picture))
            except (OSError, PathRefused, ImageUnreadable):
                self._views[picture] = None
            if len(self._views) > _KEPT:
                self._views.popitem(last=False)
        self._views.move_to_end(picture)
        return self._views[picture]


def view(image: Image.Image) -> View:
    """Return what is looked at of a picture, without its borders. image: mode RGB."""
    box = inside_borders(image)
    grey = (image.crop(box) if box else image).convert("L")
    grey = grey.resize(
        _fitted(grey.size, 2 * _SIDE), Image.Resampling.BOX if max(grey.size) > 256 else Image.Resampling.BICUBIC
    )
    parts = [
        _sharp(_resized(grey, _fitted(grey.size, _SIDE * scale)))[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        for scale in _SCALES
    ]
    turned = [
        _middle(_sharp(_resized(grey.rotate(turn, Image.Resampling.BICUBIC), _fitted(grey.size, _SIDE * scale))))
        for turn in _TURNS
        for scale in _TURNED_SCALES
    ]
    return View(
        _sharp(_resized(grey, _fitted(grey.size, _SIDE))), _sharp(_resized(grey, (_SIDE, _SIDE))), parts, turned
    )


def agreement(one: View, other: View) -> float:
    """Return the highest normalised correlation of what is laid over each other, -1..1."""
    inner = one.square[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    squares = [np.rot90(inner, turns) for turns in range(4)]
    best = _best(other.square, _mirrored_too(squares))
    for laid, ground in ((one, other), (other, one)):
        best = max(best, _best(ground.whole, _mirrored_too(laid.parts + laid.turned)))
    return best


def _fitted(size: tuple[int, int], side: float) -> tuple[int, int]:
    """Return a size of the same shape whose longer side is this."""
    return max(8, round(side * size[0] / max(size))), max(8, round(side * size[1] / max(size)))


def _resized(grey: Image.Image, size: tuple[int, int]) -> Image.Image:
    return grey.resize(size, Image.Resampling.BICUBIC if size > grey.size else Image.Resampling.LANCZOS)


def _sharp(grey: Image.Image) -> Grey:
    """Return the picture without its slow changes of light."""
    slow = grey.filter(ImageFilter.GaussianBlur(_BLUR))
    return np.asarray(grey, np.float32) - np.asarray(slow, np.float32)


def _middle(grey: Grey) -> Grey:
    down, across = (round(side * (1 - _TURNED_PART) / 2) for side in grey.shape)
    return grey[down : grey.shape[0] - down, across : grey.shape[1] - across]


def _mirrored_too(pictures: Sequence[Grey]) -> list[Grey]:
    return [*pictures, *(picture[:, ::-1] for picture in pictures)]


def _best(ground: Grey, laid: Sequence[Grey]) -> float:
    """Return the highest normalised correlation of any of some pictures with what lies below it on the ground."""
    import scipy.fft  # late: see hashes.py

    fitting = [
        each - each.mean()
        for each in laid
        if each.shape[0] <= ground.shape[0] and each.shape[1] <= ground.shape[1] and each.std() >= _LEAST_DETAIL
    ]
    if not fitting:
        return -1.0
    stack = np.zeros((len(fitting), _SIDE, _SIDE), np.float32)
    for place, each in enumerate(fitting):
        stack[place, : each.shape[0], : each.shape[1]] = each / np.linalg.norm(each)
    spectrum = scipy.fft.rfft2(ground, (_SIDE, _SIDE))
    products = scipy.fft.irfft2(spectrum * np.conj(scipy.fft.rfft2(stack)), (_SIDE, _SIDE))  # [laid, 64, 64]
    lengths = _Lengths(ground)
    return max(
        float((found[: places.shape[0], : places.shape[1]] / places).max())
        for found, places in zip(products, (lengths.of(each.shape) for each in fitting), strict=True)
    )


class _Lengths:
    """How long the parts of a ground are, as vectors whose mean is taken off."""

    def __init__(self, ground: Grey) -> None:
        self._sums, self._squares = (
            np.pad(np.cumsum(np.cumsum(values, 0, np.float64), 1), ((1, 0), (1, 0))) for values in (ground, ground**2)
        )
        self._known: dict[tuple[int, ...], Grey] = {}

    def of(self, shape: tuple[int, ...]) -> Grey:
        """Return the length at each place where a picture of this shape can lie."""
        if shape not in self._known:
            sums, squares = (
                table[shape[0] :, shape[1] :]
                - table[: -shape[0], shape[1] :]
                - table[shape[0] :, : -shape[1]]
                + table[: -shape[0], : -shape[1]]
                for table in (self._sums, self._squares)
            )
            count = shape[0] * shape[1]
            least = _LEAST_DETAIL * np.sqrt(count)
            self._known[shape] = np.maximum(np.sqrt(np.maximum(squares - sums**2 / count, 0)), least).astype(np.float32)
        return self._known[shape]
