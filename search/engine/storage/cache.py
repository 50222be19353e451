import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from search.engine.errors import IndexUnusable
from search.engine.index.index import ImageIndex

logger = logging.getLogger(__name__)

Load = Callable[[], ImageIndex]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An index and the version that it was loaded as: read and replaced as one, so that the two always fit."""

    version: str
    index: ImageIndex


@dataclass(slots=True)
class _Entry:
    """One company's index. lock guards the fields and makes the first requests share one load."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    loaded: _Loaded | None = None


@dataclass(slots=True)
class CacheCounts:
    """What the cache has done since the process began; guarded by the cache's lock."""

    hits: int = 0
    loads: int = 0
    evictions: int = 0


class IndexCache:
    """The indexes of this process by company, each loaded when first asked for and again when its version changes.

    A company is its primary key, so one that was made anew under an old name shares nothing with the first. The
    indexes hold at most budget_bytes of memory; the least recently used leave first. An index that leaves
    stays whole for the searches that still hold it: its memory goes with the last of them.

    Shared by all request threads: _lock guards the table and the counts, each entry's lock its own load, so that the
    load of one company never delays another's search.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # the most recently used last
        self.counts = CacheCounts()

    def find(self, company: int, version: str) -> ImageIndex | None:
        """Return the company's index if it is in memory in this version."""
        with self._lock:
            entry = self._entries.get(company)
            loaded = entry.loaded if entry else None
            if loaded is None or loaded.version != version:
                return None
            self._entries.move_to_end(company)
            self.counts.hits += 1
            return loaded.index

    def find_any(self, company: int) -> ImageIndex | None:
        """Return the company's index if it is in memory, in whichever version."""
        with self._lock:
            entry = self._entries.get(company)
            if entry is None or entry.loaded is None:
                return None
            self._entries.move_to_end(company)
            return entry.loaded.index

    def get(self, company: int, version: str, load: Load, *, or_earlier: bool = False) -> ImageIndex:
        """Return the company's index in this version, loaded if need be, once for all who ask at a time.

        or_earlier: where it cannot be loaded, the one loaded before is returned, if there is one.
        Raises what load raises.
        """
        with self._lock:
            entry = self._entries.setdefault(company, _Entry())
            self._entries.move_to_end(company)
        with entry.lock:
            if entry.loaded is None or entry.loaded.version != version:
                entry.loaded = self._load(company, version, load, entry.loaded if or_earlier else None)
            else:
                with self._lock:
                    self.counts.hits += 1
            index = entry.loaded.index
        self._evict()
        return index

    def forget(self, company: int, index: ImageIndex) -> None:
        """Let go of the company's index, so that it is loaded again, unless that has happened."""
        with self._lock:
            entry = self._entries.get(company)
            if entry and entry.loaded and entry.loaded.index is index:
                del self._entries[company]

    def loaded(self) -> set[int]:
        """Return the companies whose index is in memory."""
        with self._lock:
            return {company for company, entry in self._entries.items() if entry.loaded is not None}

    def nbytes(self) -> int:
        """Return how many bytes the indexes in memory hold."""
        with self._lock:
            return self._held()

    def _load(self, company: int, version: str, load: Load, earlier: _Loaded | None) -> _Loaded:
        try:
            index = load()
        except IndexUnusable:
            if earlier is None:
                raise
            logger.exception("The new index of company %d cannot be used; the one before is used on", company)
            return _Loaded(version, earlier.index)
        logger.info("Loaded %d images, %d bytes, for company %d: %s", len(index), index.nbytes, company, version)
        with self._lock:
            self.counts.loads += 1
        return _Loaded(version, index)

    def _held(self) -> int:
        return sum(entry.loaded.index.nbytes for entry in self._entries.values() if entry.loaded is not None)

    def _evict(self) -> None:
        """Let go of the least recently used until the budget is kept; the last one used stays, however large."""
        with self._lock:
            held = self._held()
            for company in list(self._entries)[:-1]:
                if held <= self._budget_bytes:
                    return
                loaded = self._entries[company].loaded
                if loaded is None:
                    continue
                held -= loaded.index.nbytes
                del self._entries[company]
                self.counts.evictions += 1
                logger.info("Evicted the index of company %d to keep within %d bytes", company, self._budget_bytes)
