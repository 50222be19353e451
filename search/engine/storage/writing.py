"""New generations of an index, written beside the published one."""

import contextlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import faiss
import numpy as np
import numpy.typing as npt
from filelock import FileLock

from search.engine import durable
from search.engine.index.coarse import CoarseIndex, CoarseSearch, KeptRows, build_coarse, write_coarse
from search.engine.index.index import IndexInfo
from search.engine.index.match_fit import MatchFit
from search.engine.index.neighbours import Neighbours, measure_neighbours
from search.engine.index.records import ID_KEY, ImageRecord, id_key, ids_no_path_gives, metadata_entry
from search.engine.index.vector_file import StoredVectors, VectorFile
from search.engine.storage.generations import link, next_name, prune, publish_lock, require_index_or_nothing
from search.engine.storage.layout import (
    CODES,
    EMBEDDINGS,
    FAISS_INDEX,
    FLAT_HEADER,
    FLAT_IP,
    FORMAT,
    GIVEN_IDS,
    HASH,
    HASHES,
    ID_KEYS,
    INFO,
    LOCK,
    METADATA,
    METADATA_END,
    METADATA_START,
    OFFSETS,
    PARTS,
    SIGNATURE,
    SIGNATURES,
    SUMS,
    generation_directory,
    home,
    linked_generation,
    new_draft,
)
from search.engine.storage.reading import given_ids, load
from search.engine.storage.sums import read_sums, sums_in_info, write_sums
from search.engine.timestamps import timestamp
from search.engine.vectors import DIMENSION, Vectors

_ROWS_A_BLOCK = 8192


@dataclass(frozen=True, slots=True)
class Published:
    generation: str
    total_images: int
    neighbours: Neighbours | None


class Draft:
    """A generation that is being written into path, beside the published one.

    Used as a context manager: left without publish(), it is removed.
    """

    def __init__(self, directory: Path) -> None:
        """Raises PublishRefused where directory holds something that is no part of an index."""
        self._directory = directory
        require_index_or_nothing(directory)
        home(directory).mkdir(parents=True, exist_ok=True)
        self.path = new_draft(directory)
        self._lock = FileLock(self.path / LOCK)
        with contextlib.ExitStack() as made, publish_lock(directory):  # whoever clears drafts away holds it
            made.callback(self._remove)
            self.path.mkdir()
            self._lock.acquire()  # while this process lives, the draft stays
            made.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        self._lock.release()
        with contextlib.suppress(OSError):
            for name in PARTS | {LOCK}:  # rmtree opens files, of which this process may have too many
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def complete(self, name: str) -> None:
        """Give the files in path, which are on the disk, a generation's name; nobody reads them yet.

        Call it under publish_lock.
        """
        durable.sync(self.path)
        (self.path / LOCK).unlink()
        self.path.rename(generation_directory(self._directory, name))
        durable.sync(home(self._directory))


Publish = Callable[[Draft], str]


def publish_by_link(directory: Path, draft: Draft, *, keep: int) -> str:
    """Make the draft's files the index of a directory that no company's row speaks for; return the generation's name.

    keep: how many earlier generations stay.
    """
    with publish_lock(directory):
        before, name = linked_generation(directory), next_name(directory)
        draft.complete(name)
        link(directory, name)
        prune(directory, name, before=before, keep=keep)
    return name


