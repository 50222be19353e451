"""What only a real Milvus shows: `make test-scale` starts one."""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import EngineUnavailable
from search.engine.index.collection import open_collection
from search.engine.index.collection_making import make_collection
from search.engine.index.records import ImageRecord
from search.engine.milvus import Milvus
from search.engine.vectors import DIMENSION, unit_length
from tests.support.indexes import clustered, publish, some_records
from tests.support.milvus_server import MilvusServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.scale

PICTURES = int(os.environ.get("TEST_PICTURES", "100000"))
logger = logging.getLogger(__name__)


def in_order(count: int) -> list[ImageRecord]:
    return sorted(some_records(count), key=lambda record: record.path)


def count(server: Milvus, name: str) -> int | None:
    with suppress(EngineUnavailable):  # the server is there before its collections are
        return server.count(name)
    return None


def test_a_collection_is_whole_after_the_server_was_killed(tmp_path: Path, milvus_server: MilvusServer) -> None:
    publish(tmp_path / "index", in_order(3000), clustered(3000, seed=1))
    local = storage.load(tmp_path / "index")
    make_collection(milvus_server.connect(), "killed", local)
    milvus_server.kill()
    milvus_server.pid = milvus_server.start()
    server = milvus_server.connect()
    eventually(lambda: count(server, "killed") == len(local), "all pictures are loaded again")
    index = open_collection(server, "killed", local.info)
    for query in clustered(20, seed=2):
        assert [match.image for match in index.search(query, 10)] == [match.image for match in local.search(query, 10)]


def test_a_hundred_thousand_pictures_are_found(tmp_path: Path, milvus_server: MilvusServer) -> None:
    """Run with --log-cli-level=INFO to see the figures."""
    rng = np.random.default_rng(3)
    axes = rng.random((40, DIMENSION))
    vectors = unit_length((rng.random((PICTURES, 40)) ** 4 @ axes).astype(np.float32))
    publish(tmp_path / "index", in_order(PICTURES), vectors)
    local, server = storage.load(tmp_path / "index"), milvus_server.connect()
    began = time.monotonic()
    card = make_collection(server, "large", local)
    built = time.monotonic() - began
    index = open_collection(server, "large", local.info)
    queries = unit_length((rng.random((100, 40)) ** 4 @ axes).astype(np.float32))
    found, milliseconds = 0, []
    for query in queries:
        began = time.monotonic()
        matches = index.search(query, 10)
        milliseconds.append(1000 * (time.monotonic() - began))
        found += len({match.image for match in matches} & {match.image for match in local.search(query, 10)})
    recall = found / (10 * len(queries))
    logger.info("%d pictures: %.0f s to build, %s", PICTURES, built, card)
    logger.info("A search: median %.1f ms, recall on fresh queries %.4f", np.median(milliseconds), recall)
    assert recall >= 0.99
    server.drop("large")
