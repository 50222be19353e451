"""The process's embedders and its IndexCache, made from the settings on first use and shared by all threads."""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from django.conf import settings
from filelock import FileLock
from PIL import Image

from search import shared_weights
from search.engine.errors import (
    EngineUnavailable,
    ModelMismatch,
    StillUnavailable,
    StoreUnavailable,
    WeightsUnavailable,
)
from search.engine.index.index import ImageIndex
from search.engine.milvus import Milvus
from search.engine.model import kept, onnx_model
from search.engine.model.downloads import fetch
from search.engine.model.embedder import Embedder
from search.engine.model.names import ENTRY_FILES
from search.engine.model.passport import ModelPassport
from search.engine.model.weights import (
    BUILTIN,
    BUILTIN_FILE,
    Weights,
    builtin_weights,
    entries_at_hand,
    entry_path,
    find_weights,
)
from search.engine.pictures.gates import Lanes
from search.engine.storage.cache import IndexCache
from search.engine.storage.verification import Verifier
from search.monitoring.metrics import CountedCache

logger = logging.getLogger(__name__)

DEMO = "demo"  # the one company that may do without the configured weights

_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # NVIDIA, WSL, AMD
# Weights whose files were read, by name and stamp of the file. Whoever finds a stamp missing adds it.
_found: dict[tuple[str, int, int, int], Weights] = {}
_threads = os.cpu_count() or 1  # of one run of the model; a server's process sets it before it loads the model
_BEGAN = time.monotonic()
_BELIEVED_SECONDS = 300.0  # weights that could not be had are asked for again so seldom, by the machine
_lives_long = False  # a server's process and a worker set it
FURTHER_IDLE_SECONDS = 600.0  # after so long without a use the further model is let go
_KEPT_AT_LEAST_SECONDS = 3600.0  # a copy of weights, whoever needs it: a build that has just kept it is not done yet

T = TypeVar("T")


class _MadeOnce(Generic[T]):
    """What is made when it is first asked for. lock guards the making: the first requests wait for one instance."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None

    @property
    def is_made(self) -> bool:
        return self._made is not None

    def get(self) -> T:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def put(self, made: T | None) -> None:
        """Put something in its place; None: it is made anew when it is next asked for."""
        with self._lock:
            self._made = made


class _Further:
    """The one model beside the configured one and the built-in one, for indexes that an earlier model made.

    lock guards the loading, so that all who ask at a time wait for one instance, and the letting go. Who embeds with a
    model that is let go, or gives way to another, holds it until that is done.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._embedder: Embedder | None = None  # replaced whole: read without the lock
        self._used_at = 0.0

    def find(self, fingerprint: str) -> Embedder | None:
        """Return the embedder of this fingerprint if it is loaded."""
        embedder = self._embedder
        if embedder is None or embedder.passport.fingerprint != fingerprint:
            return None
        self._used_at = time.monotonic()
        return embedder

    def get(self, fingerprint: str, load: Callable[[], Embedder]) -> Embedder:
        with self._lock:
            found = self.find(fingerprint)
            if found is None:
                self._embedder = None  # first: two of them are not held at a time
                self._embedder = found = load()
                self._used_at = time.monotonic()
                self._look_again_in(FURTHER_IDLE_SECONDS)
        return found

    def put(self, embedder: Embedder | None) -> None:
        with self._lock:
            self._embedder = embedder

    def _look_again_in(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self._let_go_if_idle, [self._embedder])
        timer.daemon = True
        timer.start()

    def _let_go_if_idle(self, loaded: Embedder) -> None:
        with self._lock:
            if self._embedder is not loaded:
                return
            left = self._used_at + FURTHER_IDLE_SECONDS - time.monotonic()
            if left > 0:
                self._look_again_in(left)
                return
            self._embedder = None
        logger.info("Let go of the model with the weights %s: nobody needed it", loaded.passport)


