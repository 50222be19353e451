"""The process's one embedder and one IndexCache, made from the settings on first use and shared by all threads."""

import logging
import threading
from functools import cache

from django.conf import settings

from search.engine.cache import IndexCache
from search.engine.embedder import UNTRAINED, Embedder
from search.engine.errors import WeightsUnavailable
from search.engine.index import ImageIndex

logger = logging.getLogger(__name__)

_model_lock = threading.Lock()  # the first requests wait for one load instead of each making their own

index_cache = cache(IndexCache)


def embedder() -> Embedder:
    """Return the embedder of the configured weights. Raises WeightsUnavailable and DeviceUnavailable."""
    with _model_lock:
        return _load_embedder()


def untrained_embedder() -> Embedder:
    """Return the embedder that the demo falls back on."""
    with _model_lock:
        return _load_untrained_embedder()


def embedder_or_untrained() -> Embedder:
    """Return the embedder of the configured weights; where they are not to be had, an untrained one, with a warning."""
    try:
        return embedder()
    except WeightsUnavailable as error:
        logger.warning("%s", error)
        logger.warning("UNTRAINED WEIGHTS are used instead: the search runs, its results mean nothing")
        return untrained_embedder()


def embedder_for(index: ImageIndex) -> Embedder:
    """Return the embedder whose vectors may be compared with the index's. Raises ModelMismatch where there is none."""
    chosen = untrained_embedder() if index.info.weights == UNTRAINED else embedder()
    index.require_model(chosen.passport)
    return chosen


def embedders_at_hand() -> list[Embedder]:
    """Return the embedders of torchvision's weights entries that need no download, the configured one left out."""
    from search.engine.torch_model import entries_at_hand, load_embedder

    return [load_embedder(name, device=settings.DEVICE) for name in entries_at_hand() if name != settings.WEIGHTS]


@cache
def _load_embedder() -> Embedder:
    from search.engine.torch_model import load_embedder  # late: torch takes seconds and hundreds of megabytes

    logger.info("Loading the model with the weights %s", settings.WEIGHTS)
    return load_embedder(settings.WEIGHTS, device=settings.DEVICE)


@cache
def _load_untrained_embedder() -> Embedder:
    from search.engine.torch_model import load_untrained_embedder

    return load_untrained_embedder(device=settings.DEVICE)
