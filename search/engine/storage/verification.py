"""The large files of indexes, compared with their checksums once for the machine.

    <cache>/<key>.json    what came of it: the generation's directory, and what is damaged, "" where nothing is
    <cache>/<key>.lock    held by the process that compares

The key stands for the directory and for its files as they look, so what somebody has put in their place is compared
anew. Small files are compared whenever an index is loaded, see reading.load.
"""

import contextlib
import hashlib
import json
import logging
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet, ref

from filelock import FileLock

from search.engine import durable
from search.engine.errors import IndexCorrupt, IndexUnusable
from search.engine.index.index import ImageIndex
from search.engine.storage import parts
from search.engine.storage.layout import resolve
from search.engine.storage.sums import large_files, require_recorded

logger = logging.getLogger(__name__)

_LEAST_PRIORITY = 19


class Verifier:
    """Compares files on a thread of the least priority, one generation after another.

    lock guards the fields; the thread and those who load and search indexes share them.
    """

    def __init__(self, cache: Path) -> None:
        """cache: what the processes of the machine share; where it cannot be written, each compares for itself."""
        self._cache = cache
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[tuple[Path, ref[ImageIndex]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._damaged: WeakSet[ImageIndex] = WeakSet()
        self._found: dict[str, str] = {}  # what is damaged, by key

    def require_undamaged(self, directory: Path) -> None:
        """Raise IndexCorrupt where files of the index in directory are known to be damaged."""
        damage = self._known(_key(resolve(directory)))
        if damage:
            raise IndexCorrupt(damage)

    def verify_later(self, directory: Path, index: ImageIndex) -> None:
        """Have the large files compared of an index just loaded from directory, unless that was done before."""
        generation = resolve(directory)
        with contextlib.suppress(IndexUnusable, OSError):
            if not large_files(generation) or self._known(_key(generation)) == "":
                return
            self._waiting.put((generation, ref(index)))
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._verify_all, name="verify-indexes", daemon=True)
                    self._thread.start()

    def note_undamaged(self, directory: Path) -> None:
        """Note that the files of the index in directory have just been compared with their checksums."""
        generation = resolve(directory)
        self._note(_key(generation), generation, "")

    def is_damaged(self, index: ImageIndex) -> bool:
        """Return whether files of an index in memory were found damaged since it was loaded."""
        return index in self._damaged

    def _verify_all(self) -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)  # of this thread alone
        while True:
            generation, loaded = self._waiting.get()
            try:
                damage = self._verify(generation)
            except Exception:  # of one index: the others are compared
                logger.exception("The files of %s cannot be compared with their checksums", generation)
                continue
            index = loaded()
            if damage and index is not None:
                logger.error("The index %s is damaged and no longer used: %s", generation, damage)
                self._damaged.add(index)

    def _verify(self, generation: Path) -> str:
        """Return what is damaged, "" where nothing is."""
        key = _key(generation)
        with self._only_one(key):
            damage = self._known(key)
            if damage is None:
                damage = _damage(generation)
                if _key(generation) == key:  # else they are gone, or others, by now
                    self._note(key, generation, damage)
        return damage

    def _known(self, key: str) -> str | None:
        """Return what is damaged, "" where nothing is, None where nobody has compared it."""
        with contextlib.suppress(IndexCorrupt, ValueError, KeyError):
            return self._found.get(key) or str(parts.parse_object(parts.read_card(self._marker(key)))["damaged"])
        return None

    def _note(self, key: str, generation: Path, damage: str) -> None:
        if damage:
            self._found[key] = damage
        with contextlib.suppress(OSError):
            self._forget_what_is_gone()
            durable.replace(self._marker(key), json.dumps({"directory": str(generation), "damaged": damage}).encode())

    def _forget_what_is_gone(self) -> None:
        for marker in self._cache.glob("*.json"):
            with contextlib.suppress(IndexCorrupt, ValueError, KeyError, TypeError):
                if not Path(parts.parse_object(parts.read_card(marker))["directory"]).exists():
                    marker.unlink(missing_ok=True)
                    marker.with_suffix(".lock").unlink(missing_ok=True)

    @contextlib.contextmanager
    def _only_one(self, key: str) -> Iterator[None]:
        """Let one process of the machine compare at a time; the others then find what came of it."""
        with contextlib.ExitStack() as held:
            with contextlib.suppress(OSError):
                self._cache.mkdir(parents=True, exist_ok=True)
                held.enter_context(FileLock(self._cache / f"{key}.lock", poll_interval=0.2))
            yield

    def _marker(self, key: str) -> Path:
        return self._cache / f"{key}.json"


def _damage(generation: Path) -> str:
    try:
        require_recorded(generation, large_files(generation))
    except IndexCorrupt as error:
        return str(error)
    return ""


def _key(generation: Path) -> str:
    """Return what stands for the files as they look now."""
    looks = [str(generation)]
    with contextlib.suppress(OSError, IndexUnusable):
        for name in large_files(generation):
            stat = (generation / name).stat()
            looks.append(f"{name} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(looks).encode("utf-8", "surrogateescape")).hexdigest()[:32]