_configured: _MadeOnce[Embedder] = _MadeOnce(lambda: _load(settings.WEIGHTS))
_builtin: _MadeOnce[Embedder] = _MadeOnce(lambda: _load(BUILTIN))
_further = _Further()
_gate: _MadeOnce[Lanes] = _MadeOnce(lambda: _make_gate())
_indexes: _MadeOnce[IndexCache] = _MadeOnce(lambda: CountedCache(settings.CACHE_BYTES))
_milvus: _MadeOnce[Milvus] = _MadeOnce(lambda: Milvus(settings.MILVUS_URL, token=settings.MILVUS_TOKEN))
_verifier: _MadeOnce[Verifier] = _MadeOnce(lambda: Verifier(Path(settings.CACHE_DIR) / "verified"))


def use(embedder: Embedder) -> None:
    """Make an embedder the process's own, in place of the one of the configured weights, until reset()."""
    _configured.put(embedder)


def use_as_builtin(embedder: Embedder) -> None:
    """Make an embedder the process's own, in place of the one of the built-in weights, until reset()."""
    _builtin.put(embedder)


def use_also(embedder: Embedder) -> None:
    """Make an embedder the process's further one, as if its weights were at hand, until reset()."""
    _further.put(embedder)


def use_threads(number: int) -> None:
    """Have one run of the model take so many threads, where it is loaded on a CPU from now on."""
    global _threads
    _threads = number


def believe_others() -> None:
    """Let weights count as unavailable which another process, before this one, could not get a moment ago.

    Meant for processes that live long and try again; a command that somebody runs tries at once.
    """
    global _lives_long
    _lives_long = True


def reset() -> None:
    """Forget the embedders and the indexes, so that the process is as one that has just begun."""
    for each in (_configured, _builtin, _further, _gate, _indexes, _milvus, _verifier):
        each.put(None)
    _found.clear()


def gate() -> Lanes:
    """Return what lets the pictures of requests be decoded."""
    return _gate.get()


def _make_gate() -> Lanes:
    cache = Path(settings.CACHE_DIR)
    with suppress(OSError):  # it is said where the model is exported
        cache.mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache / "large-picture.lock", thread_local=False) if os.access(cache, os.W_OK) else None
    return Lanes(lock)


def index_cache() -> IndexCache:
    return _indexes.get()


def milvus() -> Milvus:
    """Return the Milvus server. Raises EngineUnavailable where none is set."""
    if not settings.MILVUS_URL:
        raise EngineUnavailable("A company is searched in Milvus, and IMAGESEARCH_MILVUS_URL is not set")
    return _milvus.get()


def verifier() -> Verifier:
    return _verifier.get()


def embedder() -> Embedder:
    """Return the embedder of the configured weights. Raises WeightsUnavailable and DeviceUnavailable."""
    return _configured.get()


def has_model() -> bool:
    """Tell whether the embedder of the configured weights is loaded, without loading it."""
    return _configured.is_made


def has_builtin_model() -> bool:
    """Tell whether the embedder of the built-in weights is loaded, without loading it."""
    return _builtin.is_made


def warm_up(model: Embedder | None = None) -> None:
    """Load the model and run it once, so that the first search need not wait. Raises as embedder() does.

    model: instead of that of the configured weights.
    """
    model = model or embedder()
    model.embed([model.prepare(Image.new("RGB", (256, 256)))])


def configured_weights() -> Weights | None:
    """Return the configured weights if they are on this machine. Raises WeightsUnavailable."""
    return find_weights(settings.WEIGHTS, hub=_hub())


def builtin_embedder() -> Embedder:
    """Return the embedder of the weights that come with the code."""
    return embedder() if settings.WEIGHTS == BUILTIN else _builtin.get()


def embedder_of_demo() -> Embedder:
    """Return the embedder of the configured weights; if they are unavailable, the built-in one, with a warning."""
    try:
        return embedder()
    except WeightsUnavailable as error:
        _say_that_demo_falls_back(error)
        return builtin_embedder()


