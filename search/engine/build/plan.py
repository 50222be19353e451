"""What a build has to do: which pictures keep their vectors and which are to be embedded."""

import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.errors import NotEnoughSpace, NothingToIndex
from search.engine.index.index import ImageIndex
from search.engine.pictures.folder import ImageFile, SkippedFile
from search.engine.pictures.folders import PictureFolder, as_folder
from search.engine.storage import SIGNATURE

EMBED = -1
SKIPPED = -2

# A file changed right after it was looked at may keep its time on file systems that count in seconds.
TIME_GRAIN_NS = 2_000_000_000
_BEAT_SECONDS = 0.5
_BLOCK = 1024  # pictures
_END = "\0"  # of a path: no path holds one

PICTURE = np.dtype(
    [
        ("signature", SIGNATURE),  # the content's hash is known where the vector is kept
        ("row", "<i8"),  # in the index before, or EMBED
        ("number", "<i8"),  # in the workspace, EMBED, or SKIPPED where it could not be read
        ("path", "<i8"),  # where its path begins
    ]
)
Pictures = npt.NDArray[np.void]  # PICTURE [N]
Places = npt.NDArray[np.int64]  # in the plan


class Plan:
    """The pictures of a folder, sorted by path, and where the vector of each comes from.

    They lie in files without a name, which go with the process; memory holds a block at a time. One thread writes.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """directory: on the disk that has room for the files, by default that of temporary files. Raises OSError."""
        self._pictures, self._paths = self._open(directory), self._open(directory)
        self._count = self._paths_end = 0
        self.skipped: list[SkippedFile] = []
        self.removed = 0  # pictures of the index before that are not in the folder any more

    def _open(self, directory: Path | None) -> IO[bytes]:
        file: IO[bytes] = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # closed with the plan
        weakref.finalize(self, file.close)
        return file

    def __len__(self) -> int:
        return self._count

    @property
    def found(self) -> int:
        return len(self) + len(self.skipped)

    @property
    def kept(self) -> int:
        return sum(int(np.count_nonzero(pictures["row"] != EMBED)) for _, pictures in self.blocks())

    @property
    def indexed(self) -> int:
        return sum(int(np.count_nonzero(is_indexed(pictures))) for _, pictures in self.blocks())

    @property
    def to_embed(self) -> int:
        return sum(int(np.count_nonzero(is_to_embed(pictures))) for _, pictures in self.blocks())

    def append(self, paths: list[str], pictures: Pictures) -> None:
        """pictures: PICTURE [n]; where their paths begin is filled in here."""
        texts = [f"{path}{_END}".encode() for path in paths]
        starts = np.cumsum([self._paths_end, *map(len, texts)])
        pictures["path"] = starts[:-1]
        _write(self._paths, b"".join(texts), self._paths_end)
        self._write(self._count, pictures)
        self._count, self._paths_end = self._count + len(paths), int(starts[-1])

    def blocks(self, places: range | None = None) -> Iterator[tuple[int, Pictures]]:
        """Yield the pictures of these places, or all, block by block, and the place of each block's first."""
        span = range(len(self)) if places is None else places
        for start in range(span.start, span.stop, _BLOCK):
            yield start, self.pictures(range(start, min(start + _BLOCK, span.stop)))

    def pictures(self, places: range) -> Pictures:
        """Return a copy of what is planned for the pictures of these places."""
        content = _read(self._pictures, places.start * PICTURE.itemsize, len(places) * PICTURE.itemsize)
        return np.frombuffer(bytearray(content), PICTURE)

    def paths(self, places: range) -> list[str]:
        if not places:
            return []
        ends = self.pictures(range(places.start, min(places.stop + 1, len(self))))["path"]
        start, stop = int(ends[0]), int(ends[-1]) if places.stop < len(self) else self._paths_end
        return _read(self._paths, start, stop - start).decode().split(_END)[:-1]

    def path(self, place: int) -> str:
        return self.paths(range(place, place + 1))[0]

    def update(self, places: Places, **values: npt.NDArray[Any]) -> None:
        """Set fields of the pictures of these places, which ascend; values: [len(places)] of each field."""
        for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
            if len(run):
                pictures = self.pictures(range(int(places[run[0]]), int(places[run[-1]]) + 1))
                for name, value in values.items():
                    pictures[name] = value[run]
                self._write(int(places[run[0]]), pictures)

    def _write(self, place: int, pictures: Pictures) -> None:
        _write(self._pictures, pictures.tobytes(), place * PICTURE.itemsize)


class PathsOfRows(Sequence[str]):
    """The paths of those pictures of a plan that are indexed, by their rows. Threads share it."""

    def __init__(self, plan: Plan, left_out: list[int]) -> None:
        """left_out: the places of the others, which ascend."""
        self._plan = plan
        self._before = np.array(left_out, np.int64) - np.arange(len(left_out))  # rows before each

    def __len__(self) -> int:
        return len(self._plan) - len(self._before)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[each] for each in range(len(self))[row]]
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self._plan.path(row + int(np.searchsorted(self._before, row, side="right")))


