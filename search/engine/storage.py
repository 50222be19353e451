"""An index on disk; the only file that knows file names.

    <parent>/AOF                                     symbolic link to the published generation
    <parent>/.generations/AOF/<generation>/          never changes once it has this name
        faiss_index.bin        IndexFlatIP, as faiss.write_index lays it out
        embeddings.npy         float32 [N, 960], the same vectors
        metadata.json          list in index order, one entry a line
        metadata_offsets.npy   int64 [N + 1], where each line of metadata.json begins
        signatures.npy         SIGNATURE [N], what the picture files looked like; missing where nobody knows
        id_keys.npy            records.ID_KEY [N], sorted: finds a row by its id
        index_info.json        IndexInfo; its "format" says that the files are ours
    <parent>/.generations/AOF/.writing-<hex>/        a generation that is being written
    <parent>/.generations/AOF/.building/             what unfinished builds have embedded, see workspace.py

A plain directory with the first four files (those of the Flask service, which lack the rest) is an index too; it
becomes a generation when the first one of ours is published in its place.
"""

import contextlib
import json
import os
import secrets
import shutil
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import faiss
import numpy as np
from filelock import FileLock, Timeout

from search.engine.embedder import DIMENSION, Vectors
from search.engine.errors import IndexCorrupt, IndexNotBuilt, PublishRefused
from search.engine.index import ImageIndex, IndexInfo
from search.engine.records import (
    ID_KEY,
    ImageRecord,
    LineRecords,
    ListRecords,
    id_key,
    metadata_entry,
    parse_entry,
)

FAISS_INDEX = "faiss_index.bin"
EMBEDDINGS = "embeddings.npy"
METADATA = "metadata.json"
OFFSETS = "metadata_offsets.npy"
SIGNATURES = "signatures.npy"
ID_KEYS = "id_keys.npy"
INFO = "index_info.json"

GENERATIONS = ".generations"
FORMAT = 1
LOCK = ".lock"

SIGNATURE = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("sha256", "u1", (32,))])

_METADATA_START = b"[\n"
_METADATA_END = b"\n]\n"

# IndexFlatIP in faiss/impl/index_write.cpp: fourcc, dimension, number of vectors, two unused numbers, trained, metric,
# then how many floats follow, then the floats.
_FLAT_HEADER = struct.Struct("<4siqqq?iQ")
_FLAT_IP = b"IxFI"


# Reading ------------------------------------------------------------------------------------------------------------


def has_index(directory: Path) -> bool:
    """Return whether directory holds the two files that every index has."""
    generation = _resolve(directory)
    return (generation / FAISS_INDEX).is_file() and (generation / METADATA).is_file()


def version(directory: Path) -> str:
    """Return a text that changes whenever another index is published into directory; "" where there is none."""
    generation = _resolve(directory)
    try:
        stats = [(generation / name).stat() for name in (FAISS_INDEX, METADATA)]
    except OSError:
        return ""
    return f"{generation.name} " + " ".join(f"{s.st_ino}-{s.st_mtime_ns}-{s.st_size}" for s in stats)


def info(directory: Path) -> IndexInfo:
    """Return what the index in directory says of itself. Raises IndexNotBuilt and IndexCorrupt."""
    if not has_index(directory):
        raise IndexNotBuilt(f"{directory} holds no index")
    return _read_info(_resolve(directory))[0]


def load(directory: Path) -> ImageIndex:
    """Return the published index, memory-mapped where its files allow it.

    Raises IndexNotBuilt where there is none, and IndexCorrupt, naming the file, where the files
    cannot be read or disagree in number or dimension.
    """
    if not has_index(directory):
        raise IndexNotBuilt(f"{directory} holds no index")
    generation = _resolve(directory)
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
    return ImageIndex(index_info, records, vectors, _read_signatures(generation, len(vectors)))


def _map_records(generation: Path) -> LineRecords:
    try:
        offsets = np.load(generation / OFFSETS, mmap_mode="r")
        id_keys = np.load(generation / ID_KEYS, mmap_mode="r")
        text = np.memmap(generation / METADATA, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{OFFSETS}, {ID_KEYS} or {METADATA} cannot be read: {error}") from error
    if offsets.ndim != 1 or len(offsets) == 0 or offsets[-1] + len(_METADATA_END) != len(text):
        raise IndexCorrupt(f"{METADATA} has another length than {OFFSETS} says")
    if id_keys.shape != (len(offsets) - 1,):
        raise IndexCorrupt(f"{ID_KEYS} has {len(id_keys)} entries, {OFFSETS} {len(offsets) - 1}")
    return LineRecords(text, offsets, id_keys)


def _parse_records(path: Path) -> ListRecords:
    try:
        return ListRecords([parse_entry(entry) for entry in json.loads(path.read_bytes())])
    except (OSError, ValueError, TypeError) as error:
        raise IndexCorrupt(f"{path.name} cannot be read: {error}") from error


def _read_signatures(generation: Path, count: int) -> Any:
    path = generation / SIGNATURES
    if not path.exists():
        return None
    try:
        signatures = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path.name} cannot be read: {error}") from error
    if signatures.dtype != SIGNATURE or signatures.shape != (count,):
        raise IndexCorrupt(f"{path.name} does not fit the {count} vectors")
    return signatures