def passport_of_demo() -> ModelPassport:
    """Return the passport of what embedder_of_demo() would return, with a download but without loading a model."""
    try:
        return fetch_weights(settings.WEIGHTS).passport
    except WeightsUnavailable as error:
        _say_that_demo_falls_back(error)
        return builtin_weights().passport


def _say_that_demo_falls_back(error: WeightsUnavailable) -> None:
    if not isinstance(error, StillUnavailable):
        logger.warning(
            "The demo uses the built-in weights, which find copies and close look-alikes, until better ones are there: "
            "%s",
            error,
        )


def fetch_weights(name: str) -> Weights:
    """Return weights that are on this machine then. Raises WeightsUnavailable."""
    return fetch(name, hub=_hub(), cache=settings.CACHE_DIR, believed_seconds=_believed_seconds())


# By fingerprint ------------------------------------------------------------------------------------------------------


def embedder_for(index: ImageIndex) -> Embedder:
    """Return the embedder whose vectors may be compared with the index's. Raises as embedder_of() does."""
    return embedder_of(index.info.passport) if index.info.passport else embedder()


def embedder_of(passport: ModelPassport) -> Embedder:
    """Return the embedder of the weights with this fingerprint, wherever they lie; a further one is loaded for it.

    Raises ModelMismatch where these weights are gone, and WeightsUnavailable where they may be the configured ones,
    which cannot be had.
    """
    fingerprint = passport.fingerprint
    if (found := _find_loaded(fingerprint)) is not None:
        return found
    name = _find_name(fingerprint)
    if name == settings.WEIGHTS:
        found = embedder()  # which may be older than its file
    elif name == BUILTIN:
        found = builtin_embedder()
    elif name is not None:
        found = _further.get(fingerprint, lambda: _load(name))
    else:
        found = embedder()  # perhaps it is downloaded
    if found.passport.fingerprint != fingerprint and name is not None:
        found = _further.get(fingerprint, lambda: _load(name))
    if found.passport.fingerprint != fingerprint:
        raise ModelMismatch(_missing(passport))
    return found


def find_passport(fingerprint: str) -> ModelPassport | None:
    """Return the passport of the weights with this fingerprint if they are at hand; nothing is loaded."""
    if (loaded := _find_loaded(fingerprint)) is not None:
        return loaded.passport
    found = _find(fingerprint)
    return found[1].passport if found else None


def configured_model() -> ModelPassport | None:
    """Return the passport of the configured weights; None where they are not on this machine. Nothing is loaded."""
    if _configured.is_made:
        return _configured.get().passport
    try:
        weights = _find_weights(settings.WEIGHTS)
    except WeightsUnavailable:
        return None
    return weights.passport if weights else None


def missing_weights(passport: ModelPassport) -> str:
    """Return in a sentence that the weights of an index are not on this machine; "" where they are."""
    return "" if find_passport(passport.fingerprint) else _missing(passport)


def keep_weights(passport: ModelPassport) -> None:
    """Keep a copy of the weights of an index beside the indexes; where that fails, the log says why."""
    for _, weights in _at_hand():
        if weights.passport.fingerprint == passport.fingerprint:
            try:
                kept.keep(weights, _kept_place())
                shared_weights.share(passport.fingerprint, _kept_place())
            except (OSError, WeightsUnavailable, StoreUnavailable) as error:
                logger.warning("No copy of the weights %s is kept: %s", passport, error)
            return
    logger.info("No copy of the weights %s is kept: their file is gone", passport)


def drop_kept_weights(needed: Collection[str]) -> None:
    """Remove the copies of weights of other fingerprints. Raises OSError and StoreUnavailable."""
    dropped = kept.drop(_kept_place(), needed=needed, older_than=_KEPT_AT_LEAST_SECONDS)
    for fingerprint in {*dropped, *shared_weights.drop(needed, older_than=_KEPT_AT_LEAST_SECONDS)}:
        logger.info("The copy of the weights %s is removed: no index needs it", fingerprint[:12])


def _missing(passport: ModelPassport) -> str:
    configured = configured_model()
    return (
        f"The index was made with the weights {passport}, which are not on this machine any more"
        f"{f' (configured: {configured})' if configured else ''}: set IMAGESEARCH_WEIGHTS to their file, "
        "or rebuild the index with build_embeddings"
    )


