"""A Milvus that does not answer: what those who ask it wait for."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from search.engine.errors import EngineUnavailable
from search.engine.milvus import Milvus
from tests.support.milvus_server import MilvusServer

SECONDS = 1.0  # that an answer may take


@pytest.fixture
def server() -> Iterator[MilvusServer]:
    server = MilvusServer()
    try:
        yield server
    finally:
        server.stop()


def waited_in_vain(milvus: Milvus) -> float:
    """Return how many seconds it took to be told that there is no answer."""
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        milvus.names()
    return time.monotonic() - began


@pytest.mark.slow
def test_one_at_a_time_waits_for_a_milvus_that_has_fallen_silent(server: MilvusServer) -> None:
    """All others go on at once, or a few callers would keep every thread of a web server waiting."""
    milvus = Milvus(server.url, seconds=SECONDS)
    milvus.names()
    server.fall_silent()
    waited_in_vain(milvus)
    for _ in range(2):
        time.sleep(2.1)
        with ThreadPoolExecutor(8) as threads:
            waits = sorted(threads.map(waited_in_vain, [milvus] * 8))
        assert waits[-1] >= 0.8 * SECONDS
        assert waits[-2] < 0.5 * SECONDS
    server.speak()
    time.sleep(2.1)
    assert milvus.names() == []
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(Milvus.names, [milvus] * 8)) == [[]] * 8


def test_a_milvus_that_has_ended_is_not_asked_again_for_a_moment(server: MilvusServer) -> None:
    milvus = Milvus(server.url, seconds=SECONDS)
    milvus.names()
    server.kill()
    waited_in_vain(milvus)
    with pytest.raises(EngineUnavailable, match="a moment ago"):
        milvus.names()