def _read_info(generation: Path) -> tuple[IndexInfo, bool]:
    """Return the info and whether the files are ours; the Flask service may have left no info at all."""
    path = generation / INFO
    try:
        entries = json.loads(path.read_bytes())
        known = {field.name: entries[field.name] for field in fields(IndexInfo) if field.name in entries}
        known |= {name: int(known[name]) for name in ("total_images", "embedding_dimension") if name in known}
        return replace(IndexInfo(*_flat_shape(generation)), **known), "format" in entries
    except FileNotFoundError:
        return IndexInfo(*_flat_shape(generation)), False
    except (OSError, ValueError, TypeError) as error:
        raise IndexCorrupt(f"{path.name} cannot be read: {error}") from error


def _flat_shape(generation: Path) -> tuple[int, int]:
    """Return (vectors, dimension) as the header of faiss_index.bin and its length say."""
    path = generation / FAISS_INDEX
    with path.open("rb") as file:
        start = file.read(_FLAT_HEADER.size)
        length = os.fstat(file.fileno()).st_size
    if start.startswith(b"version https://git-lfs"):
        raise IndexCorrupt(f"{path.name} is a Git LFS pointer: run `git lfs pull` where it came from")
    if not start.startswith(_FLAT_IP) or len(start) < _FLAT_HEADER.size:
        raise IndexCorrupt(f"{path.name} is not an IndexFlatIP of FAISS")
    _, dimension, count, _, _, _, metric, floats = _FLAT_HEADER.unpack(start)
    if metric != faiss.METRIC_INNER_PRODUCT or dimension != DIMENSION or floats != count * dimension:
        raise IndexCorrupt(f"{path.name} is not an inner product index of {DIMENSION} numbers a vector")
    if length != _FLAT_HEADER.size + 4 * floats:
        raise IndexCorrupt(f"{path.name} is {length} bytes long, its header says {_FLAT_HEADER.size + 4 * floats}")
    return count, dimension


def _read_vectors(generation: Path, ours: bool) -> Vectors:
    shape = _flat_shape(generation)
    path = generation / EMBEDDINGS
    try:
        vectors = np.load(path, mmap_mode="r")
    except FileNotFoundError as error:
        if ours:
            raise IndexCorrupt(f"{path.name} is missing") from error
        return _copy_vectors(generation)
    except (OSError, ValueError) as error:
        raise IndexCorrupt(f"{path.name} cannot be read: {error}") from error
    if vectors.shape != shape or vectors.dtype != np.float32:
        raise IndexCorrupt(f"{path.name} holds {vectors.dtype} {vectors.shape}, {FAISS_INDEX} float32 {shape}")
    if _same_samples(generation / FAISS_INDEX, vectors):
        return vectors.view(np.ndarray)
    if ours:
        raise IndexCorrupt(f"{path.name} and {FAISS_INDEX} hold different vectors")
    return _copy_vectors(generation)  # the Flask service searched what FAISS held, normalised or not elsewhere


def _copy_vectors(generation: Path) -> Vectors:
    flat = faiss.read_index(str(generation / FAISS_INDEX))
    vectors: Vectors = flat.reconstruct_n(0, flat.ntotal)
    return vectors


