"""Whether two pictures of an index show the same, by what the index knows of them alone."""

from dataclasses import dataclass

from search.engine.index.index import ImageIndex
from search.engine.index.near_hashes import SAME_BITS
from search.engine.index.thresholds import Thresholds
from search.engine.pictures.hashes import BLANK
from search.engine.vectors import Vector


@dataclass(frozen=True, slots=True)
class _Picture:
    vector: Vector
    hash: int | None  # None where nobody knows


class QuickTest:
    """Compares pictures of one index, as it is now, and keeps what it has read of each."""

    def __init__(self, index: ImageIndex) -> None:
        self._index = index
        self._limits = index.info.thresholds or Thresholds()
        self._live = {record.id: place for place, record in enumerate(index.added)}
        self._pictures: dict[str, _Picture | None] = {}

    def show_the_same(self, one: str, other: str) -> bool:
        """Return whether the pictures of two ids are duplicates of a quick level. Blank ones are like nothing.

        Raises IndexCorrupt.
        """
        first, second = self._picture(one), self._picture(other)
        if first is None or second is None:
            return False
        score = float(first.vector @ second.vector)  # 1 where the files are the same
        if first.hash is None or second.hash is None or score < self._limits.hashed:
            return score >= self._limits.same
        return score >= self._limits.same or (first.hash ^ second.hash).bit_count() <= SAME_BITS

    def _picture(self, image_id: str) -> _Picture | None:
        """Return a picture; None for one that is blank or gone."""
        if image_id not in self._pictures:
            picture = self._read(image_id)
            self._pictures[image_id] = None if picture is None or picture.hash == BLANK else picture
        return self._pictures[image_id]

    def _read(self, image_id: str) -> _Picture | None:
        index = self._index
        if (place := self._live.get(image_id)) is not None:
            return _Picture(index.added_vectors[place], int(index.added_hashes[place]))
        row = next((row for row in index.records.rows_of_id(image_id) if row not in index.hidden), None)
        if row is None:
            return None
        return _Picture(index.vectors.at(row), index.hash_of(row))