class IndexWriter:
    """Writes a generation beside the published one, row by row in flat memory, and publishes it.

    Used as a context manager: left without publish(), it removes what it wrote.
    """

    def __init__(self, directory: Path, *, embeddings_npy: bool = True, before: CoarseIndex | None = None) -> None:
        """embeddings_npy: the vectors are written there as well, for other programs.
        before: the codes of the index that this one replaces, to be taken over as far as they serve; see add().

        Raises PublishRefused where directory holds something that is no part of an index.
        """
        self._ids = array("Q")
        self._folders: dict[str, int] = {}  # in the order of their first pictures
        self._folder_of = array("q")  # by picture
        self._last_path: str | None = None
        self._signatures: _ArrayFile | None = None
        self._hashes: _ArrayFile | None = None
        self._codes_before = before
        self._rows_before: list[npt.NDArray[np.int64]] = []
        with contextlib.ExitStack() as opened:
            self._draft = opened.enter_context(Draft(directory))
            self._faiss = opened.enter_context(self._open(FAISS_INDEX))
            self._embeddings = opened.enter_context(self._open(EMBEDDINGS)) if embeddings_npy else None
            self._metadata = opened.enter_context(self._open(METADATA))
            self._write_headers()
            self._metadata.write(METADATA_START)
            self._offsets = _ArrayFile(opened.enter_context(self._open(OFFSETS)), np.dtype("<i8"))
            self._offset = len(METADATA_START)
            self._offsets.add(np.array([self._offset]))
            self._opened = opened.pop_all()  # what fails before this, such as a full disk, leaves nothing behind

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk; what is left to write is thrown away in any case
            self._opened.__exit__(kind, error, trace)

    def add(
        self,
        vectors: Vectors,
        records: Sequence[ImageRecord],
        signatures: Any = None,
        *,
        hashes: npt.NDArray[np.uint64] | None = None,
        rows_before: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Append pictures, all of them in the order of their paths.

        vectors: float32 [n, 960], unit length; records: n; signatures: SIGNATURE [n], or None for all pictures.
        hashes: perceptual hashes, uint64 [n], or None for all pictures.
        rows_before: int64 [n], where the vectors come from in the index that this one replaces, negative for new ones.
        """
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        if rows.shape != (len(records), DIMENSION):
            raise ValueError(f"{len(records)} records with vectors of shape {rows.shape}")
        self._faiss.write(rows.data)
        if self._embeddings:
            self._embeddings.write(rows.data)
        if signatures is not None:
            self._signatures = self._signatures or self._open_array(SIGNATURES, SIGNATURE)
            self._signatures.add(signatures)
        if hashes is not None:
            self._hashes = self._hashes or self._open_array(HASHES, HASH)
            self._hashes.add(hashes)
        if self._codes_before:
            self._rows_before.append(np.full(len(rows), -1) if rows_before is None else rows_before.copy())
        self._add_records(records)

    def _add_records(self, records: Sequence[ImageRecord]) -> None:
        ends = array("q")
        for record in records:
            if self._last_path is not None and record.path <= self._last_path:
                raise ValueError(f"{record.path!r} comes after {self._last_path!r}: paths are unique and in order")
            line = (b",\n" if self._ids else b"") + json.dumps(metadata_entry(record)).encode()
            self._metadata.write(line)
            self._offset += len(line)
            ends.append(self._offset)
            self._ids.append(id_key(record.id))
            self._folder_of.append(self._folders.setdefault(record.location, len(self._folders)))
            self._last_path = record.path
        self._offsets.add(ends)

    def publish(
        self,
        info: IndexInfo,
        publish: Publish,
        *,
        given_ids: dict[str, str] | None = None,
        fit: Callable[[StoredVectors], MatchFit | None] | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> Published:
        """Finish the files, see that they can be read, and have publish make them the index; return what it is.

        info: what is to be said of the index; what the files tell of it is filled in here.
        given_ids: see the function of that name. fit: makes the fit of these vectors; None: that of info stays.
        beat: called now and then.
        """
        durable.write(self._draft.path / GIVEN_IDS, json.dumps(given_ids or {}).encode())
        self._finish_files()
        info = replace(
            info,
            total_images=len(self._ids),
            timestamp=timestamp(),
            coarse=self._write_codes(beat),
            neighbours=self._measure_neighbours(beat),
            match=fit(self._written_vectors()) if fit else info.match,
        )
        self._describe_files(info, beat)
        load(self._draft.path)
        return Published(publish(self._draft), len(self._ids), info.neighbours)

    def _open(self, name: str) -> IO[bytes]:
        return (self._draft.path / name).open("wb", buffering=1 << 20)

    def _open_array(self, name: str, kind: np.dtype) -> "_ArrayFile":
        return _ArrayFile(self._opened.enter_context(self._open(name)), kind)

    def _write_headers(self) -> None:
        shape = (len(self._ids), DIMENSION)
        self._faiss.seek(0)
        unused = 1 << 20  # what FAISS itself writes there
        self._faiss.write(
            FLAT_HEADER.pack(
                FLAT_IP,
                DIMENSION,
                shape[0],
                unused,
                unused,
                True,
                faiss.METRIC_INNER_PRODUCT,
                shape[0] * DIMENSION,
            )
        )
        if self._embeddings:
            self._embeddings.seek(0)
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            # NumPy pads it so that it keeps its length whatever the number of rows.
            np.lib.format.write_array_header_1_0(self._embeddings, header)

    def _finish_files(self) -> None:
        self._write_headers()
        self._metadata.write(METADATA_END)
        for file in filter(None, (self._faiss, self._embeddings, self._metadata)):
            durable.sync(file)
            file.close()
        self._write_id_keys()
        for values in filter(None, (self._offsets, self._signatures, self._hashes)):
            values.finish()

    def _write_id_keys(self) -> None:
        keys = np.frombuffer(self._ids, np.uint64) if self._ids else np.empty(0, np.uint64)
        order = np.argsort(keys, kind="stable")
        id_keys = self._open_array(ID_KEYS, ID_KEY)
        for start in range(0, len(order), _ROWS_A_BLOCK):
            rows = order[start : start + _ROWS_A_BLOCK]
            block = np.empty(len(rows), ID_KEY)
            block["key"], block["row"] = keys[rows], rows
            id_keys.add(block)
        id_keys.finish()

    def _describe_files(self, info: IndexInfo, beat: Callable[[], None]) -> None:
        entries = info_entries(info) | {"format": FORMAT} | sums_in_info(self._draft.path, beat=beat)
        durable.write(self._draft.path / INFO, json.dumps(entries, indent=2).encode())
        names = [name for name in PARTS - {SUMS} if (self._draft.path / name).exists()]
        sums = {name: durable.sha256(self._draft.path / name, beat=beat).hex() for name in names}
        write_sums(self._draft.path, sums)

    def _write_codes(self, beat: Callable[[], None]) -> CoarseSearch | None:
        if not self._ids:
            return None
        kept = KeptRows(self._codes_before, np.concatenate(self._rows_before)) if self._codes_before else None
        coarse = build_coarse(self._written_vectors(), kept=kept, beat=beat)
        if coarse is None:
            return None
        write_coarse(coarse, self._draft.path / CODES)
        durable.sync(self._draft.path / CODES)
        return coarse.search

    def _measure_neighbours(self, beat: Callable[[], None]) -> Neighbours | None:
        return measure_neighbours(
            self._written_vectors(),
            folders=np.array(self._folder_of, np.int64),
            names=list(self._folders),
            ids=np.array(self._ids, np.uint64),
            beat=beat,
        )

    def _written_vectors(self) -> VectorFile:
        return VectorFile(self._draft.path / FAISS_INDEX, start=FLAT_HEADER.size, count=len(self._ids))


class _ArrayFile:
    """A .npy file of one dimension, as NumPy saves it, that is written as its values come."""

    def __init__(self, file: IO[bytes], kind: np.dtype) -> None:
        self._file, self._kind, self._count = file, kind, 0
        self._write_header()

    def add(self, values: npt.ArrayLike) -> None:
        block = np.asarray(values, self._kind)
        self._file.write(block.tobytes())
        self._count += len(block)

    def finish(self) -> None:
        """Return when the file is whole and on the disk; it is closed then."""
        self._file.seek(0)
        self._write_header()  # as long as the first one: NumPy leaves room for any number
        durable.sync(self._file)
        self._file.close()

    def _write_header(self) -> None:
        descr = np.lib.format.dtype_to_descr(self._kind)
        header = {"descr": descr, "fortran_order": False, "shape": (self._count,)}
        np.lib.format.write_array_header_1_0(self._file, header)


def keep_ids(generation: Path, company: str) -> None:
    """Note in a draft whose files came from a company of another name the ids that its paths do not give here."""
    if not (generation / GIVEN_IDS).exists():
        return  # then they are read from its metadata
    kept = given_ids(generation, company) | ids_no_path_gives(company, load(generation).records)
    durable.write(generation / GIVEN_IDS, json.dumps(kept).encode())
    if sums := read_sums(generation):  # of the other files they stay as they came, to be compared
        write_sums(generation, sums | {GIVEN_IDS: durable.sha256(generation / GIVEN_IDS).hex()})


def info_entries(index_info: IndexInfo) -> dict[str, Any]:
    """Return what is known of the index, as in index_info.json."""
    return {name: value for name, value in asdict(index_info).items() if value is not None}