def _same_samples(faiss_index: Path, vectors: Vectors) -> bool:
    """Return whether the first, middle and last vectors are those of faiss_index.bin."""
    if not len(vectors):
        return True
    row_bytes = 4 * vectors.shape[1]
    with faiss_index.open("rb") as file:
        for row in {0, len(vectors) // 2, len(vectors) - 1}:
            file.seek(_FLAT_HEADER.size + row * row_bytes)
            if file.read(row_bytes) != vectors[row].tobytes():
                return False
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


class IndexWriter:
    """Writes a generation beside the published one, row by row in flat memory, and publishes it.

    Used as a context manager: left without publish(), it removes what it wrote.
    """

    def __init__(self, directory: Path) -> None:
        """Raises PublishRefused where directory holds something that is not an index."""
        self._directory = directory
        _require_index_or_nothing(directory)
        _home(directory).mkdir(parents=True, exist_ok=True)
        self._draft = _home(directory) / f".writing-{secrets.token_hex(8)}"
        self._draft.mkdir()
        self._lock = FileLock(self._draft / LOCK)
        self._lock.acquire()  # held while this process lives: nobody clears the draft away
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
            file.close()
        self._lock.release()
        shutil.rmtree(self._draft, ignore_errors=True)

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
        confirm: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> Published:
        """Make what was added the index of the directory, at once for every reader, and drop old generations.

        info: what is to be said of the index; its number of images and its timestamp are filled in here.
        keep: how many earlier generations stay for a rollback. confirm: entered around the switch; raising
        there leaves the old index in place.
        """
        self._finish_files(replace(info, total_images=len(self._ids), timestamp=timestamp()))
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
        home = _home(self._directory)
        with _publish_lock(self._directory):
            with confirm():
                (self._draft / LOCK).unlink()
                self._draft.rename(home / name)
                _fsync(home)
                _link(self._directory, home / name)
            _drop_old_generations(self._directory, keep=keep)
        return Published(name, len(self._ids))

    def _open(self, name: str) -> IO[bytes]:
        return (self._draft / name).open("wb", buffering=1 << 20)

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

    def _finish_files(self, info: IndexInfo) -> None:
        self._write_headers()
        self._metadata.write(_METADATA_END)
        for file in (self._faiss, self._embeddings, self._metadata):
            _close_durably(file)
        id_keys = np.empty(len(self._ids), dtype=ID_KEY)
        id_keys["key"], id_keys["row"] = self._ids, np.arange(len(self._ids))
        self._save(OFFSETS, np.array(self._offsets, dtype="<i8"))
        self._save(ID_KEYS, np.sort(id_keys, order="key"))
        if self._signatures:
            self._save(SIGNATURES, np.concatenate(self._signatures))
        with self._open(INFO) as file:
            file.write(json.dumps(info_entries(info) | {"format": FORMAT}, indent=2).encode())
            _close_durably(file)
        _fsync(self._draft)

    def _save(self, name: str, values: Any) -> None:
        with self._open(name) as file:
            np.save(file, values)
            _close_durably(file)


def info_entries(index_info: IndexInfo) -> dict[str, Any]:
    """Return what is known of the index, as in index_info.json."""
    return {name: value for name, value in asdict(index_info).items() if value is not None}


def timestamp() -> str:
    """Return now, UTC, as every timestamp of the contract is written: 2025-10-27T12:00:00.000Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def generations(directory: Path) -> list[Generation]:
    """Return the generations of the index in directory, newest first."""
    current = _resolve(directory).name
    return [
        Generation(entry.name, entry.name == current, _read_info(entry)[0])
        for entry in reversed(_generations(directory))
    ]


def roll_back(directory: Path, generation: str) -> None:
    """Publish an earlier generation again. Raises IndexNotBuilt where it is gone, and IndexCorrupt."""
    with _publish_lock(directory):
        entry = _home(directory) / generation
        if entry not in _generations(directory):
            raise IndexNotBuilt(f"There is no generation {generation} of {directory.name} any more")
        load(entry)
        _link(directory, entry)


def workspace(directory: Path) -> Path:
    """Return where builds of the index in directory keep what they have embedded so far."""
    return _home(directory) / ".building"


def size_on_disk(directory: Path) -> int:
    """Return how many bytes the index in directory takes with all its generations and unfinished builds."""
    places = [_home(directory)] if directory.is_symlink() else [_home(directory), directory]
    return sum(file.lstat().st_size for place in places for file in place.rglob("*") if file.is_file())


def _home(directory: Path) -> Path:
    return directory.parent / GENERATIONS / directory.name


def _generations(directory: Path) -> list[Path]:
    """Return the complete generations, oldest first."""
    try:
        return sorted(entry for entry in _home(directory).iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def _require_index_or_nothing(directory: Path) -> None:
    if directory.is_symlink() or not directory.exists() or has_index(directory):
        return
    if not directory.is_dir() or any(directory.iterdir()):
        raise PublishRefused(f"{directory} holds something that is not an index: give another directory")


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
        directory.rename(_home(directory) / f"{datetime.fromtimestamp(0, UTC):%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}")
    link.replace(directory)
    _fsync(directory.parent)


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


def _close_durably(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
