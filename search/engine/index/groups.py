"""Groups of pictures that show the same, made of the pairs that a search for duplicates has found.

Each member is paired with its leader directly. Connected components would chain pictures that are only alike: at a
cosine of 0.90 they made one group of 1,967 of 5,421 photographs of shelves.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from search.engine.index.compared import Compared, compared, same_sketches, sketch
from search.engine.index.duplicates import ALL, QUICK, DuplicatePairs, Level
from search.engine.index.exact import SCORE_DIGITS
from search.engine.index.index import ImageIndex
from search.engine.index.records import ImageRecord, id_key


@dataclass(frozen=True, slots=True)
class Member:
    image: ImageRecord
    level: Level  # of the pair with the leader
    score: float  # cosine with the leader, to six digits


@dataclass(frozen=True, slots=True)
class Group:
    leader: ImageRecord
    members: list[Member]  # by level, then by falling score, then by path; at least one


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
    pictures = compared(index)
    pictures = pictures.among(np.unique(np.concatenate([pairs.pairs["first"], pairs.pairs["second"]])))
    pictures = pictures.among(pictures.keys[_are_as_seen(pairs, pictures)])
    found = list(_Relations(pairs, pictures, levels).groups(_partners(apart)))
    numbers = sorted({number for leader, members in found for number in (leader, *(each[0] for each in members))})
    records = dict(zip(numbers, pictures.records(np.array(numbers, np.int64)), strict=True))
    made = [
        Group(records[leader], sorted((Member(records[n], level, score) for n, level, score in members), key=_by_level))
        for leader, members in found
    ]
    return sorted(made, key=lambda group: (-len(group.members), group.leader.path))


def is_seen(pairs: DuplicatePairs, index: ImageIndex, image_id: str) -> bool:
    """Return whether the picture of this id, as it is now, was compared with the others. Raises IndexCorrupt."""
    vector = index.find_vector(image_id)
    place = bisect_left(pairs.seen["key"], np.uint64(id_key(image_id)))  # searchsorted would copy all keys
    if vector is None or place == len(pairs.seen) or pairs.seen["key"][place] != id_key(image_id):
        return False
    return bool(same_sketches(pairs.seen["sketch"][place : place + 1], sketch(vector[np.newaxis]))[0])


def _are_as_seen(pairs: DuplicatePairs, pictures: Compared) -> npt.NDArray[np.bool_]:
    """Return which of the pictures are those that were compared then, [N]."""
    entries = np.searchsorted(pairs.seen["key"], pictures.keys)
    are_known = entries < len(pairs.seen)
    seen = pairs.seen[np.where(are_known, entries, 0)] if len(pairs.seen) else np.zeros(len(pictures), pairs.seen.dtype)
    return are_known & (seen["key"] == pictures.keys) & same_sketches(seen["sketch"], pictures.sketches())


def _partners(apart: Collection[tuple[str, str]]) -> dict[int, set[int]]:
    """Return, by key, the keys of the pictures that each is to be apart from."""
    partners: dict[int, set[int]] = defaultdict(set)
    for one, other in apart:
        partners[id_key(one)].add(id_key(other))
        partners[id_key(other)].add(id_key(one))
    return partners


def _by_level(member: Member) -> tuple[Level, float, str]:
    return member.level, -member.score, member.image.path


class _Relations:
    """Which of some pictures are paired with which, and how; twins share all their pairs.

    Pictures go by number. A file is the first picture of those with the same content, a vector the first file of those
    with the same vector; both go by key, since the first one may be gone.
    """

    def __init__(self, pairs: DuplicatePairs, pictures: Compared, levels: Set[Level]) -> None:
        twins = pairs.pairs[pairs.pairs["twin"]]
        file_of, vector_of = (_first_of(twins[twins["level"] == level]) for level in (Level.EXACT, Level.SAME))
        self._keys, self._levels = pictures.keys.tolist(), levels
        self._bytes = pictures.file_sizes().tolist()
        self._files = [file_of.get(key, key) for key in self._keys]
        self._vectors = [vector_of.get(file, file) for file in self._files]
        self._copies = Counter(self._files)
        self._of_vector: dict[int, list[int]] = defaultdict(list)
        for number, vector in enumerate(self._vectors):
            self._of_vector[vector].append(number)
        self._paired: dict[int, list[tuple[int, Level, float]]] = defaultdict(list)
        wanted = pairs.pairs[~pairs.pairs["twin"] & np.isin(pairs.pairs["level"], list(levels))]
        columns = (wanted[name].tolist() for name in ("first", "second", "level", "score"))
        for first, second, level, cosine in zip(*columns, strict=True):
            score = min(1.0, round(cosine, SCORE_DIGITS))
            self._paired[first].append((second, Level(level), score))
            self._paired[second].append((first, Level(level), score))

    def groups(self, apart: dict[int, set[int]]) -> Iterator[tuple[int, list[tuple[int, Level, float]]]]:
        """Yield leaders with their members, level and score: first those with the most that are like them.

        Of several, the largest file leads: it is the original more often than the smaller copy of it.
        """
        taken = np.zeros(len(self._keys), bool)
        sizes = [self._count(number) for number in range(len(self._keys))]
        for leader in sorted(range(len(sizes)), key=lambda number: (-sizes[number], -self._bytes[number])):
            if taken[leader]:
                continue
            members, keys = [], {self._keys[leader]}
            for number, level, score in self._alike(leader):
                if not taken[number] and number != leader and keys.isdisjoint(apart.get(self._keys[number], ())):
                    members.append((number, level, score))
                    keys.add(self._keys[number])
            if members:
                taken[[leader, *(number for number, _, _ in members)]] = True
                yield leader, members

    def _alike(self, number: int) -> Iterator[tuple[int, Level, float]]:
        for twin in self._of_vector[self._vectors[number]] if self._levels & QUICK else ():
            level = Level.EXACT if self._files[twin] == self._files[number] else Level.SAME
            if level in self._levels:
                yield twin, level, 1.0
        for vector, level, score in self._paired.get(self._vectors[number], ()):
            yield from ((other, level, score) for other in self._of_vector.get(vector, ()))

    def _count(self, number: int) -> int:
        """Return how many pictures are like it, itself perhaps included."""
        paired = self._paired.get(self._vectors[number], ())
        count = sum(len(self._of_vector.get(vector, ())) for vector, _, _ in paired)
        copies = self._copies[self._files[number]]
        if Level.EXACT in self._levels:
            count += copies
        if Level.SAME in self._levels:
            count += len(self._of_vector[self._vectors[number]]) - copies
        return count


def _first_of(twins: npt.NDArray[np.void]) -> dict[int, int]:
    return dict(zip(twins["second"].tolist(), twins["first"].tolist(), strict=True))