def _find_loaded(fingerprint: str) -> Embedder | None:
    for each in (_configured, _builtin):
        if each.is_made and each.get().passport.fingerprint == fingerprint:
            return each.get()
    return _further.find(fingerprint)


def _find_name(fingerprint: str) -> str | None:
    """Return what find_weights calls the weights of this fingerprint; None where they are not to be had."""
    found = _find(fingerprint)
    return found[0] if found else None


def _find(fingerprint: str) -> tuple[str, Weights] | None:
    """Return the weights of this fingerprint, fetched from the store where it alone has them."""
    for _ in range(2):
        for name, weights in _at_hand():
            if weights.passport.fingerprint == fingerprint:
                return name, weights
        if not shared_weights.fetch(fingerprint, _kept_place()):
            return None
    return None


def _at_hand() -> Iterator[tuple[str, Weights]]:
    """Yield all weights on this machine, with what find_weights calls them: the configured ones first."""
    copies = [str(kept.kept_path(fingerprint, _kept_place())) for fingerprint in kept.kept_passports(_kept_place())]
    for name in dict.fromkeys([settings.WEIGHTS, BUILTIN, *entries_at_hand(hub=_hub()), *copies]):
        with suppress(WeightsUnavailable):
            if weights := _find_weights(name):
                yield name, weights


def _find_weights(name: str) -> Weights | None:
    """Return what find_weights does; a file of which nothing has changed is read once. Raises WeightsUnavailable."""
    try:
        stat = _file_of(name).stat()
    except OSError:
        return find_weights(name, hub=_hub())
    stamp = (name, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if stamp not in _found:
        found = find_weights(name, hub=_hub())
        if found is None:
            return None
        _found[stamp] = found
    return _found[stamp]


def _file_of(name: str) -> Path:
    if name == BUILTIN:
        return BUILTIN_FILE
    return entry_path(name, hub=_hub()) if name in ENTRY_FILES else Path(name)


def _kept_place() -> Path:
    return Path(settings.INDEX_DIR) / ".weights"


def embedders_at_hand() -> list[Embedder]:
    """Return the embedders of torchvision's weights entries that need no download, the configured one left out."""
    return [_load(name) for name in entries_at_hand(hub=_hub()) if name != settings.WEIGHTS]


def _load(weights: str) -> Embedder:
    """Return the embedder of the weights, in torch on a GPU and in ONNX Runtime, without torch, on a CPU."""
    fetch_weights(weights)
    model = _load_where_it_is_fastest(weights)
    logger.info("Loaded the model with the weights %s, threads: %d", weights, _threads)
    return model


def _load_where_it_is_fastest(weights: str) -> Embedder:
    if settings.DEVICE == "cuda" or (settings.DEVICE == "auto" and _has_gpu()):
        return _load_in_torch(weights)
    try:
        return onnx_model.load_embedder(
            weights,
            cache=settings.CACHE_DIR,
            hub=_hub(),
            threads=_threads,
            believed_seconds=_believed_seconds(),
        )
    except onnx_model.OnnxUnusable as error:
        logger.warning("ONNX Runtime cannot run the weights %s (%s): torch does, more slowly", weights, error)
        return _load_in_torch(weights)


def _load_in_torch(weights: str) -> Embedder:
    from search.engine.model import torch_model  # late: it takes seconds and hundreds of megabytes

    return torch_model.load_embedder(weights, device=settings.DEVICE, hub=_hub())


def _believed_seconds() -> float:
    return _BELIEVED_SECONDS if _lives_long else min(_BELIEVED_SECONDS, time.monotonic() - _BEGAN)


def _has_gpu() -> bool:
    if not any(path.exists() for path in _GPU_DEVICES):
        return False
    from search.engine.model import torch_model

    return torch_model.sees_gpu()


def _hub() -> Path:
    return Path(settings.TORCH_HOME) / "hub"
