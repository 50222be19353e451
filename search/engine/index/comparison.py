"""How the results of two indexes of the same pictures differ, which two models made."""

from collections.abc import Callable
from dataclasses import dataclass

from search.engine.index.index import ImageIndex
from search.engine.vectors import Vector

_TRIED = 200
_FIRST = 10


@dataclass(frozen=True, slots=True)
class Overlap:
    share: float  # 0 to 1, of the first ten results of a picture that both indexes have, in the mean
    tried: int  # pictures that were searched for


def measure_overlap(
    before: ImageIndex, after: ImageIndex, *, beat: Callable[[], None] = lambda: None
) -> Overlap | None:
    """Return how much the first results of a few pictures have in common; None where there is nothing to compare.

    Each picture is searched for by the vector that the index has of it, and left out of the results, as is what only
    one index has. Those tried lie all over the index. beat is called now and then.
    """
    shares = []
    for record in after.spread(_TRIED):
        vectors = before.find_vector(record.id), after.find_vector(record.id)
        if vectors[0] is None or vectors[1] is None:
            continue
        found = _first(before, vectors[0], record.id, after), _first(after, vectors[1], record.id, before)
        if most := max(map(len, found)):
            shares.append(len(found[0] & found[1]) / most)
        beat()
    return Overlap(sum(shares) / len(shares), len(shares)) if shares else None


def _first(index: ImageIndex, vector: Vector, image_id: str, other: ImageIndex) -> set[str]:
    found = {match.image.id for match in index.search(vector, _FIRST, without_ids=[image_id])}
    return {each for each in found if other.find_id(each)}
