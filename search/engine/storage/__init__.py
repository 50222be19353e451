"""An index on disk; the only file that knows file names.

    <parent>/AOF                                     symbolic link to the published generation
    <parent>/.generations/AOF/<generation>/          never changes once it has this name
        faiss_index.bin        IndexFlatIP, as faiss.write_index lays it out
        embeddings.npy         float32 [N, 960], the same vectors
        metadata.json          list in index order, one entry a line
        metadata_offsets.npy   int64 [N + 1], where each line of metadata.json begins
        signatures.npy         SIGNATURE [N], what the picture files looked like; missing where nobody knows
        id_keys.npy            records.ID_KEY [N], sorted: finds a row by its id
        coarse_index.bin       codes of the first pass, see coarse.py; missing where the exact scan serves
        given_ids.json         {path: id} of the ids that no path gives, those of pictures now missing as well
        index_info.json        IndexInfo; its "format" says that the files are ours
        SHA256SUMS             of all the others, for `sha256sum --check` as well; since format 2
    <parent>/.generations/AOF/.writing-<hex>/        a generation that is being written
    <parent>/.generations/AOF/.building/             what unfinished builds have embedded, see workspace.py

A plain directory with the first four files (those of the Flask service, which lack the rest) is an index too; it
becomes a generation when the first one of ours is published in its place.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import shutil
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import faiss
import numpy as np
from filelock import FileLock, Timeout

from search.engine import durable
from search.engine.errors import IndexCorrupt, IndexNotBuilt, IndexUnusable, PublishRefused
from search.engine.index.coarse import CoarseIndex, CoarseSearch, build_coarse, read_coarse, write_coarse
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.records import (
    ID_KEY,
    ImageRecord,
    LineRecords,
    ListRecords,
    id_key,
    ids_no_path_gives,
    metadata_entry,
    parse_entry,
)
from search.engine.index.vector_file import VectorFile
from search.engine.timestamps import timestamp
from search.engine.vectors import DIMENSION, Vectors

logger = logging.getLogger(__name__)

FAISS_INDEX = "faiss_index.bin"
EMBEDDINGS = "embeddings.npy"
METADATA = "metadata.json"
OFFSETS = "metadata_offsets.npy"
SIGNATURES = "signatures.npy"
ID_KEYS = "id_keys.npy"
CODES = "coarse_index.bin"
GIVEN_IDS = "given_ids.json"
INFO = "index_info.json"
SUMS = "SHA256SUMS"
PARTS = frozenset({FAISS_INDEX, EMBEDDINGS, METADATA, OFFSETS, SIGNATURES, ID_KEYS, CODES, GIVEN_IDS, INFO, SUMS})

GENERATIONS = ".generations"
FORMAT = 2
LOCK = ".lock"
_NAME = "%Y%m%dT%H%M%S%f"  # of a generation, when it was published, before a random rest

SIGNATURE = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,))])

_METADATA_START = b"[\n"
_METADATA_END = b"\n]\n"

# IndexFlatIP in faiss/impl/index_write.cpp: fourcc, dimension, number of vectors, two unused numbers, trained, metric,
# then how many floats follow, then the floats.
_FLAT_HEADER = struct.Struct("<4siqqq?iQ")
_FLAT_IP = b"IxFI"

_SUM_LINE = re.compile(r"([0-9a-f]{64})  (\S+)\n")

_POINTER = b"version https://git-lfs"
_NOT_WORTH_KEEPING = frozenset({".gitkeep", ".DS_Store"})

T = TypeVar("T")


# Reading ------------------------------------------------------------------------------------------------------------


def has_index(directory: Path) -> bool:
    """Return whether directory holds the two files that every index has."""
    return version(directory) != ""


def version(directory: Path) -> str:
    """Return a text that changes whenever another index is published into directory; "" where there is none."""
    return _read_whole(directory, _stamp)


def info(directory: Path) -> IndexInfo:
    """Return what the index in directory says of itself. Raises IndexNotBuilt and IndexCorrupt."""
    return _read_whole(directory, lambda generation: _read_info(generation)[0])


def load(directory: Path) -> ImageIndex:
    """Return the published index, memory-mapped where its files allow it.

    Raises IndexNotBuilt where there is none, and IndexCorrupt, naming the file, where the files
    cannot be read or disagree in number or dimension.
    """
    return _read_whole(directory, _load_generation)


def has_checksums(directory: Path) -> bool:
    """Return whether the checksums of the index in directory were recorded when it was published."""
    return (_resolve(directory) / SUMS).exists()


def damaged_files(directory: Path, *, beat: Callable[[], None] = lambda: None) -> list[str]:
    """Return which files are not what was published, and how, by the checksums recorded then.

    Nothing where no checksums were recorded. beat is called now and then.
    """
    return _read_whole(directory, lambda generation: _damaged_files(generation, beat))


def require_undamaged(directory: Path, *, beat: Callable[[], None] = lambda: None) -> None:
    """Raise IndexCorrupt where files are not what was published; see damaged_files."""
    if damaged := damaged_files(directory, beat=beat):
        raise IndexCorrupt("; ".join(damaged))


def _damaged_files(generation: Path, beat: Callable[[], None]) -> list[str]:
    try:
        sums = _read_sums(generation)
    except IndexCorrupt as error:
        return [str(error)]
    if sums is None:
        return []
    present = {name for name in PARTS - {SUMS} if (generation / name).exists()}
    damaged = [f"{name} is missing" for name in sorted(sums.keys() - present)]
    damaged += [f"{name} is not in {SUMS}" for name in sorted(present - sums.keys())]
    for name in sorted(present & sums.keys()):
        try:
            if durable.sha256(generation / name, beat=beat).hex() != sums[name]:
                damaged.append(f"{name} has changed since it was published")
        except OSError as error:
            damaged.append(str(_unreadable(generation / name, error)))
    return damaged


def _read_sums(generation: Path) -> dict[str, str] | None:
    """Return the checksums by file, None where none were recorded. Raises IndexCorrupt."""
    path = generation / SUMS
    try:
        lines = path.read_text(encoding="ascii").splitlines(keepends=True)
        sums = {match[2]: match[1] for line in lines if (match := _SUM_LINE.fullmatch(line))}
        if len(sums) != len(lines) or not sums.keys() <= PARTS:
            raise ValueError("it is not a list of checksums")
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not _has_format(generation, 2):
            return None
        raise _unreadable(path, error) from error
    return sums


def _has_format(generation: Path, number: int) -> bool:
    """Return whether index_info.json names this format or a later one; what else is wrong with it others tell."""
    try:
        found = _parse_object((generation / INFO).read_bytes()).get("format")
    except (OSError, ValueError):
        return False
    return isinstance(found, int) and found >= number


def _read_whole(directory: Path, read: Callable[[Path], T]) -> T:
    """Return what read makes of the published files, read again where others were published meanwhile.

    A generation of ours never changes, but it may be dropped while it is read, and a plain directory is moved away
    by the first publication.
    """
    while True:
        generation = _resolve(directory)
        stamp = _stamp(generation)
        try:
            found = read(generation)
        except IndexUnusable:
            if (_resolve(directory), _stamp(generation)) == (generation, stamp):
                raise
        else:
            if (_resolve(directory), _stamp(generation)) == (generation, stamp):
                return found


def _stamp(generation: Path) -> str:
    try:
        stats = [(generation / name).stat() for name in (FAISS_INDEX, METADATA)]
    except OSError:
        return ""
    return f"{generation.name} " + " ".join(f"{s.st_ino}-{s.st_mtime_ns}-{s.st_size}" for s in stats)


def _load_generation(generation: Path) -> ImageIndex:
    index_info, ours = _read_info(generation)
    vectors = _read_vectors(generation, ours)
    if vectors.shape != (index_info.total_images, index_info.embedding_dimension):
        raise IndexCorrupt(
            f"{INFO} says {index_info.total_images} vectors of {index_info.embedding_dimension} numbers, "
            f"{FAISS_INDEX} holds {vectors.shape[0]} of {vectors.shape[1]}"
        )
    records = _map_records(generation) if ours else _parse_records(generation / METADATA)
    if len(records) != len(vectors):
        raise IndexCorrupt(f"{METADATA} has {len(records)} entries, {FAISS_INDEX} {len(vectors)} vectors")
    signatures = _read_signatures(generation, len(vectors))
    codes = _read_codes(generation, index_info)
    vector_file = _open_vectors(generation, len(vectors)) if codes else None
    return ImageIndex(index_info, records, vectors, signatures, codes, vector_file)


def given_ids(directory: Path, company: str) -> dict[str, str]:
    """Return, by path, the ids that the index's pictures have and that image_id(company, path) does not give.

    Another program gave them. They are read from whatever is whole, also of a damaged index and of earlier
    generations, because a picture keeps its id for ever.
    """
    given: dict[str, str] = {}
    for generation in [*_generations(directory), _resolve(directory)]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            if (generation / GIVEN_IDS).exists():
                given |= _parse_object((generation / GIVEN_IDS).read_bytes())
            else:
                given |= ids_no_path_gives(company, map(parse_entry, json.loads((generation / METADATA).read_bytes())))
    return given


def _map_records(generation: Path) -> LineRecords:
    offsets, id_keys = _map_array(generation / OFFSETS), _map_array(generation / ID_KEYS)
    try:
        text = np.memmap(generation / METADATA, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise _unreadable(generation / METADATA, error) from error
    if offsets.ndim != 1 or offsets.dtype != np.int64 or len(offsets) == 0:
        raise IndexCorrupt(f"{OFFSETS} holds {offsets.dtype} {offsets.shape}")
    if offsets[-1] + len(_METADATA_END) != len(text):
        raise IndexCorrupt(f"{METADATA} has another length than {OFFSETS} says")
    if id_keys.dtype != ID_KEY or id_keys.shape != (len(offsets) - 1,):
        raise IndexCorrupt(f"{ID_KEYS} holds {id_keys.dtype} {id_keys.shape}, {OFFSETS} {len(offsets) - 1} entries")
    return LineRecords(text, offsets, id_keys)


def _parse_records(path: Path) -> ListRecords:
    try:
        return ListRecords([parse_entry(entry) for entry in json.loads(path.read_bytes())])
    except (OSError, ValueError, TypeError) as error:
        raise _unreadable(path, error) from error


def _read_signatures(generation: Path, count: int) -> Any:
    path = generation / SIGNATURES
    if not path.exists():
        return None
    signatures = _map_array(path)
    if signatures.dtype != SIGNATURE or signatures.shape != (count,):
        raise IndexCorrupt(f"{path.name} does not fit the {count} vectors")
    return signatures


def _read_codes(generation: Path, index_info: IndexInfo) -> CoarseIndex | None:
    if index_info.coarse is None:
        return None
    try:
        return read_coarse(generation / CODES, index_info.coarse, images=index_info.total_images)
    except (OSError, ValueError) as error:
        logger.warning("%s of %s cannot be read, the exact scan serves: %s", CODES, generation, error)
        return None


def _read_info(generation: Path) -> tuple[IndexInfo, bool]:
    """Return the info and whether the files are ours; the Flask service may have left no info at all."""
    missing = [name for name in (FAISS_INDEX, METADATA) if not (generation / name).exists()]
    if len(missing) == 2:
        raise IndexNotBuilt(f"{generation} holds no index")
    if missing:
        raise IndexCorrupt(f"{missing[0]} is missing")
    path = generation / INFO
    ours = (generation / OFFSETS).exists()
    try:
        entries = _parse_object(path.read_bytes())
        known = {field.name: entries[field.name] for field in fields(IndexInfo) if field.name in entries}
        known |= {name: int(known[name]) for name in ("total_images", "embedding_dimension") if name in known}
        known["coarse"] = _coarse_search(known.get("coarse"))
    except (OSError, ValueError, TypeError) as error:
        if ours or not isinstance(error, FileNotFoundError):
            raise _unreadable(path, error) from error
        return IndexInfo(*_flat_shape(generation)), False
    return replace(IndexInfo(*_flat_shape(generation)), **known), ours or "format" in entries


def _coarse_search(entry: Any) -> CoarseSearch | None:
    """Return None for one that another version wrote in fields of its own, too: the exact scan serves it."""
    known = {field.name for field in fields(CoarseSearch)}
    return CoarseSearch(**entry) if isinstance(entry, dict) and entry.keys() == known else None


def _parse_object(text: bytes) -> dict[str, Any]:
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise ValueError("it is not a JSON object")
    return entries


def _flat_shape(generation: Path) -> tuple[int, int]:
    """Return (vectors, dimension) as the header of faiss_index.bin and its length say."""
    path = generation / FAISS_INDEX
    try:
        with path.open("rb") as file:
            start = file.read(_FLAT_HEADER.size)
            length = os.fstat(file.fileno()).st_size
        if not start.startswith(_FLAT_IP) or len(start) < _FLAT_HEADER.size:
            raise ValueError("it is not an IndexFlatIP of FAISS")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    _, dimension, count, _, _, _, metric, floats = _FLAT_HEADER.unpack(start)
    if metric != faiss.METRIC_INNER_PRODUCT or dimension != DIMENSION or floats != count * dimension:
        raise IndexCorrupt(f"{path.name} is not an inner product index of {DIMENSION} numbers a vector")
    if length != _FLAT_HEADER.size + 4 * floats:
        raise IndexCorrupt(f"{path.name} is {length} bytes long, its header says {_FLAT_HEADER.size + 4 * floats}")
    return count, dimension


def _read_vectors(generation: Path, ours: bool) -> Vectors:
    shape = _flat_shape(generation)
    path = generation / EMBEDDINGS
    if not ours and not path.exists():
        return _copy_vectors(generation)
    vectors = _map_array(path)
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise IndexCorrupt(f"{path.name} holds {vectors.dtype} {vectors.shape}, {FAISS_INDEX} float32 {shape}")
    if _same_samples(generation / FAISS_INDEX, vectors):
        return vectors.view(np.ndarray)
    if ours:
        raise IndexCorrupt(f"{path.name} and {FAISS_INDEX} hold different vectors")
    return _copy_vectors(generation)  # the Flask service searched what FAISS held, normalised or not elsewhere


def _open_vectors(generation: Path, count: int) -> VectorFile:
    try:
        return VectorFile(generation / EMBEDDINGS, count)
    except OSError as error:
        raise _unreadable(generation / EMBEDDINGS, error) from error


def _map_array(path: Path) -> Any:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> IndexCorrupt:
    """Return what is wrong with a file of an index, in words that name it without its directory."""
    if isinstance(error, FileNotFoundError):
        return IndexCorrupt(f"{path.name} is missing")
    if isinstance(error, OSError):
        return IndexCorrupt(f"{path.name} cannot be read: {error.strerror}")
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return IndexCorrupt(f"{path.name} is a Git LFS pointer: run `git lfs pull` where it came from")
    return IndexCorrupt(f"{path.name} cannot be read: {error}")


def _copy_vectors(generation: Path) -> Vectors:
    path = generation / FAISS_INDEX
    try:
        flat = faiss.read_index(str(path))
    except RuntimeError as error:  # FAISS's only error, whatever happened
        raise IndexCorrupt(f"{path.name} cannot be read by FAISS") from error
    vectors: Vectors = flat.reconstruct_n(0, flat.ntotal)
    return vectors


def _same_samples(faiss_index: Path, vectors: Vectors) -> bool:
    """Return whether the first, middle and last vectors are those of faiss_index.bin."""
    if not len(vectors):
        return True
    row_bytes = 4 * vectors.shape[1]
    try:
        with faiss_index.open("rb") as file:
            for row in {0, len(vectors) // 2, len(vectors) - 1}:
                file.seek(_FLAT_HEADER.size + row * row_bytes)
                if file.read(row_bytes) != vectors[row].tobytes():
                    return False
    except OSError as error:
        raise _unreadable(faiss_index, error) from error
    return True


def _resolve(directory: Path) -> Path:
    """Return the directory that holds the files now."""
    try:
        return directory.parent / directory.readlink()
    except OSError:
        pass
    if directory.is_dir():
        return directory
    # Killed between moving a plain directory away and putting the link in its place: the newest generation is whole.
    complete = _generations(directory)
    return complete[-1] if complete else directory


# Writing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Published:
    generation: str
    total_images: int


@dataclass(frozen=True, slots=True)
class Generation:
    name: str
    published: bool  # it is the one that searches see
    info: IndexInfo


class Draft:
    """A generation that is being written into path, beside the published one.

    Used as a context manager: left without publish(), it is removed.
    """

    def __init__(self, directory: Path) -> None:
        """Raises PublishRefused where directory holds something that is no part of an index."""
        self._directory = directory
        _require_index_or_nothing(directory)
        _home(directory).mkdir(parents=True, exist_ok=True)
        self.path = _home(directory) / f".writing-{secrets.token_hex(8)}"
        self._lock = FileLock(self.path / LOCK)
        with _publish_lock(directory):  # whoever clears drafts away holds it
            self.path.mkdir()
            self._lock.acquire()  # while this process lives, the draft stays

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def publish(self, *, keep: int, confirm: Callable[[], AbstractContextManager[object]] = nullcontext) -> str:
        """Make the files in path, which are on the disk, the index of the directory; return the generation's name.

        keep: how many earlier generations stay. confirm: entered around the switch; raising there leaves the old
        index in place.
        """
        durable.sync(self.path)
        with _publish_lock(self._directory):
            given_up = _rolled_back_from(self._directory)
            name = _next_name(self._directory)
            with confirm():
                (self.path / LOCK).unlink()
                self.path.rename(_home(self._directory) / name)
                durable.sync(_home(self._directory))
                _link(self._directory, _home(self._directory) / name)
            for generation in given_up:
                shutil.rmtree(generation, ignore_errors=True)
            _drop_old_generations(self._directory, keep=keep)
        return name


class IndexWriter:
    """Writes a generation beside the published one, row by row in flat memory, and publishes it.

    Used as a context manager: left without publish(), it removes what it wrote.
    """

    def __init__(self, directory: Path) -> None:
        """Raises PublishRefused where directory holds something that is no part of an index."""
        self._draft = Draft(directory)
        self._offsets = array("q", [len(_METADATA_START)])
        self._ids = array("Q")
        self._last_path: str | None = None
        self._signatures: list[Any] = []
        self._faiss = self._open(FAISS_INDEX)
        self._embeddings = self._open(EMBEDDINGS)
        self._metadata = self._open(METADATA)
        self._write_headers()
        self._metadata.write(_METADATA_START)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self._faiss, self._embeddings, self._metadata):
            with contextlib.suppress(OSError):  # a full disk; what is left to write is thrown away in any case
                file.close()
        self._draft.__exit__(kind, error, trace)

    def add(self, vectors: Vectors, records: Sequence[ImageRecord], signatures: Any = None) -> None:
        """Append pictures, all of them in the order of their paths.

        vectors: float32 [n, 960], unit length; records: n; signatures: SIGNATURE [n], or None for all pictures.
        """
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        if rows.shape != (len(records), DIMENSION):
            raise ValueError(f"{len(records)} records with vectors of shape {rows.shape}")
        self._faiss.write(rows.data)
        self._embeddings.write(rows.data)
        if signatures is not None:
            self._signatures.append(np.asarray(signatures))
        for record in records:
            self._add_record(record)

    def _add_record(self, record: ImageRecord) -> None:
        if self._last_path is not None and record.path <= self._last_path:
            raise ValueError(f"{record.path!r} comes after {self._last_path!r}: paths are unique and in order")
        line = (b",\n" if self._ids else b"") + json.dumps(metadata_entry(record)).encode()
        self._metadata.write(line)
        self._offsets.append(self._offsets[-1] + len(line))
        self._ids.append(id_key(record.id))
        self._last_path = record.path

    def publish(
        self,
        info: IndexInfo,
        *,
        keep: int,
        given_ids: dict[str, str] | None = None,
        beat: Callable[[], None] = lambda: None,
        confirm: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Published:
        """Make what was added the index of the directory, at once for every reader, and drop old generations.

        info: what is to be said of the index; its number of images and its timestamp are filled in here.
        keep: how many earlier generations stay for a rollback. given_ids: see the function of that name.
        beat: called now and then.
        confirm: entered around the switch; raising there leaves the old index in place.
        """
        durable.write(self._draft.path / GIVEN_IDS, json.dumps(given_ids or {}).encode())
        self._finish_files(replace(info, total_images=len(self._ids), timestamp=timestamp()), beat)
        return Published(self._draft.publish(keep=keep, confirm=confirm), len(self._ids))

    def _open(self, name: str) -> IO[bytes]:
        return (self._draft.path / name).open("wb", buffering=1 << 20)

    def _write_headers(self) -> None:
        shape = (len(self._ids), DIMENSION)
        self._faiss.seek(0)
        unused = 1 << 20  # what FAISS itself writes there
        self._faiss.write(
            _FLAT_HEADER.pack(
                _FLAT_IP,
                DIMENSION,
                shape[0],
                unused,
                unused,
                True,
                faiss.METRIC_INNER_PRODUCT,
                shape[0] * DIMENSION,
            )
        )
        self._embeddings.seek(0)
        # NumPy pads this header so that it keeps its length whatever the number of rows.
        np.lib.format.write_array_header_1_0(self._embeddings, {"descr": "<f4", "fortran_order": False, "shape": shape})

    def _finish_files(self, info: IndexInfo, beat: Callable[[], None]) -> None:
        self._write_headers()
        self._metadata.write(_METADATA_END)
        for file in (self._faiss, self._embeddings, self._metadata):
            durable.sync(file)
            file.close()
        id_keys = np.empty(len(self._ids), dtype=ID_KEY)
        id_keys["key"], id_keys["row"] = self._ids, np.arange(len(self._ids))
        self._save(OFFSETS, np.array(self._offsets, dtype="<i8"))
        self._save(ID_KEYS, np.sort(id_keys, order="key"))
        if self._signatures:
            self._save(SIGNATURES, np.concatenate(self._signatures))
        info = replace(info, coarse=self._write_codes(beat))
        entries = info_entries(info) | {"format": FORMAT}
        durable.write(self._draft.path / INFO, json.dumps(entries, indent=2).encode())
        names = [name for name in PARTS - {SUMS} if (self._draft.path / name).exists()]
        sums = {name: durable.sha256(self._draft.path / name, beat=beat).hex() for name in names}
        _write_sums(self._draft.path, sums)

    def _write_codes(self, beat: Callable[[], None]) -> CoarseSearch | None:
        if not self._ids:
            return None
        coarse = build_coarse(VectorFile(self._draft.path / EMBEDDINGS, len(self._ids)), beat=beat)
        if coarse is None:
            return None
        write_coarse(coarse, self._draft.path / CODES)
        durable.sync(self._draft.path / CODES)
        return coarse.search

    def _save(self, name: str, values: Any) -> None:
        with self._open(name) as file:
            np.save(file, values)
            durable.sync(file)


def _write_sums(generation: Path, sums: dict[str, str]) -> None:
    durable.write(generation / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode())


def info_entries(index_info: IndexInfo) -> dict[str, Any]:
    """Return what is known of the index, as in index_info.json."""
    return {name: value for name, value in asdict(index_info).items() if value is not None}


@contextlib.contextmanager
def open_files(directory: Path) -> Iterator[list[tuple[str, IO[bytes]]]]:
    """Yield the names and the open files of the published index, in order of their names; they stay whole if another
    is published meanwhile. Raises IndexNotBuilt and IndexCorrupt.
    """
    with contextlib.ExitStack() as stack:

        def open_all(generation: Path) -> list[tuple[str, IO[bytes]]]:
            _read_info(generation)
            names = sorted(name for name in PARTS if (generation / name).exists())
            try:
                return [(name, stack.enter_context((generation / name).open("rb"))) for name in names]
            except OSError as error:
                raise IndexCorrupt(f"A file of {directory.name}'s index cannot be opened: {error.strerror}") from error

        yield _read_whole(directory, open_all)


def keep_ids(generation: Path, company: str) -> None:
    """Note in a draft whose files came from a company of another name the ids that its paths do not give here."""
    if not (generation / GIVEN_IDS).exists():
        return  # then they are read from its metadata
    kept = given_ids(generation, company) | ids_no_path_gives(company, load(generation).records)
    durable.write(generation / GIVEN_IDS, json.dumps(kept).encode())
    if sums := _read_sums(generation):  # of the other files they stay as they came, to be compared
        _write_sums(generation, sums | {GIVEN_IDS: durable.sha256(generation / GIVEN_IDS).hex()})


def generations(directory: Path) -> list[Generation]:
    """Return the generations of the index in directory, newest first, those that are damaged left out."""
    current = _resolve(directory).name
    found = []
    for entry in reversed(_generations(directory)):
        with contextlib.suppress(IndexUnusable):  # a Flask directory, say, that was rebuilt because it was damaged
            found.append(Generation(entry.name, entry.name == current, _read_info(entry)[0]))
    return found


def roll_back(
    directory: Path,
    generation: str | None = None,
    *,
    confirm: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Generation:
    """Publish an earlier generation again, by default the one before the published one; return it.

    The generations after it stay until the next publication. confirm: as for Draft.publish.
    Raises IndexNotBuilt where it is gone or there is none, IndexCorrupt where it is damaged, and PublishRefused.
    """
    current = _resolve(directory)
    entry = _generation_before(directory, current) if generation is None else _home(directory) / generation
    if entry not in _generations(directory):
        raise IndexNotBuilt(f"There is no generation {generation} of {directory.name} any more")
    try:
        load(entry)
        require_undamaged(entry)
    except IndexCorrupt as error:
        raise IndexCorrupt(f"The generation {entry.name} of {directory.name} is damaged: {error}") from error
    with _publish_lock(directory), confirm():
        if _resolve(directory) != current or entry not in _generations(directory):
            raise PublishRefused(f"Another index of {directory.name} was published meanwhile: try again")
        _link(directory, entry)
    return Generation(entry.name, True, _read_info(entry)[0])


def _generation_before(directory: Path, current: Path) -> Path:
    earlier = [entry for entry in _generations(directory) if entry.name < current.name]
    if current not in _generations(directory) or not earlier:
        raise IndexNotBuilt(
            f"{directory.name} has no earlier index to go back to: "
            "IMAGESEARCH_KEEP_GENERATIONS says how many are kept when another is published"
        )
    return earlier[-1]


def remove(directory: Path) -> None:
    """Remove the index in directory, and directory itself where nothing else lies in it."""
    if _is_published_link(directory):
        erase(directory)
        return
    plain = directory.resolve()
    for name in PARTS:
        (plain / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else lies in it
        plain.rmdir()
    if directory.is_symlink() and not plain.exists():
        directory.unlink()


def erase(directory: Path) -> None:
    """Remove the index in directory, all its generations and unfinished builds; what a link leads to stays.

    Raises PublishRefused where directory holds something that is no part of an index, and OSError.
    """
    if not directory.is_symlink():
        _require_index_or_nothing(directory)
    removed = directory.parent / GENERATIONS / f".removed-{secrets.token_hex(8)}"
    removed.mkdir(parents=True)
    # Renamed as a whole, and before the link, because readers fall back on the newest generation that they find.
    with contextlib.suppress(FileNotFoundError):
        _home(directory).rename(removed / "generations")
    if directory.is_symlink():
        directory.unlink()
    elif directory.exists():
        directory.rename(removed / "index")
    shutil.rmtree(removed)


def workspace(directory: Path) -> Path:
    """Return where builds of the index in directory keep what they have embedded so far."""
    return _home(directory) / ".building"


def size_on_disk(directory: Path) -> int:
    """Return how many bytes the index in directory takes with all its generations and unfinished builds."""
    places = [_home(directory)] if directory.is_symlink() else [_home(directory), directory]
    size = 0
    for file in (file for place in places for file in place.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a build removed it meanwhile
            size += file.lstat().st_size
    return size


def _home(directory: Path) -> Path:
    return directory.parent / GENERATIONS / directory.name


def _generations(directory: Path) -> list[Path]:
    """Return the complete generations, oldest first."""
    try:
        return sorted(entry for entry in _home(directory).iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _require_index_or_nothing(directory: Path) -> None:
    """Refuse a directory in which anything but an index, whole or damaged, would be moved away and later deleted."""
    if _is_published_link(directory) or not directory.exists():
        return
    if not directory.is_dir():
        raise PublishRefused(f"{directory} is a file: give another directory")
    for entry in directory.iterdir():
        if entry.name not in PARTS | _NOT_WORTH_KEEPING:
            raise PublishRefused(
                f"{directory} holds {entry.name}, which is no part of an index: move it away or give another directory"
            )


def _is_published_link(directory: Path) -> bool:
    return directory.is_symlink() and directory.readlink().parts[:1] == (GENERATIONS,)


@contextlib.contextmanager
def _publish_lock(directory: Path) -> Iterator[None]:
    with FileLock(_home(directory) / LOCK):
        yield


def _link(directory: Path, generation: Path) -> None:
    """Point directory at generation. The link moves last: a reader sees the old index or the new one."""
    link = _home(directory) / f".link-{secrets.token_hex(8)}"
    link.symlink_to(Path(GENERATIONS, directory.name, generation.name))
    if directory.is_dir() and not directory.is_symlink():
        # rename() cannot put a link over a directory. Until the link is there, _resolve finds the new generation.
        directory.rename(_home(directory) / f"{datetime.fromtimestamp(0, UTC):{_NAME}}-{secrets.token_hex(4)}")
    link.replace(directory)
    durable.sync(directory.parent)


def _rolled_back_from(directory: Path) -> list[Path]:
    """Return the generations after the published one; behind the next one they would pass for what was before it."""
    current, found = _resolve(directory), _generations(directory)
    return [entry for entry in found if entry.name > current.name] if current in found else []


def _next_name(directory: Path) -> str:
    """Return the name of a new generation, which sorts behind all others, also where a clock was put back."""
    moment = datetime.now(UTC)
    for newest in _generations(directory)[-1:]:
        with contextlib.suppress(ValueError):
            after = datetime.strptime(newest.name.partition("-")[0], _NAME).replace(tzinfo=UTC)
            moment = max(moment, after + timedelta(microseconds=1))
    return f"{moment:{_NAME}}-{secrets.token_hex(4)}"


def _drop_old_generations(directory: Path, *, keep: int) -> None:
    """Remove all but the published generation and the keep before it, and what killed writers left."""
    current = _resolve(directory)
    earlier = [entry for entry in _generations(directory) if entry.name != current.name]
    for entry in earlier[: max(0, len(earlier) - keep)]:
        shutil.rmtree(entry, ignore_errors=True)
    for entry in _home(directory).glob(".link-*"):
        entry.unlink()
    for entry in _home(directory).glob(".writing-*"):
        with contextlib.suppress(Timeout), FileLock(entry / LOCK, timeout=0):
            shutil.rmtree(entry, ignore_errors=True)
