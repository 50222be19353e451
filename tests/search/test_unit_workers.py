"""Builds that real processes share, which are killed, stopped and asked to end."""

import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import close_old_connections
from django.db.models.functions import Now

from search.engine import storage
from search.engine.index.index import ImageIndex
from search.engine.objects import open_store
from search.engine.storage.layout import workspaces
from search.publication import built_index
from tenants.models import BuildUnit, Company, IndexBuild
from tests.search.test_build_workers import BATCH, company_with, index_of, undisturbed_index, wait_for
from tests.support.databases import on_postgresql, on_sqlite
from tests.support.object_store import StoreServer
from tests.support.postgres import Cluster
from tests.support.processes import Process, Site
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

UNIT = 2 * BATCH  # pictures
Status = IndexBuild.Status


@pytest.fixture
def acme(site: Site) -> Company:
    """A company of six units. Leases last: a process whose model waits does not beat."""
    site.unit_pictures, site.lease_seconds = UNIT, 60
    return company_with(6 * UNIT)


def publisher(site: Site, build: IndexBuild, *, batches: int) -> Process:
    """Start the worker that publishes the build, and return it when its model waits with these batches done."""
    worker = site.worker(batches=batches)
    worker.wait_for_batch(batches + 1)
    wait_for(build, Status.RUNNING)
    return worker


def helper(site: Site, *, batches: int) -> Process:
    """Start a worker that embeds units, and return it when its model waits with these batches done."""
    worker = site.worker(batches=batches)
    worker.wait_for_batch(batches + 1)
    return worker


def assert_identical(index: ImageIndex, other: ImageIndex) -> None:
    assert list(index.records) == list(other.records)
    for ours, theirs in ((index.vectors[:], other.vectors[:]), (index.hashes, other.hashes)):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()
    assert np.array_equal(index.signatures, other.signatures)


def let_lease_expire(row: IndexBuild | BuildUnit) -> None:
    type(row).objects.filter(pk=row.pk).update(heartbeat_at=Now() - timedelta(hours=1))


def left_in_the_place(company: Company) -> list[Path]:
    return [directory for directory in workspaces(company.embeddings_directory) if "units" in directory.name]


def test_a_build_with_a_killed_worker_and_one_asleep_is_that_of_one_worker(
    site: Site, acme: Company, tmp_path: Path
) -> None:
    build = acme.queue_build()
    publishing = publisher(site, build, batches=1)
    killed = helper(site, batches=1)
    sleeper = site.worker(stop_after="search.unit_work:embed_unit")  # with its result written
    sleeper.wait_until_stopped()
    lost, asleep = BuildUnit.objects.filter(status=Status.RUNNING).order_by("number")[1:]
    killed.kill()
    for unit in (lost, asleep):
        let_lease_expire(unit)
    publishing.let(11)  # the units of the killed and of the sleeper come last
    publishing.wait_for_batch(12)
    made_again = BuildUnit.objects.get(pk=asleep.pk)
    assert made_again.attempts == 2
    sleeper.send(signal.SIGCONT)
    eventually(lambda: f"{asleep.name} of build {build.pk} is no longer this worker's" in sleeper.output, "refused")
    assert BuildUnit.objects.get(pk=asleep.pk).lease == made_again.lease
    publishing.let(100)
    wait_for(build, Status.SUCCEEDED)
    assert (build.attempts, build.images_embedded, build.units_total, build.units_done) == (1, 6 * UNIT, 6, 6)
    assert_identical(index_of(acme), undisturbed_index(acme, tmp_path))
    assert not BuildUnit.objects.exists()
    assert not left_in_the_place(acme)


@on_postgresql
def test_the_worker_that_takes_over_from_a_killed_publisher_goes_on_with_what_is_done(
    site: Site, acme: Company, tmp_path: Path
) -> None:
    build = acme.queue_build()
    first = publisher(site, build, batches=3)
    second = site.worker()
    eventually(lambda: BuildUnit.objects.filter(status=Status.SUCCEEDED).count() == 4, "the others are done")
    first.kill()
    for row in (build, BuildUnit.objects.get(status=Status.RUNNING)):
        let_lease_expire(row)
    third = site.worker()
    wait_for(build, Status.SUCCEEDED)
    assert build.attempts == 2
    assert (first.embedded, second.embedded + third.embedded) == (3 * BATCH, 5 * UNIT)
    assert_identical(index_of(acme), undisturbed_index(acme, tmp_path))


