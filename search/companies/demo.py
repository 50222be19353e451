"""The pictures of the demo company: families that a person can tell apart by looking."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw

from search.runtime import DEMO

COMPANY = DEMO
VARIANTS = 13  # of each family: a search, which returns 10 by default, can stay inside it
SIDE = 320  # pixels, as saved
DRAWN = 2 * SIDE  # pixels, as drawn: halving smooths the edges

Colour = tuple[int, ...]
Points = Sequence[tuple[float, float]]
Field = NDArray[np.floating]  # [DRAWN, DRAWN]


def draw_demo_pictures(folder: Path) -> int:
    """Draw the pictures that folder still lacks; return how many it then has.

    The same bytes come out on every run. A run that is killed leaves whole
    pictures only, and the next one completes the folder.
    """
    for family in FAMILIES:
        (folder / family).mkdir(parents=True, exist_ok=True)
        for number in range(1, VARIANTS + 1):
            _draw_once(folder, family=family, number=number)
    return len(FAMILIES) * VARIANTS


def _draw_once(folder: Path, *, family: str, number: int) -> None:
    kind = "PNG" if number % 5 == 0 else "JPEG"
    name = f"{Path(family).name.lower()}-{number:02}.{'png' if kind == 'PNG' else 'jpg'}"
    path = folder / family / name
    if path.exists():
        return
    rng = np.random.default_rng(list(f"{family}/{number}".encode()))
    picture = FAMILIES[family](rng).resize((SIDE, SIDE), Image.Resampling.BOX)
    unfinished = path.with_name(f".{name}.part")  # no picture's extension: a build passes over it
    picture.save(unfinished, format=kind, quality=88)
    unfinished.replace(path)


# Colours and fields


def _tint(rng: Generator, colour: str, *, spread: int = 12) -> Colour:
    """Return colour, shifted a little so that no two variants are the same."""
    shifted = np.array(ImageColor.getrgb(colour)) + rng.integers(-spread, spread + 1, 3)
    return tuple(int(channel) for channel in shifted.clip(0, 255))


def _tints(rng: Generator, *colours: str) -> list[Colour]:
    return [_tint(rng, colour) for colour in colours]


def _colour_in(field: Field, colours: Sequence[Colour]) -> Image.Image:
    """Paint each value of field, 0..1, from the first colour to the last."""
    stops, levels = np.linspace(0, 1, len(colours)), np.linspace(0, 1, 256)
    table = np.stack([np.interp(levels, stops, channel) for channel in np.transpose(colours)], axis=1)
    return Image.fromarray(table.round().astype(np.uint8)[(field.clip(0, 1) * 255).astype(np.uint8)])


def _backdrop(rng: Generator, *colours: str) -> Image.Image:
    """Return a canvas that runs through the colours from top to bottom."""
    column = _colour_in(np.linspace(0, 1, DRAWN)[:, None], _tints(rng, *colours))
    return column.resize((DRAWN, DRAWN))


def _axes(degrees: float = 0) -> tuple[Field, Field]:
    """Return x and y of every pixel from the centre, -1..1, turned by degrees."""
    line = np.linspace(-1, 1, DRAWN, dtype=np.float32)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return line[None, :] * cos + line[:, None] * sin, line[:, None] * cos - line[None, :] * sin


def _noise(rng: Generator, *, across: int, down: int) -> Field:
    """Return soft random hills, 0..1, so many across and down."""
    grid = Image.fromarray(rng.random((down, across), dtype=np.float32))
    return np.asarray(grid.resize((DRAWN, DRAWN), Image.Resampling.BICUBIC))


@dataclass(frozen=True, slots=True)
class Pen:
    """Draws in units of its own size around its own centre, turned by angle; y points down."""

    canvas: Image.Image
    x: float = DRAWN / 2
    y: float = DRAWN / 2
    size: float = DRAWN / 2
    angle: float = 0  # radians

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill an outline; a fourth channel of colour lets the canvas shine through."""
        cos, sin = math.cos(self.angle) * self.size, math.sin(self.angle) * self.size
        placed = [(self.x + x * cos - y * sin, self.y + x * sin + y * cos) for x, y in points]
        ImageDraw.Draw(self.canvas, "RGBA").polygon(placed, fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour, *, height: float = 1) -> None:
        self.fill([(x + radius * a, y + radius * height * b) for a, b in _regular(60)], colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self.fill([(left, top), (right, top), (right, bottom), (left, bottom)], colour)


def _pen(rng: Generator, canvas: Image.Image, *, size: float, sway: float = 0.1) -> Pen:
    """Return a pen near the middle, about size wide (1: half the canvas), turned by up to sway."""
    x, y = DRAWN / 2 + rng.uniform(-0.09, 0.09, 2) * DRAWN
    return Pen(canvas, x, y, DRAWN / 2 * size * rng.uniform(0.82, 1.12), rng.uniform(-sway, sway))


# Outlines, about one unit around the centre


def _regular(corners: int) -> Points:
    turns = [2 * math.pi * corner / corners for corner in range(corners)]
    return [(math.sin(turn), -math.cos(turn)) for turn in turns]


def _star() -> Points:
    return [(x, y) if i % 2 == 0 else (x * 0.45, y * 0.45) for i, (x, y) in enumerate(_regular(10))]


def _heart() -> Points:
    turns = np.linspace(0, 2 * math.pi, 90)
    x = np.sin(turns) ** 3
    y = -(13 * np.cos(turns) - 5 * np.cos(2 * turns) - 2 * np.cos(3 * turns) - np.cos(4 * turns)) / 16
    return list(zip(x.tolist(), y.tolist(), strict=True))


# Families


def _shape(rng: Generator, *, outline: Points, colour: str, behind: tuple[str, str]) -> Image.Image:
    canvas = _backdrop(rng, *behind)
    for _ in range(rng.integers(4, 8)):
        x, y = rng.uniform(0, DRAWN, 2)
        small = Pen(canvas, x, y, DRAWN * rng.uniform(0.03, 0.07), rng.uniform(-3, 3))
        small.fill(outline, (*_tint(rng, colour), 110))
    large = _pen(rng, canvas, size=0.6, sway=0.5)
    Pen(canvas, large.x + 14, large.y + 18, large.size, large.angle).fill(outline, (0, 0, 0, 50))
    large.fill(outline, _tint(rng, colour, spread=20))
    large.fill([(x * 0.8, y * 0.8) for x, y in outline], (255, 255, 255, 40))
    return canvas


def _sunset(rng: Generator) -> Image.Image:
    canvas = _backdrop(rng, "#2b1b5a", "#a12f6d", "#f2703f", "#ffd27a")
    x, y = rng.uniform(0.25, 0.75) * DRAWN, rng.uniform(0.6, 0.75) * DRAWN
    for glow in range(6):
        Pen(canvas, x, y).disc(0, 0, 0.5 - 0.07 * glow, (255, 236, 170, 30 + 12 * glow))
    return canvas


def _deep(rng: Generator) -> Image.Image:
    x, y = _axes()
    distance = np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5)) / 1.5
    return _colour_in(distance, _tints(rng, "#c9fbf0", "#2fb5c7", "#14608f", "#0a2350"))


