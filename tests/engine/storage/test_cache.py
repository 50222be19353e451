"""The indexes of a process. Which version a company's requests ask for is search.publication's affair."""

import logging
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt
from search.engine.index.index import ImageIndex, IndexInfo, empty_index
from search.engine.storage.cache import IndexCache
from tests.support.indexes import publish, some_records, some_vectors

ACME, GLOBEX, INITECH = 1, 2, 3  # primary keys

_PLENTY = 2**40  # bytes: nothing is evicted
PATIENCE = 30  # seconds, until a test that waits in vain fails


def index_of(total_images: int) -> ImageIndex:
    """Return an index that can be told from others."""
    return replace(empty_index(), info=IndexInfo(total_images))


def no_load() -> ImageIndex:
    raise AssertionError("It is loaded already")


def fail() -> ImageIndex:
    raise IndexCorrupt("metadata.json is missing")


class HeldLoad:
    """A load that counts and waits until it may go on."""

    def __init__(self, index: ImageIndex) -> None:
        self._index = index
        self.count = 0
        self.begun, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> ImageIndex:
        self.count += 1
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        return self._index


@pytest.fixture
def cache() -> IndexCache:
    return IndexCache(_PLENTY)


def test_first_requests_share_one_load(cache: IndexCache) -> None:
    load, arrived = HeldLoad(index_of(3)), threading.Barrier(17)

    def request() -> ImageIndex:
        arrived.wait(PATIENCE)
        return cache.get(ACME, "1", load)

    with ThreadPoolExecutor(16) as threads:
        requests = [threads.submit(request) for _ in range(16)]
        arrived.wait(PATIENCE)
        assert load.begun.wait(PATIENCE)
        assert not any(each.done() for each in requests)
        load.go_on.set()
        indexes = {id(each.result(PATIENCE)) for each in requests}
    assert load.count == 1
    assert len(indexes) == 1
    assert (cache.counts.loads, cache.counts.hits) == (1, 15)


def test_slow_load_of_one_company_does_not_delay_another(cache: IndexCache) -> None:
    load = HeldLoad(index_of(1))
    with ThreadPoolExecutor(1) as threads:
        slow: Future[ImageIndex] = threads.submit(cache.get, ACME, "1", load)
        assert load.begun.wait(PATIENCE)
        assert cache.get(GLOBEX, "1", lambda: index_of(2)).info.total_images == 2
        assert cache.find(GLOBEX, "1") is not None
        assert cache.loaded() == {GLOBEX}
        assert not slow.done()
        load.go_on.set()
        assert slow.result(PATIENCE).info.total_images == 1


def test_second_request_needs_no_load(cache: IndexCache) -> None:
    index = cache.get(ACME, "1", lambda: index_of(3))
    assert cache.get(ACME, "1", no_load) is index
    assert cache.find(ACME, "1") is index
    assert (cache.counts.loads, cache.counts.hits) == (1, 2)


def test_another_version_is_loaded_and_takes_the_place_of_the_one_before(cache: IndexCache) -> None:
    for number in (1, 2, 3):
        assert cache.find(ACME, str(number)) is None
        assert cache.get(ACME, str(number), lambda number=number: index_of(number)).info.total_images == number
    assert cache.find(ACME, "2") is None
    assert cache.find(ACME, "3") is not None
    assert cache.loaded() == {ACME}


def test_company_that_was_made_anew_shares_nothing_with_the_first(cache: IndexCache) -> None:
    cache.get(ACME, "20251027T120000000000-0badcafe", lambda: index_of(1))
    assert cache.find(GLOBEX, "20251027T120000000000-0badcafe") is None


def test_index_before_is_found_under_its_own_version_while_the_next_one_loads(cache: IndexCache) -> None:
    old = cache.get(ACME, "1", lambda: index_of(1))
    load = HeldLoad(index_of(2))
    with ThreadPoolExecutor(1) as threads:
        new = threads.submit(cache.get, ACME, "2", load)
        assert load.begun.wait(PATIENCE)
        assert cache.find(ACME, "1") is old
        assert cache.find(ACME, "2") is None
        load.go_on.set()
        assert new.result(PATIENCE).info.total_images == 2
    assert cache.find(ACME, "1") is None


@pytest.fixture
def _threads_change_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_threads_change_often")
def test_index_is_always_that_of_its_version(cache: IndexCache) -> None:
    """Four readers, whatever moment they are preempted at, while the versions come and go."""
    current, stop = ["0"], threading.Event()

    def read() -> int:
        found = 0
        while not stop.is_set():
            version = current[0]
            index = cache.find(ACME, version)
            assert index is None or index.info.total_images == int(version)
            found += index is not None
        return found

    with ThreadPoolExecutor(4) as threads:
        readers = [threads.submit(read) for _ in range(4)]
        try:
            for number in range(1_000):
                cache.get(ACME, str(number), lambda number=number: index_of(number))
                current[0] = str(number)
        finally:
            stop.set()
        assert sum(reader.result(PATIENCE) for reader in readers) > 0


