"""What an index on disk says, read whole while others are published."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import faiss
import numpy as np

from search.engine.errors import IndexCorrupt, IndexNotBuilt, IndexUnusable
from search.engine.index.coarse import CoarseIndex, CoarseSearch, read_coarse
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.records import ID_KEY, LineRecords, ListRecords, ids_no_path_gives, parse_entry
from search.engine.index.vector_file import SmallVectorFile, StoredVectors, VectorFile
from search.engine.storage.layout import (
    CODES,
    FAISS_INDEX,
    FLAT_HEADER,
    FLAT_IP,
    GIVEN_IDS,
    ID_KEYS,
    INFO,
    METADATA,
    METADATA_END,
    OFFSETS,
    PARTS,
    SIGNATURE,
    SIGNATURES,
    complete_generations,
    resolve,
)
from search.engine.vectors import DIMENSION

logger = logging.getLogger(__name__)

_FEW_VECTORS = (64 << 20) // (4 * DIMENSION)
_POINTER = b"version https://git-lfs"

T = TypeVar("T")


def has_index(directory: Path) -> bool:
    """Return whether directory holds the two files that every index has, or hides from this user whether it does."""
    return version(directory) != ""


def version(directory: Path) -> str:
    """Return a text that changes whenever another index is published into directory; "" where there is none."""
    return read_whole(directory, _stamp)


def info(directory: Path) -> IndexInfo:
    """Return what the index in directory says of itself. Raises IndexNotBuilt and IndexCorrupt."""
    return read_whole(directory, lambda generation: read_info(generation)[0])


def is_ours(directory: Path) -> bool:
    """Return whether the index in directory was made by this project, not by the Flask service."""
    return read_whole(directory, lambda generation: read_info(generation)[1])


def load(directory: Path) -> ImageIndex:
    """Return the published index, whose files are read further as searches need it.

    Raises IndexNotBuilt where there is none, and IndexCorrupt, naming the file, where the files
    cannot be read or disagree in number or dimension.
    """
    return read_whole(directory, _load_generation)


def given_ids(directory: Path, company: str, files: Path | None = None) -> dict[str, str]:
    """Return, by path, the ids that the index's pictures have and that image_id(company, path) does not give.

    files: where the files of the index lie, by default those that directory leads to.

    Another program gave them. They are read from whatever is whole, also of a damaged index and of earlier
    generations, because a picture keeps its id for ever.
    """
    given: dict[str, str] = {}
    for generation in [*complete_generations(directory), resolve(files or directory)]:
        with contextlib.suppress(OSError, ValueError, TypeError):
            if (generation / GIVEN_IDS).exists():
                given |= parse_object((generation / GIVEN_IDS).read_bytes())
            else:
                given |= ids_no_path_gives(company, map(parse_entry, json.loads((generation / METADATA).read_bytes())))
    return given


@contextlib.contextmanager
def open_files(directory: Path) -> Iterator[list[tuple[str, IO[bytes]]]]:
    """Yield the names and the open files of the published index, in order of their names; they stay whole if another
    is published meanwhile. Raises IndexNotBuilt and IndexCorrupt.
    """
    with contextlib.ExitStack() as stack:

        def open_all(generation: Path) -> list[tuple[str, IO[bytes]]]:
            read_info(generation)
            names = sorted(name for name in PARTS if (generation / name).exists())
            try:
                return [(name, stack.enter_context((generation / name).open("rb"))) for name in names]
            except OSError as error:
                raise IndexCorrupt(f"A file of {directory.name}'s index cannot be opened: {error.strerror}") from error

        yield read_whole(directory, open_all)


def read_whole(directory: Path, read: Callable[[Path], T]) -> T:
    """Return what read makes of the published files, read again where others were published meanwhile.

    A generation of ours never changes, but it may be dropped while it is read, and a plain directory is moved away
    by the first publication.
    """
    while True:
        generation = resolve(directory)
        stamp = _stamp(generation)
        try:
            with _refusals_named():
                found = read(generation)
        except IndexUnusable:
            if (resolve(directory), _stamp(generation)) == (generation, stamp):
                raise
        else:
            if (resolve(directory), _stamp(generation)) == (generation, stamp):
                return found


def _stamp(generation: Path) -> str:
    try:
        stats = [(generation / name).stat() for name in (FAISS_INDEX, METADATA)]
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"{generation.name} {error.strerror}"
    return f"{generation.name} " + " ".join(f"{s.st_ino}-{s.st_mtime_ns}-{s.st_size}" for s in stats)


def _load_generation(generation: Path) -> ImageIndex:
    index_info, ours = read_info(generation)
    count, dimension = _flat_shape(generation)
    if (count, dimension) != (index_info.total_images, index_info.embedding_dimension):
        raise IndexCorrupt(
            f"{INFO} says {index_info.total_images} vectors of {index_info.embedding_dimension} numbers, "
            f"{FAISS_INDEX} holds {count} of {dimension}"
        )
    records = _map_records(generation) if ours else _parse_records(generation / METADATA)
    if len(records) != count:
        raise IndexCorrupt(f"{METADATA} has {len(records)} entries, {FAISS_INDEX} {count} vectors")
    signatures = _read_signatures(generation, count)
    codes = _read_codes(generation, index_info)
    return ImageIndex(index_info, records, _open_vectors(generation, count), signatures, codes)


def _map_records(generation: Path) -> LineRecords:
    offsets, id_keys = _map_array(generation / OFFSETS), _map_array(generation / ID_KEYS)
    try:
        text = np.memmap(generation / METADATA, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise unreadable(generation / METADATA, error) from error
    if offsets.ndim != 1 or offsets.dtype != np.int64 or len(offsets) == 0:
        raise IndexCorrupt(f"{OFFSETS} holds {offsets.dtype} {offsets.shape}")
    if offsets[-1] + len(METADATA_END) != len(text):
        raise IndexCorrupt(f"{METADATA} has another length than {OFFSETS} says")
    if id_keys.dtype != ID_KEY or id_keys.shape != (len(offsets) - 1,):
        raise IndexCorrupt(f"{ID_KEYS} holds {id_keys.dtype} {id_keys.shape}, {OFFSETS} {len(offsets) - 1} entries")
    return LineRecords(text, offsets, id_keys)


def _parse_records(path: Path) -> ListRecords:
    try:
        return ListRecords([parse_entry(entry) for entry in json.loads(path.read_bytes())])
    except (OSError, ValueError, TypeError) as error:
        raise unreadable(path, error) from error


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
        logger.warning("%s of %s cannot be read, searches scan all vectors: %s", CODES, generation, error)
        return None


@contextlib.contextmanager
def _refusals_named() -> Iterator[None]:
    """Raise IndexCorrupt, naming the file, for what the disk refuses, such as to tell whether it is there."""
    try:
        yield
    except OSError as error:
        raise unreadable(Path(error.filename or "a file"), error) from error


@_refusals_named()
def read_info(generation: Path) -> tuple[IndexInfo, bool]:
    """Return the info and whether the files are ours; the Flask service may have left no info at all."""
    missing = [name for name in (FAISS_INDEX, METADATA) if not (generation / name).exists()]
    if len(missing) == 2:
        raise IndexNotBuilt(f"{generation} contains no index")
    if missing:
        raise IndexCorrupt(f"{missing[0]} is missing")
    path = generation / INFO
    ours = (generation / OFFSETS).exists()
    try:
        entries = parse_object(path.read_bytes())
        known = {field.name: entries[field.name] for field in fields(IndexInfo) if field.name in entries}
        numbers = ("total_images", "embedding_dimension", "live_sequence")
        known |= {name: int(known[name]) for name in numbers if name in known}
        known["coarse"] = _coarse_search(known.get("coarse"))
    except (OSError, ValueError, TypeError) as error:
        if ours or not isinstance(error, FileNotFoundError):
            raise unreadable(path, error) from error
        return IndexInfo(*_flat_shape(generation)), False
    return replace(IndexInfo(*_flat_shape(generation)), **known), ours or "format" in entries


def _coarse_search(entry: Any) -> CoarseSearch | None:
    """Return None for one that another version wrote in fields of its own, too: the exact scan serves it."""
    known = {field.name for field in fields(CoarseSearch)}
    return CoarseSearch(**entry) if isinstance(entry, dict) and entry.keys() == known else None


def parse_object(text: bytes) -> dict[str, Any]:
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise ValueError("it is not a JSON object")
    return entries


def _flat_shape(generation: Path) -> tuple[int, int]:
    """Return (vectors, dimension) as the header of faiss_index.bin and its length say."""
    path = generation / FAISS_INDEX
    try:
        with path.open("rb") as file:
            start = file.read(FLAT_HEADER.size)
            length = os.fstat(file.fileno()).st_size
        if not start.startswith(FLAT_IP) or len(start) < FLAT_HEADER.size:
            raise ValueError("it is not an IndexFlatIP of FAISS")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error
    _, dimension, count, _, _, _, metric, floats = FLAT_HEADER.unpack(start)
    if metric != faiss.METRIC_INNER_PRODUCT or dimension != DIMENSION or floats != count * dimension:
        raise IndexCorrupt(f"{path.name} is not an inner product index of {DIMENSION} numbers a vector")
    if length != FLAT_HEADER.size + 4 * floats:
        raise IndexCorrupt(f"{path.name} is {length} bytes long, its header says {FLAT_HEADER.size + 4 * floats}")
    return count, dimension


def _open_vectors(generation: Path, count: int) -> StoredVectors:
    path = generation / FAISS_INDEX
    try:
        file = VectorFile(path, start=FLAT_HEADER.size, count=count)
    except OSError as error:
        raise unreadable(path, error) from error
    return SmallVectorFile(file) if count <= _FEW_VECTORS else file


def _map_array(path: Path) -> Any:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> IndexCorrupt:
    """Return what is wrong with a file of an index, in words that name it without its directory."""
    if isinstance(error, FileNotFoundError):
        return IndexCorrupt(f"{path.name} is missing")
    if isinstance(error, OSError):
        return IndexCorrupt(f"{path.name} cannot be read: {error.strerror}")
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            return IndexCorrupt(f"{path.name} is a Git LFS pointer: run `git lfs pull` at its source")
    return IndexCorrupt(f"{path.name} cannot be read: {error}")