def is_to_embed(pictures: Pictures) -> npt.NDArray[np.bool_]:
    """Return which pictures have no vector yet and may get one, [len(pictures)]."""
    return (pictures["row"] == EMBED) & (pictures["number"] == EMBED)


def is_indexed(pictures: Pictures) -> npt.NDArray[np.bool_]:
    """Return which pictures have a vector, [len(pictures)]."""
    return (pictures["row"] != EMBED) | (pictures["number"] >= 0)


def make_plan(
    folder: Path | PictureFolder,
    before: ImageIndex | None,
    *,
    keep: bool,
    checksum: bool,
    beat: Callable[[int], None] = lambda found: None,
    directory: Path | None = None,
) -> Plan:
    """Compare folder with the index before by path, size and time, and by content where those are in doubt.

    before: the index before, or None. keep: its vectors may be kept, and it has signatures. checksum: contents are
    always compared. directory: see Plan.
    beat is called about twice a second with the number of files found so far. Raises NothingToIndex where folder cannot
    be read, NotEnoughSpace, StoreError, and IndexCorrupt where an entry of the index before is damaged.
    """
    plan, folder = Plan(directory), as_folder(folder)
    comparison = _Comparison(folder, before, keep=keep, checksum=checksum)
    block = _Block(before if keep else None)
    beat_at = time.monotonic()
    try:
        for entry in folder.find():
            if time.monotonic() - beat_at > _BEAT_SECONDS:  # hashing a thousand large files takes minutes
                beat(len(plan) + len(block.files))
                beat_at = time.monotonic()
            if isinstance(entry, SkippedFile):
                plan.skipped.append(entry)
                continue
            block.add(entry, comparison.row_to_keep(entry))
            if len(block.files) == _BLOCK:
                block.move_to(plan)
    except OSError as error:
        raise NothingToIndex(f"The image folder {folder} cannot be read: {error.strerror}") from error
    block.move_to(plan)
    plan.removed = comparison.removed()
    return plan


class _Block:
    """Pictures that are not in the plan yet."""

    def __init__(self, kept: ImageIndex | None) -> None:
        """kept: the index before whose rows are kept."""
        self.files: list[ImageFile] = []
        self._rows: list[int] = []
        self._kept = kept

    def add(self, file: ImageFile, row: int) -> None:
        self.files.append(file)
        self._rows.append(row)

    def move_to(self, plan: Plan) -> None:
        pictures = np.zeros(len(self.files), PICTURE)
        signatures = pictures["signature"]
        signatures["size"] = [file.size for file in self.files]
        signatures["mtime_ns"] = [file.mtime_ns for file in self.files]
        pictures["row"], pictures["number"] = self._rows, EMBED
        if self._kept is not None:
            kept = pictures["row"] != EMBED
            signatures["sha256"][kept] = self._kept.signatures["sha256"][pictures["row"][kept]]
        plan.append([file.path for file in self.files], pictures)
        self.files, self._rows = [], []


class _Comparison:
    """Walks through the index before beside the folder: both are sorted by path."""

    def __init__(self, folder: PictureFolder, before: ImageIndex | None, *, keep: bool, checksum: bool) -> None:
        self._folder = folder
        self._before = before
        self._keep = keep
        self._checksum = checksum
        self._rows = enumerate(record.path for record in before.records) if before else iter(())
        self._matched = 0
        self._row, self._path = self._next_row()

    def row_to_keep(self, file: ImageFile) -> int:
        """Return the row whose vector is still that of file, or EMBED."""
        while self._path is not None and self._path < file.path:
            self._row, self._path = self._next_row()
        if self._path != file.path:
            return EMBED
        self._matched += 1
        return self._row if self._keep and self._is_unchanged(file) else EMBED

    def removed(self) -> int:
        return len(self._before.records) - self._matched if self._before else 0

    def _next_row(self) -> tuple[int, str | None]:
        return next(self._rows, (EMBED, None))

    def _is_unchanged(self, file: ImageFile) -> bool:
        assert self._before is not None
        signature = self._before.signatures[self._row]
        if signature["size"] != file.size:
            return False
        settled = file.mtime_ns < (self._before.info.scanned_at_ns or 0) - TIME_GRAIN_NS
        if signature["mtime_ns"] == file.mtime_ns and settled and not self._checksum:
            return True
        try:
            with self._folder.open(file.path) as opened:
                return durable.sha256(opened) == signature["sha256"].tobytes()
        except OSError:
            return False  # reading it again will tell why


def _read(file: IO[bytes], start: int, length: int) -> bytes:
    content = b""
    while len(content) < length:  # a read gives 2 GB at most
        content += os.pread(file.fileno(), length - len(content), start + len(content))
    return content


def _write(file: IO[bytes], content: bytes, start: int) -> None:
    """Raises NotEnoughSpace."""
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[os.pwrite(file.fileno(), rest, start + len(content) - len(rest)) :]
    except OSError as error:
        raise NotEnoughSpace(
            f"What the build plans cannot be written to a temporary file ({error.strerror}): free up space"
        ) from error
