"""The index of a company that no machine holds: its generation's collection in Milvus instead of its files.

Milvus proposes the pictures that look closest and returns their vectors; what is closest, and with which score, is
found out here as for any other index. Rows are those of the generation's files, which are sorted by path.

Filters hold numbers alone, so that nothing that a customer can call a picture or a folder is ever part of one.
"""

import hashlib
import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Collection as Several
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt

from search.engine.errors import EngineUnavailable, IndexCorrupt
from search.engine.index.exact import ROUNDING, exact_products, shown_scores
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.match import Match
from search.engine.index.records import ImageRecord, Rows, SortedRecords, composed, id_key
from search.engine.index.vector_file import StoredVectors
from search.engine.milvus import MOST_ROWS, Milvus, StoredRow
from search.engine.vectors import DIMENSION, Vector, Vectors

_KEPT = 4096  # pictures that are kept in memory: some 20 MB
_KEPT_BYTES = 5000  # of one
_PIVOTS = 64  # that are compared at a time where a place among the paths is looked for
_MORE = 10  # pictures are asked for than results are wanted
_AT_ONCE = 1000  # rows or keys of one question
_NAMED_ROWS = 8192
_MOST_NAMED = 2_000_000  # rows that are looked through for a name: some 20 s


@dataclass(frozen=True, slots=True)
class Card:
    """What a collection says of itself; it is written last, so one without it is not complete."""

    images: int
    has_hashes: bool
    has_signatures: bool
    effort: int  # of a search: HNSW's ef
    recall_at_10: float | None = None  # against the exact scan; None where there are too few pictures
    recall_at_50: float | None = None


@dataclass(frozen=True, slots=True)
class _Picture:
    record: ImageRecord
    sha256: str
    perceptual_hash: int
    vector: Vector | None = None  # None where nobody has asked for it


class Collection:
    """One collection, whose rows never change. lock guards those that are kept, the last used at the end."""

    def __init__(self, server: Milvus, name: str) -> None:
        """Raises EngineUnavailable, and IndexCorrupt where the collection is missing or not complete."""
        self.server, self.name = server, name
        self.card, self.folders = _read_about(name, server.about(name))
        self._kept: OrderedDict[int, _Picture] = OrderedDict()
        self._lock = threading.Lock()

    def require_all_pictures(self) -> None:
        """Raise IndexCorrupt where somebody has deleted some."""
        if (count := self.server.count(self.name)) != self.card.images:
            raise IndexCorrupt(f"The collection {self.name} in Milvus holds {count} pictures, not {self.card.images}")

    def nearest(self, vector: Vector, limit: int, location: str) -> list[tuple[int, Vector]]:
        """Return the rows, with their vectors, that look closest to vector."""
        key = folder_key(location) if location else None
        found = self.server.nearest(self.name, vector, min(limit, MOST_ROWS), folder_key=key, effort=self.card.effort)
        self._keep(found)
        return [(each.row, each.vector) for each in found if each.vector is not None]

    def pictures(self, rows: Sequence[int], *, vectors: bool = False) -> list[_Picture]:
        """Return the pictures of some rows, in their order. Raises IndexCorrupt where one is missing."""
        with self._lock:
            known = {row: self._kept[row] for row in rows if row in self._kept}
        missing = [row for row in rows if row not in known or (vectors and known[row].vector is None)]
        for start in range(0, len(missing), _AT_ONCE):
            known |= self._keep(self.server.rows(self.name, missing[start : start + _AT_ONCE], vectors=vectors))
        try:
            return [known[row] for row in rows]
        except KeyError as error:
            raise IndexCorrupt(f"The collection {self.name} in Milvus lacks row {error}") from error

    def span(self, start: int, stop: int) -> dict[int, ImageRecord]:
        """Return the records of the rows from start up to stop."""
        return {each.row: _picture(each).record for each in self.server.span(self.name, start, stop)}

    def having(self, key_field: str, keys: Sequence[int]) -> list[tuple[int, ImageRecord]]:
        """Return the rows and records that have one of these keys, by row."""
        found = []
        for start in range(0, len(keys), _AT_ONCE):
            found += self.server.having(self.name, key_field, keys[start : start + _AT_ONCE])
        return sorted((row, picture.record) for row, picture in self._keep(found).items())

    def _keep(self, rows: Sequence[StoredRow]) -> dict[int, _Picture]:
        made = {each.row: _picture(each) for each in rows}
        with self._lock:
            for row, picture in made.items():
                before = self._kept.pop(row, None)
                self._kept[row] = before if before and before.vector is not None else picture
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


