"""Which pictures of an index show the same: what is kept of a look at all of them, and the groups that it makes."""

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord
from search.engine.index.thresholds import Thresholds

MAX_LOOKS = 200_000  # second looks of one search for duplicates

# id_key of a picture and what its vector looked like then: a picture that was replaced is a new one.
SEEN = np.dtype([("key", "<u8"), ("sketch", "<f4", (4,))])
# The id_keys of two pictures; twin: the second has the vector of the first and is in all other pairs of it.
PAIR = np.dtype([("first", "<u8"), ("second", "<u8"), ("score", "<f4"), ("level", "u1"), ("twin", "?")])


class Level(IntEnum):
    """How two pictures are known to show the same; the strictest that holds counts."""

    EXACT = 1  # the files are the same
    SAME = 2  # their vectors or their perceptual hashes are
    EDITED = 3  # a second look at both says so

    @property
    def word(self) -> str:
        return self.name.lower()


QUICK = frozenset({Level.EXACT, Level.SAME})  # found without reading a picture
ALL = frozenset(Level)


def _none(kind: np.dtype) -> npt.NDArray[np.void]:
    return np.empty(0, kind)


@dataclass(frozen=True, slots=True, eq=False)
class DuplicatePairs:
    """What a search for duplicates has found. It goes by ids and vectors, so that it outlives generations."""

    fingerprint: str | None  # of the model whose vectors were compared
    seen: npt.NDArray[np.void] = field(default_factory=lambda: _none(SEEN), repr=False)  # SEEN [pictures], by key
    pairs: npt.NDArray[np.void] = field(default_factory=lambda: _none(PAIR), repr=False)  # PAIR [pairs]
    waiting: npt.NDArray[np.void] = field(default_factory=lambda: _none(PAIR), repr=False)  # for a second look
    looks: int = 0  # second looks so far
    looks_left_out: int = 0  # that were worth one, beyond MAX_LOOKS
    unreadable: int = 0  # looks for which a picture could not be read


@dataclass(frozen=True, slots=True)
class Progress:
    """looking: False while vectors are compared, then True while pictures are read for a second look."""

    looking: bool
    done: int  # pictures compared, or looks
    total: int


@dataclass(frozen=True, slots=True)
class Member:
    image: ImageRecord
    level: Level  # of the pair with the leader
    score: float  # cosine with the leader, to six digits


@dataclass(frozen=True, slots=True)
class Group:
    leader: ImageRecord
    members: list[Member]  # by level, then by falling score, then by path; at least one


def find_pairs(
    index: ImageIndex,
    *,
    open_picture: Callable[[ImageRecord], Image.Image],
    known: DuplicatePairs | None = None,
    thresholds: Thresholds | None = None,
    levels: Set[Level] = ALL,
    report: Callable[[Progress], None] = lambda progress: None,
    keep: Callable[[DuplicatePairs], None] = lambda pairs: None,
) -> DuplicatePairs:
    """Return the pairs of pictures that show the same, with the live changes that lie over index.

    open_picture: returns a picture as RGB, upright, its shorter side at least second_look.MIN_SIDE where the file has
    as much (decode.open_image with that min_side does); OSError, PathRefused and ImageUnreadable leave it out.
    known: what an earlier search has found, also one that was stopped: only pictures that are not in there are
    compared with all. thresholds: by default those of the index. levels: without EDITED no picture is read, and what
    is worth a second look waits for the next search.
    report: called about once a second; an exception from it ends the search. keep: called about once a minute, and
    before such an exception goes on, with what was found so far, which is the known of a search that goes on.
    Raises IndexCorrupt.
    """
    raise NotImplementedError


def groups(
    pairs: DuplicatePairs,
    index: ImageIndex,
    *,
    levels: Set[Level] = ALL,
    apart: Collection[tuple[str, str]] = (),
) -> list[Group]:
    """Return the pictures of index, as of now, that show the same, the largest groups first.

    Each member is paired with its leader directly, at one of the levels. Pictures that are gone, replaced or blank are
    in no group; no picture is in two. apart: ids of two pictures that are not to be in one group, in any order.
    Takes a second or so for many pairs: keep it for the index.
    Raises IndexCorrupt.
    """
    raise NotImplementedError
