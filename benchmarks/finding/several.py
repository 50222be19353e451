"""What several pictures gain: of the first ten results, how many lie in the folder that is looked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.finding.catalogue import Catalogue, at_once
from search import queries
from search.engine.index.match import Match
from search.engine.index.records import ImageRecord

_TOP = 10
_PICTURES = 3
_UNLIKE = 2
_FEWEST = 8  # pictures of a folder that is looked for


def figures(catalogue: Catalogue, *, count: int) -> dict[str, Any] | None:
    """Return P@10 with one and with three pictures of a folder, and of "like" without and with "unlike".

    What is searched with is not among the results, of which there are ten in any case. unlike: the first two results
    of the search before that lie in another folder, which count for neither search. None where folders are small, and
    for drawn catalogues, whose folders say little of what is to be seen.
    """
    folders: dict[Path, list[Path]] = {}
    for picture in catalogue.present:
        folders.setdefault(picture.parent, []).append(picture)
    large = [pictures for pictures in folders.values() if len(pictures) >= _FEWEST]
    chosen = catalogue.some([picture for pictures in large for picture in pictures], count)
    if catalogue.drawn or len(large) < 2:
        return None
    one, three = np.mean(at_once(lambda picture: _several(catalogue, picture, folders), chosen), axis=0)
    like, unlike = np.mean(at_once(lambda picture: _unlike(catalogue, picture), chosen), axis=0)
    return {
        "one_picture": float(one),
        "three_pictures": float(three),
        "like": float(like),
        "like_and_unlike": float(unlike),
        "searches": len(chosen),
    }


def _several(catalogue: Catalogue, picture: Path, folders: dict[Path, list[Path]]) -> tuple[float, float]:
    """Return P@10 with this picture, and with two more of its folder, all three left out of both searches' results."""
    rng = catalogue.random("several", picture.name)
    beside = [other for other in folders[picture.parent] if other != picture]
    used = [picture, *(beside[place] for place in rng.choice(len(beside), _PICTURES - 1, replace=False))]
    names = {catalogue.path(one) for one in used}
    files = [one.read_bytes() for one in used]
    location = catalogue.path(picture.parent)
    found = [catalogue.find(*some, top_k=_TOP + _PICTURES).matches for some in (files[:1], files)]
    one, three = (_precision(location, (match for match in of if match.image.path not in names)) for of in found)
    return one, three


def _unlike(catalogue: Catalogue, picture: Path) -> tuple[float, float]:
    """Return P@10 of "like" this picture, and of the same with two ticked as "unlike" that lie elsewhere."""
    location = catalogue.path(picture.parent)
    like = [_record(catalogue, picture).id]
    first = queries.search_like(catalogue.company, like, top_k=_TOP + _UNLIKE).matches
    unlike = [match.image.id for match in first[:_TOP] if match.image.location != location][:_UNLIKE]
    left = _precision(location, (match for match in first if match.image.id not in unlike))
    if not unlike:
        return left, left
    second = queries.search_like(catalogue.company, like, unlike=unlike, top_k=_TOP).matches
    return left, _precision(location, second)


def _precision(location: str, matches: Iterable[Match]) -> float:
    return float(np.mean([match.image.location == location for match in list(matches)[:_TOP]]))


def _record(catalogue: Catalogue, picture: Path) -> ImageRecord:
    record = catalogue.index().find_path(catalogue.path(picture))
    assert record is not None
    return record
