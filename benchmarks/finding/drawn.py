"""Two catalogues that are drawn: no photographs, so that no threshold suits one catalogue of photographs alone.

The shelf: packages, many of them nearly alike: a brand's flavours differ in a colour, a small picture and a word, its
sizes in a number. The mixed one: scenes put together from the demo's drawings, which have little in common.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageColor, ImageDraw, ImageEnhance, ImageFont, ImageOps

from benchmarks.finding.edits import cropped, lit
from search.companies import demo

_SIZE = _WIDTH, _HEIGHT = 400, 533
_DRAWINGS_A_FAMILY = 6

_BRANDS = ("Aurora", "Bellamy", "Corvo", "Dunmore", "Elvira", "Fjord", "Galant", "Hudson", "Istria", "Jolanda")
_FLAVOURS = ("lemon", "cherry", "mint", "cocoa", "vanilla", "berry", "ginger", "olive", "honey", "rose", "plum", "oat")
_AMOUNTS = ("100 g", "250 g", "500 g", "1 kg")

Colour = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Package:
    body: str
    brand: str
    ground: Colour
    corners: int  # of the brand's figure
    flavour: str
    accent: Colour
    motif: Image.Image
    amount: str


def draw_shelf(folder: Path, *, count: int, seed: int) -> None:
    """Draw about count packages, in a folder for each brand's boxes, bottles and so on."""
    rng = np.random.default_rng([seed, 1])
    motifs = [motif.resize((110, 110)) for _, motif in _drawings(rng)]
    shelves = [(body, brand) for body in _BODIES for brand in _BRANDS]
    for body, brand in shelves[:count]:
        (folder / brand / body).mkdir(parents=True)
        packages = _packages(body, brand, motifs, rng)
        for number in range(max(1, round(count / len(shelves)))):
            _photographed(next(packages), rng).save(folder / brand / body / f"{number:03}.jpg", quality=88)


def draw_mixed(folder: Path, *, count: int, seed: int) -> None:
    """Draw count scenes, in a folder for each family of what is behind."""
    rng = np.random.default_rng([seed, 2])
    drawings = _drawings(rng)
    for number in range(count):
        family, behind = drawings[number % len(drawings)]
        things = [drawings[place][1] for place in rng.integers(0, len(drawings), rng.integers(2, 5))]
        (folder / family).mkdir(parents=True, exist_ok=True)
        _scene(behind, things, rng).save(folder / family / f"{number:04}.jpg", quality=88)


def _drawings(rng: Generator) -> list[tuple[str, Image.Image]]:
    """Return drawings of all of the demo's families, with the family of each."""
    return [
        (family, draw(rng).resize((demo.SIDE, demo.SIDE), Image.Resampling.BOX))
        for _ in range(_DRAWINGS_A_FAMILY)
        for family, draw in demo.FAMILIES.items()
    ]


