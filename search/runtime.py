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

from search.engine.errors import EngineError, WeightsUnavailable
from search.engine.index.index import ImageIndex
from search.engine.model import onnx_model
from search.engine.model.embedder import Embedder
from search.engine.model.passport import UNTRAINED
from search.engine.model.weights import entries_at_hand
from search.engine.pictures.gates import Lanes
from search.engine.storage.cache import IndexCache
from search.monitoring.metrics import CountedCache

logger = logging.getLogger(__name__)

_GPU_DEVICES = (Path("/dev/nvidiactl"), Path("/dev/dxg"), Path("/dev/kfd"))  # NVIDIA, WSL, AMD
_threads = os.cpu_count() or 1  # of one run of the model; a server's process sets it before it loads the model
_WARM_UP_AGAIN_SECONDS = 300  # an attempt may cost a download and seconds of torch

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
_untrained: _MadeOnce[Embedder] = _MadeOnce(lambda: _load(UNTRAINED))
_gate: _MadeOnce[Lanes] = _MadeOnce(lambda: _make_gate())
_indexes: _MadeOnce[IndexCache] = _MadeOnce(lambda: CountedCache(settings.CACHE_BYTES))


def use(embedder: Embedder) -> None:
    """Make an embedder the process's own, in place of the one of the configured weights, until reset()."""
    _configured.put(embedder)


def use_threads(number: int) -> None:
    """Have one run of the model take so many threads, where it is loaded on a CPU from now on."""
    global _threads
    _threads = number


def reset() -> None:
    """Forget the embedders and the indexes, so that the process is as one that has just begun."""
    for each in (_configured, _untrained, _gate, _indexes):
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


def embedder() -> Embedder:
    """Return the embedder of the configured weights. Raises WeightsUnavailable and DeviceUnavailable."""
    return _configured.get()


def has_model() -> bool:
    """Tell whether the embedder of the configured weights is loaded, without loading it."""
    return _configured.is_made


def warm_up() -> None:
    """Load the model and run it once, so that the first search need not wait. Raises as embedder() does."""
    model = embedder()
    model.embed([model.prepare(Image.new("RGB", (256, 256)))])


def warm_up_now_or_later(*, again_seconds: float = _WARM_UP_AGAIN_SECONDS) -> None:
    """Warm up; where that fails, the log says why and a thread tries on, every again_seconds, until it succeeds.

    Searches answer 503 meanwhile, and everything else works. A process that is not ready is sent no search that would
    load the model.
    """
    if not _warms_up():
        threading.Thread(target=_warm_up_later, args=[again_seconds], name="warm-up", daemon=True).start()


def _warm_up_later(again_seconds: float) -> None:
    while True:
        time.sleep(again_seconds)
        if _warms_up():
            return


def _warms_up() -> bool:
    try:
        warm_up()
    except EngineError as error:
        logger.error("%s", error)
        return False
    return True


def untrained_embedder() -> Embedder:
    """Return the embedder that the demo falls back on."""
    return _untrained.get()


def embedder_or_untrained() -> Embedder:
    """Return the embedder of the configured weights; if they are unavailable, an untrained one, with a warning."""
    try:
        return embedder()
    except WeightsUnavailable as error:
        logger.warning("%s", error)
        logger.warning("UNTRAINED WEIGHTS are used instead: searches run, but results are meaningless")
        return untrained_embedder()


def embedder_for(index: ImageIndex) -> Embedder:
    """Return the embedder whose vectors may be compared with the index's. Raises ModelMismatch where there is none."""
    chosen = untrained_embedder() if index.info.weights == UNTRAINED else embedder()
    index.require_model(chosen.passport)
    return chosen


def embedders_at_hand() -> list[Embedder]:
    """Return the embedders of torchvision's weights entries that need no download, the configured one left out."""
    return [_load(name) for name in entries_at_hand(hub=_hub()) if name != settings.WEIGHTS]


def _load(weights: str) -> Embedder:
    """Return the embedder of the weights, in torch on a GPU and in ONNX Runtime, without torch, on a CPU."""
    logger.info("Loading the model with the weights %s, threads: %d", weights, _threads)
    if settings.DEVICE == "cuda" or (settings.DEVICE == "auto" and _has_gpu()):
        return _load_in_torch(weights)
    try:
        return onnx_model.load_embedder(
            weights,
            cache=settings.CACHE_DIR,
            hub=_hub(),
            pictures=settings.MEDIA_ROOT,
            threads=_threads,
        )
    except onnx_model.OnnxUnusable as error:
        logger.warning("ONNX Runtime cannot run the weights %s (%s): torch does, more slowly", weights, error)
        return _load_in_torch(weights)


def _load_in_torch(weights: str) -> Embedder:
    from search.engine.model import torch_model  # late: it takes seconds and hundreds of megabytes

    if weights == UNTRAINED:
        return torch_model.load_untrained_embedder(device=settings.DEVICE)
    return torch_model.load_embedder(weights, device=settings.DEVICE, hub=_hub())


def _has_gpu() -> bool:
    if not any(path.exists() for path in _GPU_DEVICES):
        return False
    from search.engine.model import torch_model

    return torch_model.sees_gpu()


def _hub() -> Path:
    return Path(settings.TORCH_HOME) / "hub"
