import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from search.engine import storage
from search.engine.errors import IndexUnusable
from search.engine.index import ImageIndex

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Entry:
    """One directory's index. lock guards the fields and makes the first requests share one load."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    version: str = ""  # the version last tried
    index: ImageIndex | None = None


class IndexCache:
    """The indexes of this process, each loaded when it is first asked for and again when another is published.

    Shared by all request threads: _lock guards the table, each entry's lock its own load, so that the load of one
    company never delays another's search.
    """

    def __init__(self, load: Callable[[Path], ImageIndex] = storage.load) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._entries: dict[Path, _Entry] = {}

    def get(self, directory: Path) -> ImageIndex:
        """Return the index published in directory.

        Where a new one cannot be loaded, the one loaded before serves on. Raises IndexNotBuilt and IndexCorrupt.
        """
        with self._lock:
            entry = self._entries.setdefault(directory, _Entry())
        version = storage.version(directory)
        if entry.index is None or entry.version != version:
            with entry.lock:
                self._refresh(directory, entry)
        assert entry.index is not None
        return entry.index

    def loaded(self) -> list[Path]:
        """Return the directories whose index is in memory."""
        with self._lock:
            entries = list(self._entries.items())
        return [directory for directory, entry in entries if entry.index is not None]

    def _refresh(self, directory: Path, entry: _Entry) -> None:
        version = storage.version(directory)
        if entry.index is not None and entry.version == version:
            return  # another request loaded it while this one waited
        try:
            index = self._load(directory)
        except IndexUnusable:
            if entry.index is None:
                raise
            logger.exception("The new index in %s cannot be used; the one before serves on", directory)
        else:
            entry.index = index
            logger.info("Loaded %d images from %s", len(index), directory)
        entry.version = version