# What cannot be loaded -----------------------------------------------------------------------------------------------


def test_failed_load_is_tried_again_by_the_next_request(cache: IndexCache) -> None:
    for _ in range(2):
        with pytest.raises(IndexCorrupt, match=r"metadata\.json"):
            cache.get(ACME, "1", fail)
    assert cache.loaded() == set()
    assert cache.get(ACME, "1", lambda: index_of(2)).info.total_images == 2
    assert cache.loaded() == {ACME}


def test_failed_load_leaves_the_index_before_under_its_own_version(cache: IndexCache) -> None:
    old = cache.get(ACME, "1", lambda: index_of(1))
    with pytest.raises(IndexCorrupt):
        cache.get(ACME, "2", fail)
    assert cache.find(ACME, "1") is old
    assert cache.find(ACME, "2") is None


def test_failed_first_load_does_not_hang_those_who_wait(cache: IndexCache) -> None:
    arrived = threading.Barrier(8)

    def request() -> None:
        arrived.wait(PATIENCE)
        with pytest.raises(IndexCorrupt):
            cache.get(ACME, "1", fail)

    with ThreadPoolExecutor(8) as threads:
        for each in [threads.submit(request) for _ in range(8)]:
            each.result(PATIENCE)


def test_broken_new_index_is_tried_once_where_the_one_before_may_go_on(
    cache: IndexCache, caplog: pytest.LogCaptureFixture
) -> None:
    tried = count()

    def fail_and_count() -> ImageIndex:
        next(tried)
        return fail()

    old = cache.get(ACME, "1", lambda: index_of(1), or_earlier=True)
    for _ in range(5):
        assert cache.get(ACME, "2", fail_and_count, or_earlier=True) is old
    assert next(tried) == 1
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["metadata.json" in str(record.exc_info) for record in errors] == [True]
    assert cache.get(ACME, "3", lambda: index_of(3), or_earlier=True).info.total_images == 3


def test_where_nothing_was_loaded_before_a_broken_index_is_refused(cache: IndexCache) -> None:
    with pytest.raises(IndexCorrupt):
        cache.get(ACME, "1", fail, or_earlier=True)


def test_directory_without_index_is_asked_again(tmp_path: Path, cache: IndexCache) -> None:
    def load() -> ImageIndex:
        return storage.load(tmp_path / "acme")

    with pytest.raises(IndexNotBuilt):
        cache.get(ACME, storage.version(tmp_path / "acme"), load)
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    assert len(cache.get(ACME, storage.version(tmp_path / "acme"), load)) == 2


# Budget --------------------------------------------------------------------------------------------------------------

Request = Callable[[IndexCache, int], ImageIndex]


@pytest.fixture
def request_of(tmp_path: Path) -> Request:
    """Return what asks for the index of one of three companies: of equal size, in files."""
    for company in (ACME, GLOBEX, INITECH):
        publish(tmp_path / str(company), some_records(50), some_vectors(50, seed=company))
    return lambda cache, company: cache.get(company, "1", lambda: storage.load(tmp_path / str(company)))


def test_the_least_recently_used_leave_first(tmp_path: Path, request_of: Request) -> None:
    budget = 2 * storage.load(tmp_path / str(ACME)).nbytes
    cache = IndexCache(budget)
    for company in (ACME, GLOBEX, ACME, INITECH):
        request_of(cache, company)
    assert cache.loaded() == {ACME, INITECH}
    assert 0 < cache.nbytes() <= budget
    assert (cache.counts.loads, cache.counts.hits, cache.counts.evictions) == (3, 1, 1)


def test_what_is_found_counts_as_used(tmp_path: Path, request_of: Request) -> None:
    cache = IndexCache(2 * storage.load(tmp_path / str(ACME)).nbytes)
    for company in (ACME, GLOBEX):
        request_of(cache, company)
    cache.find(ACME, "1")
    request_of(cache, INITECH)
    assert cache.loaded() == {ACME, INITECH}


def test_an_index_that_leaves_stays_whole_for_its_searches(request_of: Request) -> None:
    cache = IndexCache(0)
    index = request_of(cache, ACME)
    query = some_vectors(50, seed=ACME)[7]
    before = [(match.image.path, match.score) for match in index.search(query, 5)]
    request_of(cache, GLOBEX)
    assert cache.loaded() == {GLOBEX}
    assert [(match.image.path, match.score) for match in index.search(query, 5)] == before


def test_a_company_larger_than_the_budget_is_served_all_the_same(request_of: Request) -> None:
    cache = IndexCache(0)
    assert request_of(cache, ACME) is request_of(cache, ACME)
    assert np.isclose(request_of(cache, ACME).search(some_vectors(1, seed=ACME)[0], 1)[0].score, 1)
