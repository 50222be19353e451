"""The pictures of an index by row, by path and by id, without parsing all of them."""

import hashlib
import json
import re
import unicodedata
import uuid
from abc import abstractmethod
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from search.engine.damage import DamageNamed
from search.engine.index.open_file import OpenFile
from search.engine.pictures.paths import FORMS

Rows = slice | npt.NDArray[np.int64]

_ID_NAMESPACE = uuid.UUID("5f0c7c2e-8f0e-4c39-9c2b-6a1f6f7b2a54")
_LIST_BYTES = 700  # of a record in a ListRecords: two texts and their places in two tables
_ROWS_AT_ONCE = 8192  # that are read together
_FEW_ROWS = 32  # that are parsed one by one
_PLAIN = re.compile(r"[a-z0-9 ./_()-]+")  # what JSON writes as it is, and a Mac as others do
_AFTER_PATH = b'", "id"'

ID_KEY = np.dtype([("key", "<u8"), ("row", "<i8")])


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """A picture of an index. path is relative to the company's image folder, with forward slashes."""

    path: str
    id: str  # UUID

    @property
    def location(self) -> str:
        """The folder the picture lies in, "" at the top."""
        return self.path.rpartition("/")[0]

    @property
    def name(self) -> str:
        """The file's name without its extension."""
        file_name = self.path.rpartition("/")[2]
        stem, _, _ = file_name.rpartition(".")
        return stem or file_name

    def lies_below(self, location: str) -> bool:
        """Return whether the picture lies in the folder location, however that is written, or in one below it; "" is
        the top."""
        if not location or self.path.startswith(f"{location}/"):
            return True
        return not location.isascii() and composed(self.path).startswith(f"{composed(location)}/")

    def is_named(self, text: str) -> bool:
        """Return whether the file's name contains text, or the path where text has a slash, in letters of any case."""
        return text in composed(self.path if "/" in text else self.path.rpartition("/")[2]).lower()


