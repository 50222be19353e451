"""How much of the codes a search must read: the cheapest plan that finds a picture's true neighbours.

A sample of the company's own pictures stands for queries. Each is left out of what it finds, and so are its copies:
the pictures that people search with are not in the index themselves. What scores as high as the last true neighbour
is found: of several copies of a picture any will do.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from search.engine.index.exact import ROUNDING, best_scores
from search.engine.index.vector_file import StoredVectors
from search.engine.vectors import Vectors

MIN_RECALL = 0.999
NEIGHBOURS = 10  # that a search usually asks for
MANY_NEIGHBOURS = 50  # the most that the API gives

_QUERIES = 200
_ROWS_A_BLOCK = 4096
_CANDIDATES_A_RESULT = {  # the more neighbours, the fewer for each; with fewer for 10 a sample so small misleads
    NEIGHBOURS: (5, 7, 10, 15, 20, 30, 50, 100),
    MANY_NEIGHBOURS: (3, 4, 5, 7, 10, 15, 20, 50, 100),
}
_SHARES_OF_LISTS = (1 / 8, 2 / 8, 3 / 8, 4 / 8, 6 / 8, 1)
_DEPTHS = tuple(each * MANY_NEIGHBOURS for each in (5, 20, 100))  # the codes' order is looked at so far, in turn
_CODES_A_CANDIDATE = 250  # are scanned in the time that it takes to read one candidate and score it exactly


@dataclass(frozen=True, slots=True)
class Plan:
    lists_probed: int
    candidates_per_result: int
    recall: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Stored pictures as queries, and what the exact scan finds for them."""

    queries: Vectors  # [Q, 960]
    are_left_out: npt.NDArray[np.bool_]  # [Q], whether itself and its copies are; not those with very many copies
    least_scores: dict[int, Vectors]  # [Q, 1] of the last true neighbour, by how many neighbours are wanted


@dataclass(frozen=True, slots=True)
class _Ranking:
    """What the codes propose for each query when all lists are scanned, best first, each [Q, depth]."""

    scores: Vectors  # exact ones
    counts: npt.NDArray[np.bool_]  # whether it is a row, and not left out
    list_places: npt.NDArray[np.int64]  # how many lists are nearer to the query than the row's


def spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most so many rows of count, evenly."""
    return np.linspace(0, count - 1, num=min(most, count), dtype=np.int64)


def take_sample(vectors: StoredVectors, beat: Callable[[], None]) -> Sample:
    """Scan all vectors for the true neighbours of a few. There must be hundreds of them."""
    queries = vectors[spread(len(vectors), _QUERIES)]
    best = np.empty((len(queries), 0), np.float32)
    for block in vectors.blocks(size=_ROWS_A_BLOCK):
        best = best_scores(best, queries, block, 2 * MANY_NEIGHBOURS)
        beat()
    best = np.sort(best, axis=1)[:, ::-1]
    copies = np.count_nonzero(best >= 1 - ROUNDING, axis=1)  # [Q], with itself
    are_left_out = copies < MANY_NEIGHBOURS
    first = np.where(are_left_out, copies, 0)[:, np.newaxis]
    wanted = (NEIGHBOURS, MANY_NEIGHBOURS)
    return Sample(queries, are_left_out, {each: np.take_along_axis(best, first + each - 1, axis=1) for each in wanted})


def find_plans(
    lists: Any, rotation: npt.NDArray[np.float32], vectors: StoredVectors, sample: Sample, beat: Callable[[], None]
) -> tuple[Plan | None, Plan | None]:
    """Return the cheapest plans that find MIN_RECALL of NEIGHBOURS and of MANY_NEIGHBOURS; None where none does.

    lists: the IndexIVFRaBitQFastScan of the rotated vectors.
    """
    few = many = None
    for depth in _DEPTHS:
        ranking = _rank(lists, rotation, vectors, sample, min(depth, len(vectors)), beat)
        few = few or _cheapest(ranking, sample, NEIGHBOURS, lists)
        many = _cheapest(ranking, sample, MANY_NEIGHBOURS, lists)
        if few and many:
            break
    return few, many


def probing(count: int) -> Any:
    """Return FAISS's parameters of a search of so many lists."""
    # FAISS's stubs do not know the keywords, by which alone Python keeps inner parameters alive.
    return faiss.SearchParametersIVF(nprobe=count)  # type: ignore[call-arg]


def rows_by_list(lists: Any) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows in each inverted list; what is written there is written into the list."""
    for each in range(lists.nlist):
        size = lists.invlists.list_size(each)
        # Of an empty list FAISS returns numbers of another kind.
        yield faiss.rev_swig_ptr(lists.invlists.get_ids(each), size) if size else np.empty(0, np.int64)


def _rank(
    lists: Any,
    rotation: npt.NDArray[np.float32],
    vectors: StoredVectors,
    sample: Sample,
    depth: int,
    beat: Callable[[], None],
) -> _Ranking:
    list_of_row = np.empty(len(vectors), np.int64)
    for number, rows in enumerate(rows_by_list(lists)):
        list_of_row[rows] = number
    shape = (len(sample.queries), depth)
    ranking = _Ranking(np.empty(shape, np.float32), np.empty(shape, bool), np.empty(shape, np.int64))
    rotated = sample.queries @ rotation.T
    _, nearest = lists.quantizer.search(rotated, lists.nlist)  # [Q, lists]
    places = np.argsort(nearest, axis=1)  # of each list among the nearest
    for number, query in enumerate(sample.queries):
        proposed = lists.search(rotated[number : number + 1], depth, params=probing(lists.nlist))[1][0]
        rows = np.sort(proposed)  # those that are none come first, as -1
        scores = vectors[np.maximum(rows, 0)] @ query
        ranking.scores[number] = scores[np.searchsorted(rows, proposed)]
        ranking.list_places[number] = places[number, list_of_row[proposed]]
        ranking.counts[number] = proposed >= 0
        if sample.are_left_out[number]:
            ranking.counts[number] &= ranking.scores[number] < 1 - ROUNDING
        beat()
    return ranking


def _cheapest(ranking: _Ranking, sample: Sample, neighbours: int, lists: Any) -> Plan | None:
    is_neighbour = ranking.scores >= sample.least_scores[neighbours] - ROUNDING
    plans: list[tuple[float, Plan]] = []
    for share in _SHARES_OF_LISTS:
        probed = max(1, round(lists.nlist * share))
        stands = ranking.counts & (ranking.list_places < probed)
        position = np.cumsum(stands, axis=1)
        for candidates in _CANDIDATES_A_RESULT[neighbours]:
            hits = np.count_nonzero(stands & is_neighbour & (position <= candidates * neighbours), axis=1)
            recall = float(np.minimum(hits, neighbours).mean()) / neighbours
            if recall >= MIN_RECALL:
                cost = probed / lists.nlist * lists.ntotal + candidates * neighbours * _CODES_A_CANDIDATE
                plans.append((cost, Plan(probed, candidates, recall)))
                break
    return min(plans, key=lambda plan: plan[0], default=(0.0, None))[1]
