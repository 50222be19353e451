"""Uniform borders of a picture: the bars of a letterbox, a frame, the page around a picture on a screenshot.

They lie on opposite sides, are of one colour each, and end in a straight edge: most of it differs from the border. The
plain ground of a product photograph ends nowhere in this way, and a wall or a sky hardly ever on two sides.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

_Sample = npt.NDArray[np.uint8]  # [3, lines, pixels]
_Colour = npt.NDArray[np.int16]  # [3, 1, 1]

_SIDE = 128  # lines and pixels that are looked at
_SAME = 16  # of 255 levels, in each channel: what a JPEG makes of one colour
_ALIKE = 24  # ... on both sides of it, near to an edge
_OUTLIERS = 0.05  # of the outermost line may be darker than its colour, and as much lighter
_PLAIN = 0.7  # of each further line: a clock, icons and words may lie in a border
_EDGE = 0.7  # of the first line inside a border is of another colour
_LEAST_REMOVED = 0.04  # of a side
_LEAST_KEPT = 0.2  # of a side
_ROUNDS = 3  # a status bar, then a page, then the bars of what is shown there

Box = tuple[int, int, int, int]  # left, top, right, bottom


def inside_borders(image: Image.Image) -> Box | None:
    """Return what of a picture lies inside its borders; None where it has none. image: mode RGB."""
    if not _may_have_borders(image):
        return None
    sample = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.NEAREST)).transpose(2, 0, 1)
    box = 0, 0, _SIDE, _SIDE
    for _ in range(_ROUNDS):
        inner = _inside(sample, box)
        if inner == box:
            break
        box = inner
    left, top, right, bottom = box
    across, down = right - left, bottom - top
    if min(across, down) > (1 - _LEAST_REMOVED) * _SIDE or min(across, down) < _LEAST_KEPT * _SIDE:
        return None
    # An edge lies somewhere between two lines of the sample: what may still be border is cut.
    width, height = image.width / _SIDE, image.height / _SIDE
    return (
        round((left + (left > 0) / 2) * width),
        round((top + (top > 0) / 2) * height),
        round((right - (right < _SIDE) / 2) * width),
        round((bottom - (bottom < _SIDE) / 2) * height),
    )


def _may_have_borders(image: Image.Image) -> bool:
    """Return whether two opposite sides are of one colour each: of most pictures a look at two lines tells."""
    width, height = image.size
    x, y = width // (2 * _SIDE), height // (2 * _SIDE)  # the sample's first line
    rows = (_line(image, (0, at, width, at + 1)) for at in (y, height - 1 - y))
    columns = (_line(image, (at, 0, at + 1, height)) for at in (x, width - 1 - x))
    return all(map(_is_plain, rows)) or all(map(_is_plain, columns))


def _line(image: Image.Image, box: Box) -> npt.NDArray[np.uint8]:
    """Return some pixels, [3, _SIDE], of a row or a column of a picture."""
    size = (_SIDE, 1) if box[3] - box[1] == 1 else (1, _SIDE)
    return np.asarray(image.resize(size, Image.Resampling.NEAREST, box)).reshape(_SIDE, 3).T


def _is_plain(line: npt.NDArray[np.uint8]) -> bool:
    """Return whether a line, [3, pixels], is of one colour, whatever its darkest and its lightest pixels are."""
    levels, left_out = np.sort(line), round(line.shape[1] * _OUTLIERS)
    return bool((levels[:, -1 - left_out] - levels[:, left_out]).max() <= _SAME)


def _inside(sample: _Sample, box: Box) -> Box:
    left, top, right, bottom = box
    part = sample[:, top:bottom, left:right]
    above, below = _borders(part)
    rows = part[:, above : part.shape[1] - below].swapaxes(1, 2)
    before, behind = _borders(rows)
    inner = rows[:, before : rows.shape[1] - behind].swapaxes(1, 2)
    if above and not _have_edges(inner, part[:, :, before : part.shape[2] - behind]):
        above = below = 0
    if before and not _have_edges(inner.swapaxes(1, 2), rows):
        before = behind = 0
    return left + before, top + above, right - behind, bottom - below


def _borders(lines: _Sample) -> tuple[int, int]:
    """Return how many of the first and of the last lines are borders; none at all unless both are."""
    if not (_is_plain(lines[:, 0]) and _is_plain(lines[:, -1])):
        return 0, 0
    above, below = (
        int(np.argmin(np.append(_alike(each, _colour(each[:, 0])) >= _PLAIN, False)))
        for each in (lines, lines[:, ::-1])
    )
    return (above, below) if above + below < lines.shape[1] else (0, 0)


def _have_edges(inner: _Sample, outer: _Sample) -> bool:
    """Return whether the first and the last lines inside borders differ from these. outer: the lines with borders."""
    first, last = _colour(outer[:, 0]), _colour(outer[:, -1])
    alike = _alike(inner[:, :2], first).min(), _alike(inner[:, -2:], last).min()
    return max(alike) <= 1 - _EDGE


def _colour(line: npt.NDArray[np.uint8]) -> _Colour:
    """Return the colour in the middle of those of a line, [3, pixels]."""
    return np.sort(line)[:, line.shape[1] // 2].astype(np.int16).reshape(3, 1, 1)


def _alike(lines: _Sample, colour: _Colour) -> npt.NDArray[np.float64]:
    """Return how much of each line has the colour."""
    return (np.abs(lines - colour).max(axis=0) <= _ALIKE).mean(axis=1)
