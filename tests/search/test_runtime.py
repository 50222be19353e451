from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from search import runtime
from search.engine.errors import WeightsUnavailable
from tests.support.fakes import FakeEmbedder


def test_an_embedder_is_the_processs_own_until_it_is_reset(settings: Any) -> None:
    settings.WEIGHTS, settings.DEVICE = "/nowhere/weights.pth", "cpu"
    fake = FakeEmbedder()
    runtime.use(fake)
    assert runtime.embedder() is fake
    assert runtime.has_model()
    runtime.reset()
    assert not runtime.has_model()
    with pytest.raises(WeightsUnavailable):
        runtime.embedder()


def test_all_threads_share_one_index_cache_until_it_is_reset() -> None:
    with ThreadPoolExecutor(8) as threads:
        caches = set(threads.map(lambda _: runtime.index_cache(), range(64)))
    assert caches == {runtime.index_cache()}
    runtime.reset()
    assert runtime.index_cache() not in caches