def _rainbow(rng: Generator) -> Image.Image:
    x, y = _axes(rng.uniform(-35, 35))
    turn = np.arctan2(y - rng.uniform(-0.2, 0.2), x - rng.uniform(-0.2, 0.2)) / (2 * math.pi) + 0.5
    wheel = ("#ff5d5d", "#ffb14a", "#fff06a", "#6fdc7c", "#4fc3f7", "#7a6cf0", "#e667c8", "#ff5d5d")
    return _colour_in(turn, [ImageColor.getrgb(colour) for colour in wheel])


def _stripes(rng: Generator) -> Image.Image:
    across, _ = _axes(rng.uniform(25, 65))
    band = across // rng.uniform(0.12, 0.2) % 3 / 2
    return _colour_in(band, _tints(rng, "#f25f5c", "#fff1d6", "#247ba0"))


def _checkerboard(rng: Generator) -> Image.Image:
    (x, y), square = _axes(rng.uniform(-12, 12)), rng.uniform(0.2, 0.32)
    return _colour_in((x // square + y // square) % 2, _tints(rng, "#22262e", "#f4f1ea"))


def _dots(rng: Generator) -> Image.Image:
    (x, y), step = _axes(rng.uniform(30, 60)), rng.uniform(0.24, 0.34)
    inside = np.hypot(x % step - step / 2, y % step - step / 2) < step * rng.uniform(0.26, 0.36)
    return _colour_in(inside.astype(np.float32), _tints(rng, "#f7a8c4", "#fffaf5"))


def _bricks(rng: Generator) -> Image.Image:
    canvas, high = _backdrop(rng, "#d9cfc3", "#cdc2b5"), rng.uniform(52, 76)
    wide, gap = high * 2.2, high * 0.06
    shift = rng.uniform(0, wide)
    for row in range(int(DRAWN / high) + 1):
        for column in range(-2, int(DRAWN / wide) + 2):
            left, top = (column + row % 2 / 2) * wide + shift, row * high
            brick = Pen(canvas, left, top, size=1)
            brick.box(gap, gap, wide - gap, high - gap, _tint(rng, "#ad4f38", spread=18))
            brick.box(gap, high - 4 * gap, wide - gap, high - gap, (60, 10, 0, 50))
    return canvas


def _wood(rng: Generator) -> Image.Image:
    rings = _noise(rng, across=3, down=5) * rng.uniform(5, 8)
    grain = 0.6 * (np.sin(rings * 2 * math.pi) / 2 + 0.5) + 0.4 * _noise(rng, across=8, down=160)
    canvas = _colour_in(grain, _tints(rng, "#a8713c", "#d9a566", "#eccb94"))
    for seam in range(1, 4):
        Pen(canvas, 0, seam * DRAWN / 4 + rng.uniform(-25, 25), size=1).box(0, -4, DRAWN, 4, (96, 58, 26))
    return canvas


def _waves(rng: Generator) -> Image.Image:
    canvas, length = _backdrop(rng, "#fdf3dc", "#fbdcae"), rng.uniform(70, 110)
    for layer in range(7):
        shift, base = rng.uniform(0, 6), DRAWN * (0.16 + 0.12 * layer)
        crest = [(x, base + 24 * math.sin(x / length * 2 + shift)) for x in range(0, DRAWN + 10, 10)]
        depth = 1 - layer / 6
        colour = tuple(int(a * depth + b * (1 - depth)) for a, b in ((150, 8), (215, 48), (225, 107)))
        Pen(canvas, 0, -9, size=1).fill([*crest, (DRAWN, DRAWN + 9), (0, DRAWN + 9)], (255, 255, 255))
        Pen(canvas, 0, 0, size=1).fill([*crest, (DRAWN, DRAWN), (0, DRAWN)], colour)
    return canvas


def _house(rng: Generator) -> Image.Image:
    canvas = _backdrop(rng, "#7cc4ee", "#d8f0fb")
    Pen(canvas, rng.uniform(60, 580), rng.uniform(60, 110)).disc(0, 0, 0.13, _tint(rng, "#ffdd66"))
    pen, dark = _pen(rng, canvas, size=0.58, sway=0), _tint(rng, "#5b4a44")
    pen.box(-9, 0.75, 9, 9, _tint(rng, "#6fb35a"))
    pen.box(0.4, -0.95, 0.62, -0.3, dark)
    pen.box(-0.85, -0.2, 0.85, 0.9, _tint(rng, "#f6e3c0", spread=18))
    pen.fill([(-1.05, -0.15), (0, -1.05), (1.05, -0.15)], _tint(rng, "#c8473d", spread=25))
    pen.box(-0.18, 0.3, 0.18, 0.9, dark)
    for x in (-0.55, 0.55):
        pen.box(x - 0.22, 0.08, x + 0.22, 0.5, (255, 255, 255))
        pen.box(x - 0.17, 0.13, x + 0.17, 0.45, _tint(rng, "#6db6d8"))
    return canvas


def _flower(rng: Generator) -> Image.Image:
    canvas, petals = _backdrop(rng, "#d9f2d0", "#a5d8a0"), int(rng.integers(7, 11))
    pen, colour = _pen(rng, canvas, size=0.62, sway=0.15), _tint(rng, "#d94fa0", spread=30)
    pen.box(-0.05, 0, 0.05, 2.5, _tint(rng, "#3d7f3a"))
    for side in (-1, 1):
        leaf = [(0, 1.5), (side * 0.35, 1.0), (side * 0.75, 0.95), (side * 0.45, 1.35)]
        pen.fill(leaf, _tint(rng, "#4f9a48"))
    for petal in range(petals):
        turned = Pen(canvas, pen.x, pen.y, pen.size, pen.angle + 2 * math.pi * petal / petals)
        turned.disc(0, -0.6, 0.24, colour, height=1.7)
        turned.disc(0, -0.55, 0.08, (255, 255, 255, 70), height=3)
    pen.disc(0, 0, 0.3, _tint(rng, "#f7c531"))
    return canvas


def _face(rng: Generator) -> Image.Image:
    canvas, ink = _backdrop(rng, "#b9a7f0", "#8f7be0"), (70, 45, 30)
    pen, smile = _pen(rng, canvas, size=0.72, sway=0.3), rng.uniform(0.25, 0.5)
    pen.disc(0.05, 0.07, 1, (40, 20, 90, 60))
    pen.disc(0, 0, 1, _tint(rng, "#ffd34d", spread=16))
    for x in (-0.36, 0.36):
        pen.disc(x, -0.25, 0.13, ink, height=rng.uniform(1.1, 1.6))
        pen.disc(x + 0.04, -0.33, 0.04, (255, 255, 255))
        pen.disc(x * 1.7, 0.15, 0.14, (255, 120, 90, 110))
    pen.fill([(0.52 * math.cos(t), 0.22 + smile * math.sin(t)) for t in np.linspace(0, math.pi, 40)], ink)
    return canvas


def _fish(rng: Generator) -> Image.Image:
    canvas = _backdrop(rng, "#5fd0e6", "#1668a8")
    for _ in range(rng.integers(6, 12)):
        Pen(canvas, *rng.uniform(0, DRAWN, 2)).disc(0, 0, rng.uniform(0.02, 0.06), (255, 255, 255, 90))
    pen, scales = _pen(rng, canvas, size=0.65, sway=0.3), _tint(rng, "#ff8a2b", spread=18)
    fins = _tint(rng, "#e85d1c")
    pen.fill([(-0.6, 0), (-1.15, -0.5), (-1.0, 0), (-1.15, 0.5)], fins)
    pen.fill([(-0.4, -0.4), (0, -0.85), (0.35, -0.4)], fins)
    pen.disc(0.1, 0, 0.85, scales, height=0.6)
    for x in (-0.25, 0.2):
        pen.disc(x, 0, 0.1, (255, 255, 255, 230), height=4.2)
    pen.disc(0.6, -0.12, 0.12, (255, 255, 255))
    pen.disc(0.63, -0.12, 0.06, (20, 20, 30))
    return canvas


def _balloon(rng: Generator) -> Image.Image:
    canvas = _backdrop(rng, "#8fb8f2", "#e4eefc")
    for _ in range(3):
        x, y = rng.uniform(0, DRAWN, 2)
        for puff in range(-1, 2):
            Pen(canvas, x, y).disc(puff * 0.13, abs(puff) * 0.04, 0.13, (255, 255, 255, 170), height=0.7)
    pen, cloth, other = _pen(rng, canvas, size=0.55), _tint(rng, "#8c3fc0", spread=25), _tint(rng, "#ffc845")
    for x in (-0.17, 0.17):
        pen.fill([(x * 2, 0.45), (x * 2.1, 0.45), (x + 0.02, 1.2), (x - 0.02, 1.2)], (90, 70, 60))
    pen.fill([(-0.71, 0.2), (0.71, 0.2), (0.22, 0.85), (-0.22, 0.85)], cloth)
    for radius, colour in ((0.85, cloth), (0.6, other), (0.35, cloth), (0.12, other)):
        pen.disc(0, -0.25, radius, colour, height=0.85 / radius)
    pen.box(-0.2, 1.15, 0.2, 1.45, _tint(rng, "#9a6a3c"))
    return canvas


FAMILIES: dict[str, Callable[[Generator], Image.Image]] = {
    "Shapes/Circle": partial(_shape, outline=_regular(60), colour="#2f6fed", behind=("#fffbea", "#fff0c2")),
    "Shapes/Triangle": partial(_shape, outline=_regular(3), colour="#12a594", behind=("#f0fbf6", "#c9eee0")),
    "Shapes/Star": partial(_shape, outline=_star(), colour="#ffc933", behind=("#16224d", "#3a4f9a")),
    "Shapes/Heart": partial(_shape, outline=_heart(), colour="#d81e4a", behind=("#ffd9e4", "#ffb3cb")),
    "Colours/Sunset": _sunset,
    "Colours/Deep": _deep,
    "Colours/Rainbow": _rainbow,
    "Textures/Stripes": _stripes,
    "Textures/Checkerboard": _checkerboard,
    "Textures/Dots": _dots,
    "Textures/Bricks": _bricks,
    "Textures/Wood": _wood,
    "Textures/Waves": _waves,
    "Things/House": _house,
    "Things/Flower": _flower,
    "Things/Face": _face,
    "Things/Fish": _fish,
    "Things/Balloon": _balloon,
}