class CollectionRecords(SortedRecords):
    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def __len__(self) -> int:
        return self._collection.card.images

    @property
    def nbytes(self) -> int:
        return min(_KEPT, len(self)) * _KEPT_BYTES

    def at(self, row: int) -> ImageRecord:
        return self.of_rows([row])[0]

    def of_rows(self, rows: Sequence[int]) -> list[ImageRecord]:
        return [picture.record for picture in self._collection.pictures(rows)]

    def rows_of_path(self, path: str) -> list[int]:
        return self.rows_of_paths([path])

    def rows_of_paths(self, paths: Several[str]) -> list[int]:
        found = self._collection.having("path_key", [text_key(path) for path in paths])
        return [row for row, record in found if record.path in paths]

    def rows_of_id(self, image_id: str) -> list[int]:
        found = self._collection.having("image_key", [text_key(image_id)])
        return [row for row, record in found if record.id == image_id]

    def id_keys(self) -> npt.NDArray[np.uint64]:
        return np.array([id_key(record.id) for record in self], np.uint64)

    def __iter__(self) -> Iterator[ImageRecord]:
        for start in range(0, len(self), _NAMED_ROWS):
            block = self._collection.span(start, min(start + _NAMED_ROWS, len(self)))
            yield from (block[row] for row in sorted(block))

    def count_by_location(self) -> Counter[str]:
        return self._collection.folders

    def rows_named(self, text: str, rows: slice) -> Iterator[int]:
        if rows.stop - rows.start > _MOST_NAMED:
            raise EngineUnavailable(f"More than {_MOST_NAMED:,} pictures cannot be looked through: choose a folder")
        for start in range(rows.start, rows.stop, _NAMED_ROWS):
            block = self._collection.span(start, min(start + _NAMED_ROWS, rows.stop))
            yield from (row for row in sorted(block) if block[row].is_named(text))

    def _first_row_from(self, path: str) -> int:
        low, high = 0, len(self)
        while low < high:
            pivots = np.unique(np.linspace(low, high - 1, num=_PIVOTS, dtype=np.int64)).tolist()
            below = sum(record.path < path for record in self.of_rows(pivots))
            low = pivots[below - 1] + 1 if below else low
            high = pivots[below] if below < len(pivots) else high
        return low


@dataclass(frozen=True, slots=True)
class CollectionVectors(StoredVectors):
    collection: Collection

    @property
    def nbytes(self) -> int:
        return 0

    def __len__(self) -> int:
        return self.collection.card.images

    def __getitem__(self, rows: Rows) -> Vectors:
        wanted = list(range(*rows.indices(len(self)))) if isinstance(rows, slice) else rows.tolist()
        pictures = self.collection.pictures(wanted, vectors=True)
        return np.array([picture.vector for picture in pictures], np.float32).reshape(-1, DIMENSION)

    def blocks(self, rows: Rows = slice(None), *, size: int = _AT_ONCE) -> Iterator[Vectors]:
        wanted = np.arange(len(self))[rows]
        for start in range(0, len(wanted), size):
            yield self[wanted[start : start + size]]


