"""What the box around a product gains, where the product is a small part of the picture searched with."""

from pathlib import Path
from typing import Any

from benchmarks.finding.catalogue import Catalogue, at_once, opened
from benchmarks.finding.edits import encoded
from benchmarks.finding.measures import share
from benchmarks.finding.scenes import off, pasted

AREAS = (0.1, 0.2)
_OFF = 0.15


def figures(catalogue: Catalogue, *, count: int) -> dict[str, Any]:
    """Return the share of products found first without a box, with it and with one that is 15 % off."""
    return {f"{area:.0%}": _figures(catalogue, area, catalogue.some(catalogue.present, count)) for area in AREAS}


def _figures(catalogue: Catalogue, area: float, products: list[Path]) -> dict[str, float]:
    found = at_once(lambda product: _find(catalogue, product, area), products)
    ways = ("without", "with_box", "with_box_15_percent_off")
    return {way: share(of) for way, of in zip(ways, zip(*found, strict=True), strict=True)} | {"searches": len(found)}


def _find(catalogue: Catalogue, product: Path, area: float) -> list[bool]:
    """Search with the product pasted over a picture of the same kind that the catalogue does not have."""
    rng = catalogue.random("scene", area, product.name)
    behind = opened(catalogue.absent[int(rng.integers(len(catalogue.absent)))])
    scene, box = pasted(opened(product), behind, rng, area=area)
    picture, crops = encoded(scene), (None, box, off(box, _OFF, rng))
    return [catalogue.find(picture, crop=crop).matches[0].image.path == catalogue.path(product) for crop in crops]
