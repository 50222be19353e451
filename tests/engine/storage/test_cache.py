import logging
import multiprocessing
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt
from search.engine.index.index import ImageIndex
from search.engine.storage.cache import IndexCache
from tests.support.indexes import flask_directory, publish, some_records, some_vectors

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])

_PLENTY = 2**40  # bytes: nothing is evicted
PATIENCE = 30  # seconds, until a test that waits in vain fails


class CountedLoads:
    """Loads as storage does, counts, and lets the load of a directory wait until it is told to go on."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.held: dict[str, threading.Event] = {}
        self.begun = threading.Semaphore(0)

    def hold(self, name: str) -> threading.Event:
        self.held[name] = threading.Event()
        return self.held[name]

    def __call__(self, directory: Path) -> ImageIndex:
        self.loaded.append(directory.name)
        self.begun.release()
        if directory.name in self.held:
            assert self.held[directory.name].wait(PATIENCE)
        return storage.load(directory)


@pytest.fixture
def loads() -> CountedLoads:
    return CountedLoads()


def publish_pictures(directory: Path, count: int) -> None:
    publish(directory, some_records(count), some_vectors(count))


def test_first_requests_share_one_load(tmp_path: Path, loads: CountedLoads) -> None:
    publish_pictures(tmp_path / "acme", 3)
    cache, go_on, arrived = IndexCache(_PLENTY, loads), loads.hold("acme"), threading.Barrier(17)

    def request() -> ImageIndex:
        arrived.wait(PATIENCE)
        return cache.get(tmp_path / "acme")

    with ThreadPoolExecutor(16) as threads:
        requests = [threads.submit(request) for _ in range(16)]
        arrived.wait(PATIENCE)
        assert loads.begun.acquire(timeout=PATIENCE)
        assert not any(each.done() for each in requests)
        go_on.set()
        indexes = {id(each.result(PATIENCE)) for each in requests}
    assert loads.loaded == ["acme"]
    assert len(indexes) == 1


def test_slow_load_of_one_company_does_not_delay_another(tmp_path: Path, loads: CountedLoads) -> None:
    for name in ("slow", "quick"):
        publish_pictures(tmp_path / name, 3)
    cache, go_on = IndexCache(_PLENTY, loads), loads.hold("slow")
    with ThreadPoolExecutor(1) as threads:
        slow: Future[ImageIndex] = threads.submit(cache.get, tmp_path / "slow")
        assert loads.begun.acquire(timeout=PATIENCE)
        assert len(cache.get(tmp_path / "quick")) == 3
        assert cache.loaded() == [tmp_path / "quick"]
        assert not slow.done()
        go_on.set()
        assert len(slow.result(PATIENCE)) == 3


def test_second_request_needs_no_load(tmp_path: Path, loads: CountedLoads) -> None:
    publish_pictures(tmp_path / "acme", 3)
    cache = IndexCache(_PLENTY, loads)
    assert cache.get(tmp_path / "acme") is cache.get(tmp_path / "acme")
    assert loads.loaded == ["acme"]


def test_publication_is_seen_by_the_next_request(tmp_path: Path, loads: CountedLoads) -> None:
    cache = IndexCache(_PLENTY, loads)
    flask_directory(tmp_path / "acme", some_vectors(1), ["a.png"])
    seen = [len(cache.get(tmp_path / "acme"))]
    for count in (2, 3, 4):
        publish_pictures(tmp_path / "acme", count)
        seen += [len(cache.get(tmp_path / "acme")), len(cache.get(tmp_path / "acme"))]
    assert seen == [1, 2, 2, 3, 3, 4, 4]
    assert len(loads.loaded) == 4


def test_publication_while_a_load_goes_on_is_seen_by_the_next_request(tmp_path: Path) -> None:
    publish_pictures(tmp_path / "acme", 1)

    def load_and_publish(directory: Path) -> ImageIndex:
        index = storage.load(directory)
        if len(index) == 1:
            publish_pictures(directory, 2)
        return index

    cache = IndexCache(_PLENTY, load_and_publish)
    assert len(cache.get(tmp_path / "acme")) == 1
    assert len(cache.get(tmp_path / "acme")) == 2


@pytest.mark.parametrize("name", ["faiss_index.bin", "embeddings.npy", "metadata.json", "index_info.json"])
@pytest.mark.parametrize("damage", ["empty", "remove"])
def test_broken_new_index_leaves_the_old_one_serving_and_is_tried_once(
    tmp_path: Path, loads: CountedLoads, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    cache = IndexCache(_PLENTY, loads)
    publish_pictures(tmp_path / "acme", 3)
    old = cache.get(tmp_path / "acme")
    publish_pictures(tmp_path / "acme", 4)
    broken = tmp_path / "acme" / name
    broken.write_bytes(b"") if damage == "empty" else broken.unlink()
    for _ in range(5):
        assert cache.get(tmp_path / "acme") is old
    assert len(loads.loaded) == 2
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [name in str(record.exc_info) for record in errors] == [True]
    publish_pictures(tmp_path / "acme", 5)
    assert len(cache.get(tmp_path / "acme")) == 5


def test_index_that_goes_away_serves_on(tmp_path: Path) -> None:
    cache = IndexCache(_PLENTY)
    flask_directory(tmp_path / "acme", some_vectors(2), ["a.png", "b.png"])
    old = cache.get(tmp_path / "acme")
    (tmp_path / "acme").rename(tmp_path / "elsewhere")
    assert cache.get(tmp_path / "acme") is old
    (tmp_path / "elsewhere").rename(tmp_path / "acme")
    assert len(cache.get(tmp_path / "acme")) == 2


def test_directory_without_index_is_asked_again(tmp_path: Path) -> None:
    cache = IndexCache(_PLENTY)
    with pytest.raises(IndexNotBuilt):
        cache.get(tmp_path / "acme")
    assert cache.loaded() == []
    publish_pictures(tmp_path / "acme", 2)
    assert len(cache.get(tmp_path / "acme")) == 2
    assert cache.loaded() == [tmp_path / "acme"]


def test_broken_index_is_refused_until_it_is_mended(tmp_path: Path) -> None:
    cache = IndexCache(_PLENTY)
    publish_pictures(tmp_path / "acme", 2)
    info = (tmp_path / "acme" / "index_info.json").read_bytes()
    (tmp_path / "acme" / "index_info.json").write_bytes(b"{")
    for _ in range(2):
        with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
            cache.get(tmp_path / "acme")
    (tmp_path / "acme" / "index_info.json").write_bytes(info)
    assert len(cache.get(tmp_path / "acme")) == 2


def test_failed_first_load_does_not_hang_those_who_wait(tmp_path: Path) -> None:
    arrived = threading.Barrier(8)

    def fail(directory: Path) -> ImageIndex:
        raise IndexCorrupt("metadata.json is missing")

    cache = IndexCache(_PLENTY, fail)

    def request() -> None:
        arrived.wait(PATIENCE)
        with pytest.raises(IndexCorrupt):
            cache.get(tmp_path / "acme")

    with ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(request) for _ in range(8)]:
            each.result(PATIENCE)


def _count_on_request(directory: Path, connection: Connection) -> None:
    cache = IndexCache(_PLENTY)
    while connection.recv() == "count":
        connection.send(len(cache.get(directory)))


def test_every_process_sees_a_publication_at_its_next_request(tmp_path: Path) -> None:
    publish_pictures(tmp_path / "acme", 1)
    ends = [_processes.Pipe() for _ in range(3)]
    workers = [
        _processes.Process(target=_count_on_request, args=(tmp_path / "acme", there), daemon=True) for _, there in ends
    ]
    for worker in workers:
        worker.start()

    def counts() -> list[int]:
        for here, _ in ends:
            here.send("count")
        assert all(here.poll(PATIENCE) for here, _ in ends)
        return [here.recv() for here, _ in ends]

    assert counts() == [1, 1, 1]
    publish_pictures(tmp_path / "acme", 5)
    assert counts() == [5, 5, 5]
    for (here, _), worker in zip(ends, workers, strict=True):
        here.send("stop")
        worker.join(PATIENCE)
        assert worker.exitcode == 0


# Budget --------------------------------------------------------------------------------------------------------------


def three_companies(tmp_path: Path) -> list[Path]:
    directories = [tmp_path / name for name in ("acme", "globex", "initech")]
    for seed, directory in enumerate(directories):
        publish(directory, some_records(50), some_vectors(50, seed))
    return directories


def test_the_least_recently_used_leave_first(tmp_path: Path) -> None:
    acme, globex, initech = three_companies(tmp_path)
    cache = IndexCache(2 * storage.load(acme).nbytes)
    for directory in (acme, globex, acme, initech):
        cache.get(directory)
    assert cache.loaded() == [acme, initech]
    assert cache.nbytes() <= 2 * storage.load(acme).nbytes
    assert (cache.counts.loads, cache.counts.hits, cache.counts.evictions) == (3, 1, 1)


def test_an_index_that_leaves_stays_whole_for_its_searches(tmp_path: Path) -> None:
    acme, globex, _ = three_companies(tmp_path)
    cache = IndexCache(0)
    index = cache.get(acme)
    query = np.array(index.vectors[7])
    before = [(match.image.path, match.score) for match in index.search(query, 5)]
    cache.get(globex)
    assert cache.loaded() == [globex]
    assert [(match.image.path, match.score) for match in index.search(query, 5)] == before


def test_a_company_larger_than_the_budget_is_served_all_the_same(tmp_path: Path) -> None:
    acme, *_ = three_companies(tmp_path)
    cache = IndexCache(0)
    assert cache.get(acme) is cache.get(acme)