def _scene(behind: Image.Image, things: list[Image.Image], rng: Generator) -> Image.Image:
    """Return a part of a drawing with others in front of it, in other colours, through windows of any size."""
    size = _SIZE if rng.random() < 0.5 else _SIZE[::-1]
    part = cropped(_recoloured(behind, rng), rng, area=rng.uniform(0.2, 1))
    scene = part.resize(size, Image.Resampling.BICUBIC)
    for thing in things:
        width, height = (round(side * rng.uniform(0.25, 0.6)) for side in size)
        window = Image.new("L", (width, height))
        draw = ImageDraw.Draw(window)
        (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((0, 0, width - 1, height - 1), fill=255)
        left, top = (int(place) for place in rng.integers(0, (size[0] - width, size[1] - height)))
        scene.paste(ImageOps.fit(_recoloured(thing, rng), (width, height)), (left, top), window)
    return scene


def _recoloured(picture: Image.Image, rng: Generator) -> Image.Image:
    """Return the picture with its channels in another order and light."""
    channels = [picture.getchannel(int(place)) for place in rng.permutation(3)]
    return ImageEnhance.Brightness(Image.merge("RGB", channels)).enhance(rng.uniform(0.6, 1.2))


def _packages(body: str, brand: str, motifs: list[Image.Image], rng: Generator) -> Iterator[_Package]:
    """Yield flavours of a brand; every fourth is the one before it in another size, which its label alone tells."""
    ground, corners = _colour(rng), 3 + _BRANDS.index(brand) % 6
    while True:
        for number, flavour in enumerate(rng.permutation(_FLAVOURS).tolist()):
            motif = motifs[int(rng.integers(len(motifs)))]
            package = _Package(body, brand, ground, corners, flavour, _colour(rng), motif, _AMOUNTS[0])
            yield package
            if number % 3 == 2:
                yield replace(package, amount=_AMOUNTS[1 + int(rng.integers(3))])


def _colour(rng: Generator) -> Colour:
    return ImageColor.getrgb(f"hsl({rng.integers(360)}, {rng.integers(35, 90)}%, {rng.integers(30, 75)}%)")


def _photographed(package: _Package, rng: Generator) -> Image.Image:
    """Return the package between its neighbours, a little nearer, farther or tilted, in a shop's light."""
    wall, board = (int(value) for value in rng.integers((170, 80), (235, 140)))
    scene = Image.new("RGB", _SIZE, (wall, wall, wall - 10))
    ImageDraw.Draw(scene).rectangle((0, 0.93 * _HEIGHT, _WIDTH, _HEIGHT), fill=(board, board - 15, board - 40))
    drawn = _drawn(package).rotate(rng.uniform(-3, 3), Image.Resampling.BICUBIC)
    scale = rng.uniform(0.8, 0.95)
    shown = drawn.resize((round(scale * _WIDTH), round(scale * _HEIGHT)), Image.Resampling.LANCZOS)
    left, top = round((_WIDTH - shown.width) / 2 + rng.uniform(-20, 20)), round(0.96 * _HEIGHT - shown.height)
    for beside in (-1, 1):
        scene.paste(shown, (left + round(0.78 * beside * shown.width), top + int(rng.integers(-6, 7))), shown)
    scene.paste(shown, (left, top), shown)
    lighted = lit(scene, **dict(zip(("red", "green", "blue"), rng.uniform(0.9, 1.1, 3).tolist(), strict=True)))
    exposed = ImageEnhance.Brightness(lighted).enhance(rng.uniform(0.8, 1.2))
    grain = 3 * rng.standard_normal((_HEIGHT, _WIDTH, 3), dtype=np.float32)
    return Image.fromarray((np.asarray(exposed) + grain).clip(0, 255).astype(np.uint8))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _drawn(package: _Package) -> Image.Image:
    """Return the package alone, RGBA."""
    picture = Image.new("RGBA", _SIZE)
    draw = ImageDraw.Draw(picture)
    top, bottom = _BODIES[package.body](draw, package)
    label = top + 0.16 * (bottom - top)
    draw.rectangle((100, label, 300, bottom - 30), fill=package.accent)
    turns = [2 * math.pi * corner / package.corners for corner in range(package.corners)]
    draw.polygon([(270 + 22 * math.sin(turn), label + 75 - 22 * math.cos(turn)) for turn in turns], fill=package.ground)
    picture.paste(package.motif, (120, round(label) + 60))
    draw.text((200, label + 28), package.brand, "white", _font(38), anchor="mm")
    draw.text((200, bottom - 95), package.flavour, "white", _font(34), anchor="mm")
    draw.text((200, bottom - 52), package.amount, "black", _font(26), anchor="mm")
    return picture


# Bodies: each draws itself and returns where its front begins and ends


def _box(draw: ImageDraw.ImageDraw, package: _Package) -> tuple[float, float]:
    draw.rectangle((75, 40, 325, 510), fill=package.ground)
    draw.polygon([(325, 40), (345, 25), (345, 495), (325, 510)], fill=tuple(value // 2 for value in package.ground))
    return 40, 510


def _bottle(draw: ImageDraw.ImageDraw, package: _Package) -> tuple[float, float]:
    draw.rounded_rectangle((90, 170, 310, 515), 40, fill=package.ground)
    draw.polygon([(110, 190), (170, 90), (230, 90), (290, 190)], fill=package.ground)
    draw.rectangle((165, 30, 235, 95), fill=package.accent)
    return 150, 505


def _can(draw: ImageDraw.ImageDraw, package: _Package) -> tuple[float, float]:
    draw.rectangle((80, 110, 320, 490), fill=package.ground)
    for top, colour in ((465, package.ground), (85, (200, 200, 205))):
        draw.ellipse((80, top, 320, top + 50), fill=colour)
    return 110, 500


def _bag(draw: ImageDraw.ImageDraw, package: _Package) -> tuple[float, float]:
    draw.polygon([(85, 60), (315, 60), (335, 280), (325, 515), (75, 515), (65, 280)], fill=package.ground)
    for left in range(85, 315, 20):
        draw.line((left, 40, left + 10, 75), fill="white", width=3)
    return 60, 515


def _jar(draw: ImageDraw.ImageDraw, package: _Package) -> tuple[float, float]:
    draw.rounded_rectangle((70, 160, 330, 515), 60, fill=package.ground)
    draw.rounded_rectangle((90, 95, 310, 165), 12, fill=(150, 120, 60))
    return 140, 510


_BODIES: dict[str, Callable[[ImageDraw.ImageDraw, _Package], tuple[float, float]]] = {
    "boxes": _box,
    "bottles": _bottle,
    "cans": _can,
    "bags": _bag,
    "jars": _jar,
}