@on_sqlite
def test_a_cancelled_build_frees_all_who_work_on_it(site: Site, acme: Company) -> None:
    globex = company_with(2, "globex")
    build = acme.queue_build()
    workers = [publisher(site, build, batches=1), helper(site, batches=1)]
    assert build.cancel()
    other = globex.queue_build()
    for worker in workers:
        worker.let(100)
    wait_for(other, Status.SUCCEEDED)
    eventually(lambda: not left_in_the_place(acme), "nothing is left")
    assert not storage.has_index(acme.embeddings_directory)
    assert [worker.status for worker in workers] == [None, None]
    assert sum(worker.embedded for worker in workers) < 6 * UNIT


@on_sqlite
def test_a_worker_that_is_asked_to_stop_hands_its_unit_back(site: Site, acme: Company, tmp_path: Path) -> None:
    build = acme.queue_build()
    publishing = publisher(site, build, batches=1)
    stopped = helper(site, batches=1)
    stopped.send(signal.SIGTERM)
    stopped.let(100)
    assert stopped.wait() == 0
    assert not BuildUnit.objects.filter(status=Status.QUEUED, attempts__gt=0).exists()
    publishing.let(100)
    wait_for(build, Status.SUCCEEDED)
    assert_identical(index_of(acme), undisturbed_index(acme, tmp_path))


@on_postgresql
def test_a_small_build_goes_through_while_a_large_one_runs(site: Site, acme: Company) -> None:
    globex = company_with(2, "globex")
    large = acme.queue_build()
    publisher(site, large, batches=1)
    busy = helper(site, batches=1)
    small = globex.queue_build()
    busy.let(4)  # its unit, and the two pictures by a thread each
    wait_for(small, Status.SUCCEEDED)
    busy.wait_for_batch(5)  # back at the large one
    large.refresh_from_db()
    assert (large.status, large.units.filter(status=Status.RUNNING).count()) == (Status.RUNNING, 2)


@on_postgresql
def test_all_who_share_a_build_wait_for_a_database_that_is_away(
    site: Site, acme: Company, postgres: Cluster, tmp_path: Path
) -> None:
    build = acme.queue_build()
    workers = [publisher(site, build, batches=1), helper(site, batches=1)]
    with postgres.away():
        for worker in workers:
            worker.let(100)
        for worker in workers:
            eventually(lambda worker=worker: "The database is locked or away" in worker.output, "it waits")
    close_old_connections()
    wait_for(build, Status.SUCCEEDED)
    assert build.attempts == 1
    assert sum(worker.embedded for worker in workers) == 6 * UNIT
    assert_identical(index_of(acme), undisturbed_index(acme, tmp_path))


@on_sqlite
def test_workers_help_a_build_on_the_command_line(site: Site, acme: Company, tmp_path: Path) -> None:
    command = site.manage("build_embeddings", "--company=acme", "--workers=2", batches=1)
    command.wait_for_batch(2)
    worker = site.worker("--batch")
    assert worker.wait() == 0, worker.output  # nothing is left to do
    assert worker.embedded == 5 * UNIT
    command.let(100)
    assert command.wait() == 0, command.output
    assert_identical(index_of(acme), undisturbed_index(acme, tmp_path))


@on_postgresql
def test_machines_that_share_a_store_alone_share_a_build(
    site: Site, acme: Company, store_server: StoreServer, settings: Any, tmp_path: Path
) -> None:
    url = store_server.make_bucket()
    undisturbed = undisturbed_index(acme, tmp_path)
    site.store, site.endpoint = url, store_server.endpoint
    settings.STORE, settings.STORE_ENDPOINT, settings.INDEX_DIR = url, store_server.endpoint, tmp_path / "here"
    build = acme.queue_build()
    publishing = publisher(site, build, batches=1)
    other = site.worker()
    eventually(lambda: build.units.filter(status=Status.SUCCEEDED).count() == 5, "the other machine has done the rest")
    publishing.let(100)
    wait_for(build, Status.SUCCEEDED)
    assert (publishing.embedded, other.embedded) == (UNIT, 5 * UNIT)
    acme.refresh_from_db()
    assert_identical(built_index(acme), undisturbed)
    assert not list(open_store(url, store_server.endpoint).listing(".building"))
