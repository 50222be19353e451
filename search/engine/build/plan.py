"""What a build has to do: which pictures keep their vectors and which are to be embedded."""

import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.errors import NothingToIndex
from search.engine.index.index import ImageIndex
from search.engine.pictures.folder import ImageFile, SkippedFile
from search.engine.pictures.folders import PictureFolder, as_folder
from search.engine.storage import SIGNATURE

EMBED = -1

# A file changed right after it was looked at may keep its time on file systems that count in seconds.
TIME_GRAIN_NS = 2_000_000_000
_BEAT_SECONDS = 0.5


@dataclass(slots=True)
class Plan:
    """The pictures of a folder, sorted by path, and where the vector of each comes from."""

    paths: list[str]
    signatures: npt.NDArray[np.void]  # SIGNATURE [pictures]; the content's hash is known where the vector is kept
    rows: npt.NDArray[np.int64]  # [pictures]: the row in the index before, or EMBED
    skipped: list[SkippedFile] = field(repr=False)
    removed: int  # pictures of the index before that are not in the folder any more

    @property
    def found(self) -> int:
        return len(self.paths) + len(self.skipped)

    @property
    def kept(self) -> int:
        return int(np.count_nonzero(self.rows != EMBED))


def make_plan(
    folder: Path | PictureFolder,
    before: ImageIndex | None,
    *,
    keep: bool,
    checksum: bool,
    beat: Callable[[int], None] = lambda found: None,
) -> Plan:
    """Compare folder with the index before by path, size and time, and by content where those are in doubt.

    before: the index before, or None. keep: its vectors may be kept, and it has signatures. checksum: contents are
    always compared.
    beat is called about twice a second with the number of files found so far. Raises NothingToIndex where folder cannot
    be read, StoreUnavailable, and IndexCorrupt where an entry of the index before is damaged.
    """
    paths: list[str] = []
    seen = array("q")  # size and mtime_ns of each picture in turn
    rows = array("q")
    skipped: list[SkippedFile] = []
    folder = as_folder(folder)
    comparison = _Comparison(folder, before, keep=keep, checksum=checksum)
    beat_at = time.monotonic()
    try:
        for entry in folder.find():
            if time.monotonic() - beat_at > _BEAT_SECONDS:  # hashing a thousand large files takes minutes
                beat(len(paths))
                beat_at = time.monotonic()
            if isinstance(entry, SkippedFile):
                skipped.append(entry)
                continue
            paths.append(entry.path)
            seen.extend((entry.size, entry.mtime_ns))
            rows.append(comparison.row_to_keep(entry))
    except OSError as error:
        raise NothingToIndex(f"The image folder {folder} cannot be read: {error.strerror}") from error
    plan = Plan(paths, np.zeros(len(paths), SIGNATURE), np.array(rows, np.int64), skipped, comparison.removed())
    looks = np.array(seen, np.int64).reshape(-1, 2)
    plan.signatures["size"], plan.signatures["mtime_ns"] = looks[:, 0], looks[:, 1]
    if before is not None and keep:
        kept = plan.rows != EMBED
        plan.signatures["sha256"][kept] = before.signatures["sha256"][plan.rows[kept]]
    return plan


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
