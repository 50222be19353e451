"""Which edited copies the search for duplicates finds in a catalogue that has them, and which pairs it makes up."""

import shutil
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings

from benchmarks.finding.catalogue import Catalogue, at_once, build, name_of, opened
from benchmarks.finding.edits import COLLAGE, EDITS
from search import queries
from search.engine.index.duplicate_search import find_pairs
from search.engine.index.duplicates import QUICK, Level
from search.engine.index.groups import Group, groups
from search.engine.index.records import ImageRecord
from search.engine.pictures.decode import open_image
from search.engine.pictures.second_look import MIN_SIDE
from tenants.models import Company

_SAME_FILE = "the same file"
_KINDS = (_SAME_FILE, *(kind for kind in EDITS if kind != COLLAGE))  # a collage is no duplicate of its parts
_COPIES = "copies"
_SHOWN = 20  # false pairs that the figures name
_LEVELS = {"exact": {Level.EXACT}, "same": QUICK, "edited": {*QUICK, Level.EDITED}}


def figures(catalogue: Catalogue) -> dict[str, Any]:
    """Return the share of copies in a group with their original, and pairs of a leader and a member that are none.

    The catalogue is copied, and beside each picture lies a copy of it, the kinds of edits by turns. Figures of a level
    include the levels before it.
    """
    company, kind_of = _with_copies(catalogue)
    index, began = queries.company_index(company), time.process_time()
    pairs = find_pairs(index, open_picture=partial(_open, company))
    seconds = time.process_time() - began
    levels = {name: _figures(groups(pairs, index, levels=levels), kind_of) for name, levels in _LEVELS.items()}
    return {
        "pictures": len(index),
        "cpu_seconds": seconds,
        "looks": pairs.looks,
        "unreadable": pairs.unreadable,
        "levels": levels,
    }


def _with_copies(catalogue: Catalogue) -> tuple[Company, dict[str, str]]:
    """Return a company with the catalogue's pictures and a copy of each, and the copies' kinds of edit by path."""
    company = f"{catalogue.name}-with-copies"
    folder = Path(settings.MEDIA_ROOT) / company
    shutil.copytree(catalogue.company.image_directory, folder)
    others = [opened(picture) for picture in catalogue.some(catalogue.absent, 12)]
    order = catalogue.random("copies").permutation(len(catalogue.present))
    jobs = [(catalogue.present[place], _KINDS[number % len(_KINDS)]) for number, place in enumerate(order)]

    def add(job: tuple[Path, str]) -> tuple[str, str]:
        picture, kind = job
        rng = catalogue.random("copy", kind, picture.name)
        copy = picture.read_bytes() if kind == _SAME_FILE else EDITS[kind](opened(picture), rng, others)
        path = Path(_COPIES, f"{catalogue.path(picture)}{Path(name_of(copy)).suffix}")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(copy)
        return path.as_posix(), kind

    kind_of = dict(at_once(add, jobs))
    return build(company), kind_of


def _open(company: Company, record: ImageRecord) -> Any:
    file = company.image_directory / record.path
    return open_image(file, name=record.path, max_pixels=settings.MAX_PIXELS, min_side=MIN_SIDE)


def _figures(found: list[Group], kind_of: dict[str, str]) -> dict[str, Any]:
    hits: Counter[str] = Counter()
    false = []
    for group in found:
        paths = {group.leader.path, *(member.image.path for member in group.members)}
        hits.update(kind_of[path] for path in paths & kind_of.keys() if _original(path) in paths)
        false += [
            {
                "pictures": [group.leader.path, member.image.path],
                "edits": [kind_of.get(group.leader.path, ""), kind_of.get(member.image.path, "")],
                "level": member.level.word,
                "score": member.score,
            }
            for member in group.members
            if _original(member.image.path) != _original(group.leader.path)
        ]
    copies = Counter(kind_of.values())
    return {
        "found": hits.total() / copies.total(),
        "kinds": {kind: hits[kind] / copies[kind] for kind in _KINDS if copies[kind]},
        "copies": copies.total(),
        "false_pairs": len(false),
        "false_pairs_per_1000_pictures": 1000 * len(false) / (2 * copies.total()),
        "false": sorted(false, key=lambda pair: -pair["score"])[:_SHOWN],
    }


def _original(path: str) -> str:
    """Return the path of the picture that the one at path is a copy of, or path itself."""
    return path if not path.startswith(f"{_COPIES}/") else path.removeprefix(f"{_COPIES}/").rpartition(".")[0]