@dataclass(frozen=True, slots=True, eq=False)
class CollectionIndex(ImageIndex):
    """An index whose pictures lie in Milvus."""

    collection: Collection = field(kw_only=True, repr=False)

    def hash_of(self, row: int) -> int | None:
        picture = self.collection.pictures([row])[0]
        return picture.perceptual_hash if self.collection.card.has_hashes else None

    def _sha256_of(self, row: int) -> bytes | None:
        picture = self.collection.pictures([row])[0]
        return bytes.fromhex(picture.sha256) if self.collection.card.has_signatures else None

    def _search_built(self, vector: Vector, top_k: int, location: str) -> list[Match]:
        """As many pictures are asked for as it takes to see that no other could be among the results."""
        limit = top_k + _MORE
        while True:
            found = self.collection.nearest(vector, limit, location)
            rows = np.array([row for row, _ in found], np.int64)
            vectors = np.array([each for _, each in found], np.float32).reshape(-1, DIMENSION)
            visible = ~np.isin(rows, self.hidden)
            exact = exact_products(vectors, vector)
            if len(found) < limit or limit >= MOST_ROWS or _are_all_ties_seen(exact, visible, top_k):
                break
            limit = min(2 * limit, MOST_ROWS)
        rows, vectors, exact = rows[visible], vectors[visible], exact[visible]
        best = np.lexsort((rows, -exact))[:top_k]
        records = self.records.of_rows(rows[best].tolist())
        scores = shown_scores(vectors[best], vector)
        matches = [Match(record, score) for record, score in zip(records, scores, strict=True)]
        return [match for match in matches if match.image.lies_below(location)]


def _are_all_ties_seen(exact: Vector, visible: npt.NDArray[np.bool_], top_k: int) -> bool:
    """Return whether the last picture found is less close than the last result."""
    if np.count_nonzero(visible) <= top_k:
        return False
    last = np.partition(exact[visible], -top_k)[-top_k] if top_k else np.inf
    return bool(exact.min() < last - ROUNDING)


def _read_about(name: str, about: Sequence[StoredRow]) -> tuple[Card, Counter[str]]:
    """Return the card and how many pictures lie in each folder. Raises IndexCorrupt where they are not complete."""
    try:
        card = Card(**json.loads(about[-1].text))
        folders = Counter(dict(json.loads(row.text) for row in about[:-1]))
    except (IndexError, TypeError, ValueError) as error:
        raise IndexCorrupt(f"The collection {name} in Milvus is not complete") from error
    if folders.total() != card.images:
        raise IndexCorrupt(f"The collection {name} in Milvus lacks what it says of its folders")
    return card, folders


def open_collection(server: Milvus, name: str, info: IndexInfo) -> CollectionIndex:
    """Return the index of a generation that says this of itself.

    Raises EngineUnavailable, and IndexCorrupt where the collection is missing, not complete, or of another generation.
    """
    collection = Collection(server, name)
    if collection.card.images != info.total_images:
        raise IndexCorrupt(
            f"The collection {name} in Milvus holds {collection.card.images} pictures, not {info.total_images}"
        )
    return CollectionIndex(info, CollectionRecords(collection), CollectionVectors(collection), collection=collection)


def text_key(text: str) -> int:
    """Return 63 bits that stand for a path or an id: a number that is not negative, which every filter takes."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def folder_key(location: str) -> int:
    """Return 63 bits that stand for a folder, however it is written."""
    return text_key(composed(location))


def folder_keys(path: str) -> list[int]:
    """Return the keys of the folders that a picture lies in."""
    parts = path.split("/")[:-1]
    return [folder_key("/".join(parts[: depth + 1])) for depth in range(len(parts))]


def text_of(record: ImageRecord) -> str:
    """Return what stands for a record in a collection: ASCII, also where a name on the disk is no UTF-8."""
    return json.dumps([record.path, record.id])


def text_of_card(card: Card) -> str:
    return json.dumps(asdict(card))


def text_of_folder(location: str, count: int) -> str:
    return json.dumps([location, count])


def _picture(row: StoredRow) -> _Picture:
    path, image_id = json.loads(row.text)
    return _Picture(ImageRecord(path, image_id), row.sha256, row.perceptual_hash % 2**64, row.vector)
