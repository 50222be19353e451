"""The folders that an index's pictures lie in, and how many lie in each."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from search.engine.index.index import ImageIndex
from search.engine.index.records import composed


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of a company's pictures. location is relative to the company's image folder, "" for that itself."""

    location: str
    pictures: int  # in the folder itself
    below: int  # in it and in all folders below it

    @property
    def name(self) -> str:
        return self.location.rpartition("/")[2]

    @property
    def above(self) -> str:
        """The location of the folder that this one lies in; of a company's image folder, itself."""
        return self.location.rpartition("/")[0]

    def lies_in(self, location: str) -> bool:
        """Return whether this is the folder location, however that is written, or one below it."""
        location = composed(location)
        return not location or self.location == location or self.location.startswith(f"{location}/")


def folders_of(index: ImageIndex, built: Counter[str]) -> list[Folder]:
    """Return the folder of the pictures, and those below it that hold pictures, each in front of those below it.

    built: index.records.count_by_location(), which takes seconds for millions of pictures and stays the same
    whatever live changes are laid over the index. A folder whose name is written in two ways is one.
    """
    counts = Counter({"": 0})
    for location, count in built.items():
        counts[composed(location)] += count
    counts.update(composed(record.location) for record in index.added)
    counts.subtract(composed(record.location) for record in index.records.of_rows(index.hidden.tolist()))
    below = Counter[str]()
    for location, count in counts.items():
        for each in _with_those_above(location):
            below[each] += count
    there = sorted((location for location in below if below[location] or not location), key=_place)
    return [Folder(location, counts[location], below[location]) for location in there]


def _with_those_above(location: str) -> Iterator[str]:
    yield location
    while location:
        location = location.rpartition("/")[0]
        yield location


def _place(location: str) -> list[str]:
    return location.split("/") if location else []
