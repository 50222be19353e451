"""The process's embedders and its IndexCache, made from the settings on first use and shared by all threads."""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from django.conf import settings
from filelock import FileLock
from PIL import Image

from search.engine.errors import StillUnavailable, WeightsUnavailable
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.model import onnx_model
from search.engine.model.downloads import fetch
from search.engine.model.embedder import Embedder
from search.engine.model.passport import ModelPassport
from search.engine.model.weights import BUILTIN, Weights, builtin_weights, entries_at_hand, find_weights
from search.engine.pictures.gates import Lanes
from search.engine.storage.cache import IndexCache
from search.engine.storage.verification import Verifier
from search.monitoring.metrics import CountedCache

logger = logging.getLogger(__name__)

DEMO = "demo"  # the one company that may do without the configured weights

_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # NVIDIA, WSL, AMD
_threads = os.cpu_count() or 1  # of one run of the model; a server's process sets it before it loads the model
_BEGAN = time.monotonic()
_BELIEVED_SECONDS = 300.0  # weights that could not be had are asked for again so seldom, by the machine
_lives_long = False  # a server's process and a worker set it

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


_configured: _MadeOnce[Embedder] = _MadeOnce(lambda: _load(settings.WEIGHTS))
_builtin: _MadeOnce[Embedder] = _MadeOnce(lambda: _load(BUILTIN))
_gate: _MadeOnce[Lanes] = _MadeOnce(lambda: _make_gate())
_indexes: _MadeOnce[IndexCache] = _MadeOnce(lambda: CountedCache(settings.CACHE_BYTES))
_verifier: _MadeOnce[Verifier] = _MadeOnce(lambda: Verifier(Path(settings.CACHE_DIR) / "verified"))


def use(embedder: Embedder) -> None:
    """Make an embedder the process's own, in place of the one of the configured weights, until reset()."""
    _configured.put(embedder)


def use_as_builtin(embedder: Embedder) -> None:
    """Make an embedder the process's own, in place of the one of the built-in weights, until reset()."""
    _builtin.put(embedder)


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
    for each in (_configured, _builtin, _gate, _indexes, _verifier):
        each.put(None)


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


def embedder_for(index: ImageIndex) -> Embedder:
    """Return the embedder whose vectors may be compared with the index's. Raises ModelMismatch where there is none."""
    chosen = builtin_embedder() if _is_of_builtin(index.info) else embedder()
    index.require_model(chosen.passport)
    return chosen


def _is_of_builtin(info: IndexInfo) -> bool:
    """Tell whether the built-in weights made an index; another file may bear their name."""
    return info.weights == BUILTIN and info.passport == builtin_weights().passport


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
