import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from search.engine.errors import IndexUnusable
from search.engine.index.index import ImageIndex
from search.engine.storage import reading

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """One directory's index. lock guards the fields and makes the first requests share one load."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: str = ""  # the version last tried
    index: ImageIndex | None = None


@dataclass(slots=True)
class CacheCounts:
    """What the cache has done since the process began; guarded by the cache's lock."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0


class IndexCache:
    """The indexes of this process, each loaded when it is first asked for and again when another is published.

    They hold at most budget_bytes, mapped files included; the least recently used leave first. An index that leaves
    stays whole for the searches that still hold it: its memory goes with the last of them.

    Shared by all request threads: _lock guards the table and the counts, each entry's lock its own load, so that the
    load of one company never delays another's search.
    """

    def __init__(self, budget_bytes: int, load: Callable[[Path], ImageIndex] = reading.load) -> None:
        self._budget_bytes = budget_bytes
        self._load = load
        self._lock = threading.Lock()
        self._entries: OrderedDict[Path, _Entry] = OrderedDict()  # the most recently used last
        self.counts = CacheCounts()

    def get(self, directory: Path) -> ImageIndex:
        """Return the index published in directory.

        Where a new one cannot be loaded, the one loaded before serves on. Raises IndexNotBuilt and IndexCorrupt.
        """
        with self._lock:
            entry = self._entries.setdefault(directory, _Entry())
            self._entries.move_to_end(directory)
        index = entry.index
        if index is not None and entry.version == reading.version(directory):
            with self._lock:
                self.counts.hits += 1
            return index
        with entry.lock:
            index = self._refresh(directory, entry)
        self._evict()
        return index

    def loaded(self) -> list[Path]:
        """Return the directories whose index is in memory."""
        with self._lock:
            return [directory for directory, entry in self._entries.items() if entry.index is not None]

    def nbytes(self) -> int:
        """Return how many bytes the indexes in memory hold."""
        with self._lock:
            return sum(entry.index.nbytes for entry in self._entries.values() if entry.index is not None)

    def _refresh(self, directory: Path, entry: _Entry) -> ImageIndex:
        version = reading.version(directory)
        if entry.index is not None and entry.version == version:
            return entry.index  # another request loaded it while this one waited
        try:
            index = self._load(directory)
        except IndexUnusable:
            if entry.index is None:
                raise
            logger.exception("The new index in %s cannot be used; the one before serves on", directory)
            index = entry.index
        else:
            logger.info("Loaded %d images, %d bytes, from %s", len(index), index.nbytes, directory)
            with self._lock:
                self.counts.loads += 1
        entry.index, entry.version = index, version
        return index

    def _evict(self) -> None:
        """Let go of the least recently used until the budget is kept; the last one used stays, however large."""
        with self._lock:
            held = sum(entry.index.nbytes for entry in self._entries.values() if entry.index is not None)
            for directory in list(self._entries)[:-1]:
                if held <= self._budget_bytes:
                    return
                entry = self._entries[directory]
                if entry.index is None:
                    continue
                held -= entry.index.nbytes
                del self._entries[directory]
                self.counts.evictions += 1
                logger.info("Evicted the index in %s to keep within %d bytes", directory, self._budget_bytes)
