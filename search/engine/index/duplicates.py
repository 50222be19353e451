"""Which pictures of an index show the same, as kept: duplicate_search.py finds them, groups.py makes groups of them."""

from collections.abc import Set
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
import numpy.typing as npt

# id_key of a picture and what its vector looked like then: a picture that was replaced is a new one.
# searched: it was compared with all; its twins were not.
SEEN = np.dtype([("key", "<u8"), ("sketch", "<f4", (4,)), ("searched", "?")])
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
    looks_left_out: int = 0  # that were worth one, beyond the most that one search takes
    unreadable: int = 0  # looks for which a picture could not be read
    ended: bool = False  # a search has come to its end; what is new since then is little

    def count(self, levels: Set[Level] = ALL) -> int:
        """Return how many pairs were found at these levels."""
        return int(np.isin(self.pairs["level"], list(levels)).sum())


@dataclass(frozen=True, slots=True)
class Progress:
    """looking: False while vectors are compared, then True while pictures are read for a second look."""

    looking: bool
    done: int  # pictures compared, or looks
    total: int
