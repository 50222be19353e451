"""How often an edited picture's original is the first result, by the kind of edit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.finding.catalogue import Catalogue, at_once, opened
from benchmarks.finding.edits import BORDERS, EDITS, Picture
from benchmarks.finding.measures import share

_OTHERS = 12  # pictures beside which one stands in a collage


@dataclass(frozen=True, slots=True)
class Asked:
    """What one search with an edited picture found."""

    kind: str
    is_present: bool  # whether the original is in the catalogue
    found: bool  # first
    found_untrimmed: bool  # where that was asked for
    score: float  # of the first
    percent: float | None  # match of the first
    others: tuple[float, ...]  # match of the other results
    nothing_similar: bool | None


def ask(catalogue: Catalogue, pictures: list[Path], *, untrimmed: bool) -> list[Asked]:
    """Search with each picture in every kind of edit. untrimmed: also as before borders were trimmed."""
    others = [opened(picture) for picture in catalogue.some(catalogue.absent, _OTHERS)]
    jobs = [(picture, kind) for kind in EDITS for picture in pictures]
    return at_once(lambda job: _ask(catalogue, *job, others, untrimmed=untrimmed), jobs)


def _ask(catalogue: Catalogue, picture: Path, kind: str, others: list[Picture], *, untrimmed: bool) -> Asked:
    edited = EDITS[kind](opened(picture), catalogue.random(kind, picture.name), others)
    return search_for(catalogue, picture, edited, kind=kind, untrimmed=untrimmed)


def search_for(catalogue: Catalogue, original: Path, edited: bytes, *, kind: str, untrimmed: bool = False) -> Asked:
    """Search the catalogue with what became of the original."""
    is_present = original.is_relative_to(catalogue.company.image_directory)
    wanted = catalogue.path(original) if is_present else ""
    found = catalogue.find(edited)
    first = found.matches[0]
    whole = (catalogue.find_untrimmed(edited) if untrimmed else None) or found.matches
    return Asked(
        kind,
        is_present,
        first.image.path == wanted,
        whole[0].image.path == wanted,
        first.score,
        first.percent,
        tuple(match.percent for match in found.matches[1:] if match.percent is not None),
        found.nothing_similar,
    )


def figures(catalogue: Catalogue, *, count: int) -> dict[str, Any]:
    """Return the share found first, of all kinds of edits, of uniform borders and of each.

    untrimmed: as before a picture was searched with a second time without its borders.
    """
    asked = ask(catalogue, catalogue.some(catalogue.present, count), untrimmed=True)
    kinds = {kind: _figures([one for one in asked if one.kind == kind]) for kind in EDITS}
    borders = _figures([one for one in asked if one.kind in BORDERS])
    return {"all": _figures(asked), "uniform_borders": borders, "kinds": kinds}


def _figures(asked: list[Asked]) -> dict[str, float]:
    return {
        "untrimmed": share([one.found_untrimmed for one in asked]),
        "found_first": share([one.found for one in asked]),
        "searches": len(asked),
    }