class Records(Sequence[ImageRecord]):
    """The pictures of an index, in the order of its vectors."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """How much memory the records take at most."""

    @abstractmethod
    def at(self, row: int) -> ImageRecord:
        """Return the picture of a row from 0 to len - 1."""

    def of_rows(self, rows: Sequence[int]) -> list[ImageRecord]:
        """Return the pictures of some rows from 0 to len - 1."""
        return [self.at(row) for row in rows]

    @abstractmethod
    def rows_of_path(self, path: str) -> list[int]:
        """Return the rows of the pictures of this path, in order: one or none, save where Flask has listed it twice."""

    def rows_of_paths(self, paths: Collection[str]) -> list[int]:
        """Return the rows of the pictures of any of these paths, in any order."""
        return [row for path in paths for row in self.rows_of_path(path)]

    @abstractmethod
    def rows_of_id(self, image_id: str) -> list[int]:
        """Return the rows of the pictures of this id, in order."""

    @abstractmethod
    def rows_below(self, location: str) -> Rows:
        """Return the rows of the pictures in the folder location, however that is written, and the folders below it."""

    @abstractmethod
    def id_keys(self) -> npt.NDArray[np.uint64]:
        """Return id_key of each picture's id, [N]."""

    @abstractmethod
    def count_by_location(self) -> Counter[str]:
        """Return how many pictures lie in each folder itself. Reads all of them."""

    @abstractmethod
    def rows_named(self, text: str, rows: slice) -> Iterator[int]:
        """Yield those of the rows whose pictures are named so, in order; see ImageRecord.is_named. Reads all of them.

        text: composed and in lower case.
        """

    @overload
    def __getitem__(self, row: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, row: slice) -> list[ImageRecord]: ...
    def __getitem__(self, row: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(row, slice):
            return [self.at(each) for each in range(len(self))[row]]
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.at(row)


class ListRecords(Records):
    """Records in memory, in any order, as the Flask service left them."""

    def __init__(self, records: list[ImageRecord]) -> None:
        self._records = records
        self._rows_of_path = _Rows(record.path for record in records)
        self._rows_of_id = _Rows(record.id for record in records)

    def __len__(self) -> int:
        return len(self._records)

    @property
    def nbytes(self) -> int:
        return _LIST_BYTES * len(self._records)

    def at(self, row: int) -> ImageRecord:
        return self._records[row]

    def rows_of_path(self, path: str) -> list[int]:
        return self._rows_of_path.find(path)

    def rows_of_id(self, image_id: str) -> list[int]:
        return self._rows_of_id.find(image_id)

    def rows_below(self, location: str) -> Rows:
        if not location:
            return slice(0, len(self))  # an array would copy all vectors for every search
        rows = [row for row, record in enumerate(self._records) if record.lies_below(location)]
        return np.array(rows, dtype=np.int64)

    def id_keys(self) -> npt.NDArray[np.uint64]:
        return np.array([id_key(record.id) for record in self._records], np.uint64)

    def count_by_location(self) -> Counter[str]:
        return Counter(record.location for record in self._records)

    def rows_named(self, text: str, rows: slice) -> Iterator[int]:
        return (row for row in range(len(self))[rows] if self._records[row].is_named(text))


class _Rows:
    """Where each of many texts stands. A list for each would take several times as much memory."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._first: dict[str, int] = {}
        self._others: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            if self._first.setdefault(text, row) != row:
                self._others.setdefault(text, []).append(row)

    def find(self, text: str) -> list[int]:
        return [self._first[text], *self._others.get(text, [])] if text in self._first else []


class SortedRecords(Records):
    """Records sorted by path, so that those of a folder follow each other."""

    def rows_below(self, location: str) -> Rows:
        if not location:
            return slice(0, len(self))
        found = [self._rows_of_folder(folder) for folder in self._spellings(location)]
        return (
            found[0]
            if len(found) == 1
            else np.sort(np.concatenate([np.arange(rows.start, rows.stop) for rows in found]))
        )

    def _rows_of_folder(self, folder: str) -> slice:
        return slice(self._first_row_from(f"{folder}/"), self._first_row_from(folder + chr(ord("/") + 1)))

    def _spellings(self, location: str) -> list[str]:
        """Return the ways in which the folder is written in the index; location where it is not there."""
        folders = [location]
        if not location.isascii():
            folders = [""]
            for part in location.split("/"):
                forms = {part, *(unicodedata.normalize(form, part) for form in FORMS)}
                folders = [f"{above}/{form}".lstrip("/") for above in folders for form in sorted(forms)]
                rows = [self._rows_of_folder(folder) for folder in folders]
                folders = [folder for folder, below in zip(folders, rows, strict=True) if below.start < below.stop]
        return folders or [location]

    def _first_row_from(self, path: str) -> int:
        return bisect_left(range(len(self)), path, key=lambda row: self.at(row).path)


class LineRecords(SortedRecords):
    """Records in a JSON list of one entry a line, sorted by path; an entry is read and parsed when it is asked for.

    path: of the file. offsets: int64 [N + 1], where each line begins. id_keys: ID_KEY [N], sorted by key.
    """

    def __init__(self, path: Path, offsets: npt.NDArray[np.int64], id_keys: np.ndarray) -> None:
        """Raises OSError."""
        self._path, self._file, self._offsets, self._id_keys = path, OpenFile(path), offsets, id_keys

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @property
    def nbytes(self) -> int:
        return self._offsets.nbytes + self._id_keys.nbytes

    @property
    def file_size(self) -> int:
        """How many bytes the file had when it was opened."""
        return self._file.size

    def at(self, row: int) -> ImageRecord:
        start, stop = self._offsets[row : row + 2].tolist()
        line = self._file.read(start, stop)
        with DamageNamed(self._path, f"entry {row}"):
            return parse_entry(json.loads(line.lstrip(b",\n")))

    def __iter__(self) -> Iterator[ImageRecord]:
        for block in self._blocks(slice(0, len(self))):
            yield from self._parse_all(block)

    def of_rows(self, rows: Sequence[int]) -> list[ImageRecord]:
        span = slice(min(rows, default=0), max(rows, default=-1) + 1)
        if span.stop - span.start > 2 * len(rows):
            return super().of_rows(rows)
        together = [record for block in self._blocks(span) for record in self._parse_all(block)]
        return [together[row - span.start] for row in rows]

    def rows_of_path(self, path: str) -> list[int]:
        row = self._first_row_from(path)
        return [row] if row < len(self) and self.at(row).path == path else []

    def rows_of_id(self, image_id: str) -> list[int]:
        key = np.uint64(id_key(image_id))
        start, stop = (int(np.searchsorted(self._id_keys["key"], key, side=side)) for side in ("left", "right"))
        rows = sorted(self._id_keys["row"][start:stop].tolist())
        return [row for row in rows if self.at(row).id == image_id]

    def id_keys(self) -> npt.NDArray[np.uint64]:
        keys = np.zeros(len(self), np.uint64)
        keys[self._id_keys["row"]] = self._id_keys["key"]
        return keys

    def count_by_location(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for block in self._blocks(slice(0, len(self))):
            self._count_block(block, block.rows, counts)
        return counts

    def _count_block(self, block: "_Block", rows: range, counts: Counter[str]) -> None:
        """Count rows of the block: together where all are of one folder, which is a hundred times faster."""
        if len(rows) <= _FEW_ROWS:
            counts.update(self._parse(block, row).location for row in rows)
            return
        first, last = (self._parse(block, row).location for row in (rows[0], rows[-1]))
        if first == last and block.lines(rows).count(b'"location": %b' % json.dumps(first).encode()) == len(rows):
            counts[first] += len(rows)
            return
        middle = len(rows) // 2
        self._count_block(block, rows[:middle], counts)
        self._count_block(block, rows[middle:], counts)

    def rows_named(self, text: str, rows: slice) -> Iterator[int]:
        mark = _mark(text)
        for block in self._blocks(rows):
            lines, place = block.content.lower(), 0
            while found := mark.search(lines, place):
                row = block.row_at(found.start())
                place = block.end(row)
                # What follows the path in its line is not of interest.
                if lines.find(_AFTER_PATH, found.start(), place) >= 0 and self._parse(block, row).is_named(text):
                    yield row

    def _blocks(self, rows: slice) -> Iterator["_Block"]:
        for start in range(rows.start, rows.stop, _ROWS_AT_ONCE):
            stop = min(start + _ROWS_AT_ONCE, rows.stop)
            offsets = self._offsets[start : stop + 1].tolist()
            yield _Block(range(start, stop), offsets, self._file.read(offsets[0], offsets[-1]))

    def _parse(self, block: "_Block", row: int) -> ImageRecord:
        with DamageNamed(self._path, f"entry {row}"):
            return parse_entry(json.loads(block.lines(range(row, row + 1)).lstrip(b",\n")))

    def _parse_all(self, block: "_Block") -> list[ImageRecord]:
        """Return the records of the block, in a fifth of the time that one by one takes."""
        with suppress(Exception):  # one by one tells which entry is damaged
            records = [parse_entry(entry) for entry in json.loads(b"[%b]" % block.content.lstrip(b",\n"))]
            if len(records) == len(block.rows):
                return records
        return [self._parse(block, row) for row in block.rows]


@dataclass(frozen=True, slots=True)
class _Block:
    """Lines of metadata.json that were read together."""

    rows: range
    offsets: list[int]  # [rows + 1], of the file
    content: bytes

    def lines(self, rows: range) -> bytes:
        start, stop = (self.offsets[row - self.rows.start] - self.offsets[0] for row in (rows.start, rows.stop))
        return self.content[start:stop]

    def row_at(self, place: int) -> int:
        """Return the row whose line holds this place of the content."""
        return self.rows.start + bisect_right(self.offsets, self.offsets[0] + place) - 1

    def end(self, row: int) -> int:
        """Return where in the content the row's line ends."""
        return self.offsets[row + 1 - self.rows.start] - self.offsets[0]


def _mark(text: str) -> re.Pattern[bytes]:
    """Return what a line in lower case holds of every path that contains text; most other lines do not."""
    plain = max(_PLAIN.findall(text), key=len, default="")
    if plain:
        return re.compile(re.escape(plain.encode()))
    letter = text[:1]
    cases = {letter, letter.upper(), letter.title()}
    spellings = {unicodedata.normalize(form, each) for form in FORMS for each in cases}
    return re.compile(b"|".join(re.escape(json.dumps(each)[1:-1].lower().encode()) for each in sorted(spellings)))


def composed(path: str) -> str:
    """Return path with each letter and its accents in one: a Mac writes them apart."""
    return unicodedata.normalize("NFC", path)


def image_id(company: str, path: str) -> str:
    """Return the id that a picture gets when it is first indexed: always the same for the same path and company."""
    return str(uuid.uuid5(_ID_NAMESPACE, f"{company}/{path}"))


def ids_no_path_gives(company: str, records: Iterable[ImageRecord]) -> dict[str, str]:
    """Return, by path, the ids that image_id does not give; the first of a path that is listed twice."""
    given: dict[str, str] = {}
    for record in records:
        if not _is_text(record.path) or record.id != image_id(company, record.path):
            given.setdefault(record.path, record.id)
    return given


def _is_text(path: str) -> bool:
    """Return whether path can be encoded: names on a disk that are not UTF-8 come as lone surrogates."""
    try:
        return bool(path.encode())
    except UnicodeEncodeError:
        return False


def parse_entry(entry: Any) -> ImageRecord:
    """Return the record of an entry of metadata.json. Raises ValueError, and whatever else an entry can cause."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("fullPath", "id")):
        raise ValueError("an entry needs the texts fullPath and id")
    if "\0" in entry["fullPath"]:
        raise ValueError("no path holds a NUL")
    return ImageRecord(entry["fullPath"], entry["id"])


def require_text(value: Any) -> str:
    """Return value where it is a text. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} stands where a text belongs")
    return value


def metadata_entry(record: ImageRecord) -> dict[str, str]:
    """Return the entry of metadata.json, which is the API's as well."""
    return {
        "fullPath": record.path,
        "id": record.id,
        "location": record.location,
        "name": record.name,
        "type": "file",
    }


def id_key(image_id: str) -> int:
    """Return 64 bits that stand for an id, whatever its form."""
    return int.from_bytes(hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
