from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from search.engine.errors import DimensionMismatch
from search.engine.index.coarse import CoarseIndex, CoarseSearch
from search.engine.index.exact import SCORE_DIGITS, contenders, exact_products, exact_scores, scan, shown_scores
from search.engine.index.match import Match
from search.engine.index.match_fit import MatchFit
from search.engine.index.neighbours import Neighbours
from search.engine.index.records import ImageRecord, ListRecords, Records, Rows, composed
from search.engine.index.thresholds import Thresholds
from search.engine.index.vector_file import StoredVectors, VectorsInMemory
from search.engine.model.passport import MODEL, ModelPassport
from search.engine.vectors import DIMENSION, Vector, Vectors

# What a search in a folder by the codes costs, in rows of the folder that a scan reads in the same time (0.4 to 0.7 us
# each). At a million pictures the codes win from some 14,000 rows in the folder on for 10 results, from 39,000 for 500.
_CODES_A_ROW = 80
_ROWS_A_CANDIDATE = 10  # it is read alone, a block of rows at once

_CANDIDATES, _CANDIDATES_A_RESULT = 100, 5  # of a search in a folder
_TRIES = 1, 8  # times as many candidates; where these are too few, more have hardly ever been enough
_STANDARD_ERRORS = 3  # see _are_enough


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index says of itself in index_info.json; the Flask service wrote the first four alone."""

    total_images: int
    embedding_dimension: int = DIMENSION
    model: str = MODEL
    timestamp: str | None = None  # UTC, "2025-10-27T12:00:00.000Z"
    weights: str | None = None
    fingerprint: str | None = None
    preparation: str | None = None  # of the pictures; None where an earlier release made the index
    libraries: dict[str, str] | None = None  # versions of what made the vectors
    scanned_at_ns: int | None = None  # Unix time: the files were looked at from then on
    live_sequence: int | None = None  # the last live change that the index holds
    coarse: CoarseSearch | None = None
    neighbours: Neighbours | None = None  # None where it was not measured, or there is nothing to compare
    match: MatchFit | None = None  # None where there are too few pictures, or no build has fitted it
    thresholds: Thresholds | None = None  # of the model; None where an earlier release made the index

    @property
    def holds_changes_to(self) -> int:
        """The last live change that the index holds, 0 where it holds none."""
        return self.live_sequence or 0

    @property
    def passport(self) -> ModelPassport | None:
        """The model that made the index; None where it was never recorded."""
        return ModelPassport(self.weights or "unnamed weights", self.fingerprint) if self.fingerprint else None


@dataclass(frozen=True, slots=True)
class LiveImage:
    """A picture put since the index was built, or, without a vector, deleted."""

    record: ImageRecord
    vector: Vector | None = field(repr=False)  # [960], unit length
    perceptual_hash: int = 0  # 0 as well where nobody knows


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ImageIndex:
    """The pictures of one company and their vectors. It never changes: a rebuild or a live change replaces it."""

    info: IndexInfo
    records: Records  # in the order of the vectors
    vectors: StoredVectors = field(repr=False)
    read_signatures: Callable[[], Any] | None = field(default=None, repr=False)  # see signatures
    read_hashes: Callable[[], npt.NDArray[np.uint64]] | None = field(default=None, repr=False)  # see hashes
    coarse: CoarseIndex | None = field(default=None, repr=False)  # None where the exact scan serves
    added: tuple[ImageRecord, ...] = ()  # live pictures, by path
    added_vectors: Vectors = field(default_factory=lambda: np.empty((0, DIMENSION), np.float32), repr=False)
    added_hashes: npt.NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64), repr=False)
    hidden: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))  # rows replaced or deleted

    def __len__(self) -> int:
        return len(self.records) - len(self.hidden) + len(self.added)

    @property
    def nbytes(self) -> int:
        """How much memory the index takes at most."""
        return self.vectors.nbytes + self.records.nbytes + (self.coarse.nbytes if self.coarse else 0)

    @property
    def signatures(self) -> Any:
        """What the picture files looked like, storage.SIGNATURE [N]; None where nobody recorded it.

        Read when first asked for. Raises IndexCorrupt.
        """
        return self.read_signatures() if self.read_signatures else None

    @property
    def hashes(self) -> npt.NDArray[np.uint64] | None:
        """The perceptual hashes of the pictures, [N], 0 for blank ones; None where nobody recorded them.

        Read when first asked for. Raises IndexCorrupt.
        """
        return self.read_hashes() if self.read_hashes else None

    def with_changes(self, changes: Sequence[LiveImage]) -> "ImageIndex":
        """Return the index with live changes laid over it; the last change of a path counts."""
        changed = {change.record.path: change for change in changes}
        live = {
            record.path: LiveImage(record, vector, int(hashed))
            for record, vector, hashed in zip(self.added, self.added_vectors, self.added_hashes, strict=True)
        }
        added = [change for _, change in sorted((live | changed).items()) if change.vector is not None]
        rows = set(self.records.rows_of_paths(changed))
        return replace(
            self,
            added=tuple(change.record for change in added),
            added_vectors=np.array([change.vector for change in added], np.float32).reshape(-1, DIMENSION),
            added_hashes=np.array([change.perceptual_hash for change in added], np.uint64),
            hidden=np.array(sorted(rows.union(self.hidden.tolist())), dtype=np.int64),
        )

    def search(
        self,
        vector: Vector,
        top_k: int,
        *,
        location: str = "",
        min_score: float | None = None,
        without_ids: Collection[str] = (),
    ) -> list[Match]:
        """Return the top_k images closest to vector, closest first; equal scores in index order.

        vector: float32 [960], unit length. location: only images in this folder and those below it.
        min_score: only images that score at least this. without_ids: these images are left out.
        Fewer than top_k matches come back when fewer images qualify. Scores have SCORE_DIGITS, and min_score counts
        to as many: whatever has the same vector scores at least 1. Safe to call from many threads.
        Raises DimensionMismatch if vector is not [960].
        """
        if vector.shape != (self.info.embedding_dimension,):
            raise DimensionMismatch(
                f"The vector's shape is {vector.shape}, the index's dimension {self.info.embedding_dimension}"
            )
        wanted = top_k + len(without_ids)
        matches = self._search_built(vector, wanted, location) + self._search_added(vector, wanted, location)
        matches.sort(key=lambda match: -match.score)  # stable: equal scores keep the index's order
        return [
            match
            for match in matches
            if match.image.id not in without_ids
            and (min_score is None or match.score >= round(min_score, SCORE_DIGITS))
        ][:top_k]

    def find_path(self, path: str) -> ImageRecord | None:
        """Return the image with this path, or None."""
        live = (record for record in self.added if record.path == path)
        built = (self.records[row] for row in self._visible(self.records.rows_of_path(path)))
        return next(chain(live, built), None)

    def find_id(self, image_id: str) -> ImageRecord | None:
        """Return the image with this id, or None."""
        live = (record for record in self.added if record.id == image_id)
        built = (self.records[row] for row in self._visible(self.records.rows_of_id(image_id)))
        return next(chain(live, built), None)

    def file_sha256(self, record: ImageRecord) -> bytes | None:
        """Return the SHA-256 of the file that a build made the image from; None where it is not recorded."""
        if record in self.added:
            return None
        rows = self._visible(self.records.rows_of_path(record.path))
        return self._sha256_of(rows[0]) if rows else None

    def hash_of(self, row: int) -> int | None:
        """Return the perceptual hash of a row; None where nobody recorded it. Raises IndexCorrupt."""
        return None if self.hashes is None else int(self.hashes[row])

    def find_vector(self, image_id: str) -> Vector | None:
        """Return the vector, float32 [960], of the image with this id, or None."""
        for record, vector in zip(self.added, self.added_vectors, strict=True):
            if record.id == image_id:
                return vector
        return next((self.vectors.at(row) for row in self._visible(self.records.rows_of_id(image_id))), None)

    def page(self, start: int, stop: int, *, location: str = "") -> tuple[list[ImageRecord], int]:
        """Return the images from start up to stop, and how many there are; live ones that are new come last.

        location: only images in this folder and those below it.
        """
        below = self.records.rows_below(location)
        new = {record.path: record for record in self.added if record.lies_below(location)}
        hidden = self._hidden_places(below)
        records = self.records.of_rows(_rows_at(below, hidden))
        paths = dict(zip(hidden.tolist(), (record.path for record in records), strict=True))
        replaced = {place: new.pop(path) for place, path in paths.items() if path in new}  # these keep their places
        gone = np.array([place for place in hidden.tolist() if place not in replaced], np.int64)
        count = _count(below) - len(gone)
        places = _places_without(gone, np.arange(min(start, count), min(stop, count)))
        rows = self.records.of_rows(_rows_at(below, places))
        built = [replaced.get(place, record) for place, record in zip(places.tolist(), rows, strict=True)]
        added = list(new.values())[max(0, start - count) : max(0, stop - count)]
        return built + added, count + len(new)

    def named(self, text: str, *, location: str = "") -> Iterator[ImageRecord]:
        """Yield the images whose names contain text, whatever its case and however its accents are written.

        A text with a slash is looked for in the whole path. location: only images in this folder and those below it.
        Reads all of them, a million in about a second. Live ones come last.
        """
        wanted = composed(text).lower()
        below = self.records.rows_below(location)
        runs = [below] if isinstance(below, slice) else [slice(row, row + 1) for row in below.tolist()]
        for row in chain.from_iterable(self.records.rows_named(wanted, run) for run in runs):
            if row not in self.hidden:
                yield self.records[row]
        yield from (record for record in self.added if record.lies_below(location) and record.is_named(wanted))

    def spread(self, count: int) -> list[ImageRecord]:
        """Return at most count images from all over the index, in its order, so that they differ."""
        places = np.linspace(0, len(self), num=min(count, len(self)), endpoint=False, dtype=np.int64)
        visible = len(self.records) - len(self.hidden)
        rows = _places_without(self.hidden, places[places < visible])
        live = places[places >= visible] - visible
        return self.records.of_rows(rows.tolist()) + [self.added[place] for place in live.tolist()]

    def _sha256_of(self, row: int) -> bytes | None:
        return None if self.signatures is None else bytes(self.signatures[row]["sha256"])

    def _search_built(self, vector: Vector, top_k: int, location: str) -> list[Match]:
        if self.coarse is not None and not location:
            rows, exact = self._best_of_proposed(self.coarse, vector, top_k)
        else:
            rows, exact = self._best_of_rows(self.records.rows_below(location), vector, top_k)
        best = rows[np.lexsort((rows, -exact))[:top_k]]
        scores = shown_scores(self.vectors[best], vector)
        return [Match(self.records[int(row)], score) for row, score in zip(best, scores, strict=True)]

    def _best_of_proposed(
        self, coarse: CoarseIndex, vector: Vector, top_k: int
    ) -> tuple[npt.NDArray[np.int64], Vector]:
        """Return the visible rows, and their scores, that the codes propose.

        The codes know nothing of hidden rows: as many of these as stand before the last result are asked for in
        addition, so that they take no place from others.
        """
        depth = top_k
        while True:
            rows = coarse.propose(vector, depth)
            exact = exact_scores(self.vectors, rows, vector)
            hidden = np.isin(rows, self.hidden, assume_unique=True)
            visible = np.sort(exact[~hidden])[::-1]
            last = visible[top_k - 1] if len(visible) >= top_k else -np.inf
            needed = top_k + int(np.count_nonzero(exact[hidden] >= last))
            if needed <= depth or len(rows) == len(self.records):
                return rows[~hidden], exact[~hidden]
            depth = needed

    def _best_of_rows(self, below: Rows, vector: Vector, top_k: int) -> tuple[npt.NDArray[np.int64], Vector]:
        """Return the visible rows, and their scores, among which the top_k closest of the rows below are.

        By the codes, where that takes less time, and by a scan where they propose too few.
        """
        if self.coarse is not None:
            for count in _depths(top_k, rows=_count(below), images=len(self.records)):
                rows, estimates = self.coarse.propose_among(below, vector, count)
                exact = exact_scores(self.vectors, rows, vector)
                visible = ~np.isin(rows, self.hidden, assume_unique=True)
                if _are_enough(exact, estimates, visible, top_k):
                    return rows[visible], exact[visible]
        rows = self._best_of_all(below, vector, top_k)
        return rows, exact_scores(self.vectors, rows, vector)

    def _best_of_all(self, below: Rows, vector: Vector, top_k: int) -> npt.NDArray[np.int64]:
        """Return the rows below among which the top_k closest are, by a scan of all."""
        scores = scan(self.vectors, below, vector)  # [below]
        hidden = self._hidden_places(below)
        scores[hidden] = -np.inf
        places = contenders(scores, min(top_k, len(scores) - len(hidden)))
        return places + below.start if isinstance(below, slice) else below[places]

    def _visible(self, rows: list[int]) -> list[int]:
        return [row for row in rows if row not in self.hidden]

    def _hidden_places(self, rows: Rows) -> npt.NDArray[np.int64]:
        """Return where among rows the hidden ones are."""
        if isinstance(rows, slice):
            return self.hidden[(self.hidden >= rows.start) & (self.hidden < rows.stop)] - rows.start
        return np.flatnonzero(np.isin(rows, self.hidden))

    def _search_added(self, vector: Vector, top_k: int, location: str) -> list[Match]:
        scores = exact_products(self.added_vectors, vector)  # [added]
        elsewhere = [place for place, record in enumerate(self.added) if not record.lies_below(location)]
        scores[elsewhere] = -np.inf
        best = contenders(scores, min(top_k, len(scores) - len(elsewhere)))
        shown = shown_scores(self.added_vectors[best], vector)
        return [Match(self.added[int(place)], score) for place, score in zip(best, shown, strict=True)]


def _count(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _rows_at(rows: Rows, places: npt.NDArray[np.int64]) -> list[int]:
    """Return the rows at these places among rows."""
    found: list[int] = (places + rows.start if isinstance(rows, slice) else rows[places]).tolist()
    return found


def _places_without(gone: npt.NDArray[np.int64], places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where places stood before those gone, which ascend, were taken out."""
    return places + np.searchsorted(gone - np.arange(len(gone)), places, side="right")


