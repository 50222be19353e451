"""Workers, in real processes, whose database is locked or away for a while."""

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest
from django.db import close_old_connections, connection

from tenants.models import IndexBuild
from tests.engine.build.test_builder import assert_same_index
from tests.search.test_build_workers import BATCH, company_with, index_of, undisturbed_index, wait_for
from tests.support.databases import on_postgresql, on_sqlite
from tests.support.processes import Process, Site
from tests.support.waiting import eventually

AWAY, BACK = "The database is locked or away", "The database is back\n"
Status = IndexBuild.Status
Outage = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def outage(site: Site, request: pytest.FixtureRequest) -> Outage:
    """Return what takes the database away until the end of a block: PostgreSQL stopped, SQLite locked for writing."""
    if site.database_url.startswith("postgres"):
        return request.getfixturevalue("postgres").away  # type: ignore[no-any-return]
    file = site.database_url.removeprefix("sqlite:///")
    site.database_url += "?timeout=1"  # seconds that a worker waits for the lock, instead of 20

    @contextmanager
    def locked() -> Iterator[None]:
        with closing(sqlite3.connect(file, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield

    return locked


def wait_until_away(worker: Process) -> None:
    eventually(lambda: AWAY in worker.output or worker.status is not None, "the worker says that it waits")
    assert worker.status is None, worker.output


def wait_until_idle(worker: Process) -> None:
    eventually(lambda: "Starting worker" in worker.output, "the worker looks for tasks")


def assert_told_once(worker: Process) -> None:
    eventually(lambda: BACK in worker.output, "the worker says that the database is back")
    assert (worker.output.count(AWAY), worker.output.count(BACK)) == (1, 1), worker.output
    assert "Traceback" not in worker.output


@contextmanager
def over(outage: Outage) -> Iterator[None]:
    """Take the database away until the end of the block, also from this process."""
    with outage():
        yield
    close_old_connections()


@pytest.mark.slow
def test_a_worker_waits_for_a_database_that_is_away_when_it_starts(site: Site, outage: Outage) -> None:
    build = company_with(2).queue_build()
    with over(outage):
        worker = site.worker()
        wait_until_away(worker)
    wait_for(build, Status.SUCCEEDED)
    assert_told_once(worker)


@pytest.mark.slow
def test_a_worker_that_has_nothing_to_do_waits_and_goes_on(site: Site, outage: Outage) -> None:
    acme = company_with(2)
    worker = site.worker()
    wait_until_idle(worker)
    with over(outage):
        wait_until_away(worker)
    wait_for(acme.queue_build(), Status.SUCCEEDED)
    assert_told_once(worker)


@pytest.mark.slow
def test_a_build_goes_on_without_its_heartbeat_and_publishes_afterwards(
    site: Site, outage: Outage, tmp_path: Path
) -> None:
    site.lease_seconds = 60
    acme = company_with(4 * BATCH)
    build = acme.queue_build()
    worker = site.worker(batches=1)
    worker.wait_for_batch(2)
    with over(outage):
        past_the_last_beat = time.monotonic() + 1.1
        eventually(lambda: time.monotonic() > past_the_last_beat, "a heartbeat is due")
        worker.let(100)
        wait_until_away(worker)
        eventually(lambda: worker.embedded == 4 * BATCH, "all pictures are embedded")
    wait_for(build, Status.SUCCEEDED)
    assert (build.attempts, worker.embedded) == (1, 4 * BATCH)
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))
    assert_told_once(worker)


@pytest.mark.slow
def test_a_build_that_cannot_publish_is_taken_up_again_by_the_same_worker(
    site: Site, outage: Outage, tmp_path: Path
) -> None:
    site.lease_seconds = 60
    acme = company_with(2 * BATCH)
    build = acme.queue_build()
    worker = site.worker(batches=1)
    worker.wait_for_batch(2)
    with over(outage):
        worker.let(100)
        wait_until_away(worker)
    wait_for(build, Status.SUCCEEDED)
    assert (build.attempts, worker.embedded) == (1, 2 * BATCH)
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))
    assert_told_once(worker)


@pytest.mark.slow
@on_postgresql
def test_a_build_whose_connection_is_cut_is_finished(site: Site) -> None:
    acme = company_with(2 * BATCH)
    build = acme.queue_build()
    worker = site.worker(batches=1)
    worker.wait_for_batch(2)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert len(cursor.fetchall()) == 1
    worker.let(100)
    wait_for(build, Status.SUCCEEDED)
    assert build.attempts == 1
    assert worker.status is None


@on_sqlite
def test_a_build_that_the_database_refuses_fails_and_says_so(site: Site) -> None:
    acme = company_with(2 * BATCH)
    (acme.image_directory / "broken.png").touch()
    build = acme.queue_build()
    worker = site.worker(batches=1)
    worker.wait_for_batch(2)
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE tenants_skippedimage")
    worker.let(100)
    wait_for(build, Status.FAILED)
    assert "no such table: tenants_skippedimage" in build.error
    assert AWAY not in worker.output


@pytest.mark.parametrize("building", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["idle", "building"])
def test_a_worker_that_waits_ends_when_it_is_asked_to(site: Site, outage: Outage, building: bool) -> None:
    acme = company_with(2 * BATCH)
    build = acme.queue_build() if building else None
    worker = site.worker(batches=1)
    worker.wait_for_batch(2) if building else wait_until_idle(worker)
    with over(outage):
        worker.let(100)
        wait_until_away(worker)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0, worker.output
    if build:
        site.worker()
        wait_for(build, Status.SUCCEEDED)