def _depths(top_k: int, *, rows: int, images: int) -> Iterator[int]:
    """Yield how many candidates to ask the codes for, as long as all of it costs less than a scan of the rows."""
    left = float(rows)
    for times in _TRIES:
        count = times * (_CANDIDATES + _CANDIDATES_A_RESULT * top_k)
        left -= images / _CODES_A_ROW + count * _ROWS_A_CANDIDATE
        if left <= 0:
            return
        yield count


def _are_enough(exact: Vector, estimates: Vector, visible: npt.NDArray[np.bool_], top_k: int) -> bool:
    """Return whether the top_k closest can be expected to be among the candidates.

    Any other row looks less close than all candidates. To be closer than the last result, it must be one for which the
    codes err by what lies between these two: by more than a few times what they err by for the candidates. Recall as
    measured at build time says nothing here, where results may be far from the query, with many others as far.
    """
    if np.count_nonzero(visible) < top_k:
        return False
    last = np.partition(exact[visible], -top_k)[-top_k]
    error = np.sqrt(np.mean((exact - estimates) ** 2))
    return bool(last - estimates.min() > _STANDARD_ERRORS * error)


def empty_index() -> ImageIndex:
    """Return the index of a company that has none yet, for live changes to be laid over."""
    return ImageIndex(IndexInfo(total_images=0), ListRecords([]), VectorsInMemory(np.empty((0, DIMENSION), np.float32)))
