"""Builds by real processes that are killed, stopped and asked to end.

On each database where processes contend for rows; otherwise on SQLite, whose processes are the quicker ones.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import connections
from django.db.models.functions import Now
from django.test import Client

from search.engine import storage
from search.engine.build.builder import BuildOptions, build_index
from search.engine.index.index import ImageIndex
from search.engine.storage.layout import workspaces
from search.overlay import live_index
from search.pictures import delete_image, put_image
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild, Watch
from tests.conftest import paint, picture
from tests.engine.build.test_builder import LONG_AGO, assert_same_index, colour_of
from tests.support.databases import on_sqlite
from tests.support.fakes import RED, FakeEmbedder
from tests.support.processes import KILLED, Process, Site
from tests.support.waiting import eventually

BATCH = 8  # pictures a model run of a worker
Status = IndexBuild.Status


def company_with(count: int, name: str = "acme", *, prefix: str = "") -> Company:
    company = Company.objects.create(name=name)
    fill(company, count, prefix=prefix)
    return company


def fill(company: Company, count: int, *, prefix: str = "") -> None:
    for number in range(count):
        file = paint(company.image_directory / f"{prefix}{number:03}.bmp", colour_of(number))
        os.utime(file, ns=(LONG_AGO, LONG_AGO))


def index_of(company: Company) -> ImageIndex:
    return storage.load(company.embeddings_directory)


def undisturbed_index(company: Company, tmp_path: Path) -> ImageIndex:
    target = tmp_path / "undisturbed" / company.name
    build_index(company.image_directory, target, embedder=FakeEmbedder(), options=BuildOptions(max_pixels=1_000_000))
    return storage.load(target)


def wait_for(build: IndexBuild, status: str) -> IndexBuild:
    def arrived() -> bool:
        build.refresh_from_db()
        return build.status == status

    try:
        eventually(arrived, f"build {build.pk} is {status}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {build.status}: {build.error}") from None
    return build


def kept_of_unfinished_builds(company: Company) -> int:
    files = (file for each in workspaces(company.embeddings_directory) for file in each.glob("*.jsonl"))
    return sum(file.read_text().count("\n") - 1 for file in files)  # without its header


def let_lease_expire(build: IndexBuild) -> None:
    """Put the clock of the build's lease forward, which saves waiting."""
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at=Now() - timedelta(hours=1))


# Workers ------------------------------------------------------------------------------------------------------------


@on_sqlite
def test_a_queued_build_is_carried_out(site: Site, tmp_path: Path) -> None:
    acme = company_with(40)
    (acme.image_directory / "broken.png").touch()
    build = acme.queue_build()
    worker = site.worker()
    wait_for(build, Status.SUCCEEDED)
    assert (build.images_found, build.images_embedded, build.images_skipped, build.attempts) == (41, 40, 1, 1)
    assert build.skipped_files.get().path == "broken.png"
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


def test_a_worker_is_heard_of_as_long_as_it_lives(site: Site) -> None:
    assert Watch.objects.is_worker_silent()
    worker = site.worker()
    eventually(lambda: not Watch.objects.is_worker_silent(), "the worker is heard of")
    worker.kill()
    Watch.objects.update(beat_at=Now() - timedelta(hours=1))
    assert Watch.objects.is_worker_silent()


@pytest.mark.slow
def test_a_build_whose_worker_is_killed_is_finished_by_another_that_runs(site: Site, tmp_path: Path) -> None:
    acme = company_with(5 * BATCH)
    build = acme.queue_build()
    first = site.worker(batches=2)
    first.wait_for_batch(3)
    second = site.worker()
    first.kill()
    kept = kept_of_unfinished_builds(acme)
    wait_for(build, Status.SUCCEEDED)
    assert (build.attempts, build.images_found, build.images_embedded) == (2, 5 * BATCH, 5 * BATCH)
    assert (first.embedded, second.embedded) == (2 * BATCH, 5 * BATCH - kept)  # nothing that was kept, twice
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))


@pytest.mark.slow
@on_sqlite
def test_a_build_whose_only_worker_is_killed_is_finished_by_the_next_that_starts(site: Site) -> None:
    acme = company_with(2 * BATCH)
    build = acme.queue_build()
    first = site.worker(batches=1)
    first.wait_for_batch(2)
    first.kill()
    site.worker()
    wait_for(build, Status.SUCCEEDED)
    assert len(index_of(acme)) == 2 * BATCH


@on_sqlite
def test_a_build_that_kills_every_worker_is_given_up_after_three(site: Site) -> None:
    acme = company_with(2 * BATCH)
    build = acme.queue_build()
    for attempt in (1, 2, 3):
        worker = site.worker(batches=0)
        worker.wait_for_batch(1)
        build.refresh_from_db()
        assert (build.status, build.attempts) == (Status.RUNNING, attempt)
        worker.kill()
        let_lease_expire(build)
    site.worker()
    wait_for(build, Status.FAILED)
    assert build.error.startswith("Given up: the worker was lost 3 times")
    assert not storage.has_index(acme.embeddings_directory)


@pytest.mark.slow
def test_a_worker_that_slept_cannot_publish_over_a_newer_index(site: Site, tmp_path: Path) -> None:
    acme = company_with(2 * BATCH)
    build = acme.queue_build()
    sleeper = site.worker("--max-tasks=1", batches=1)
    sleeper.wait_for_batch(2)
    sleeper.send(signal.SIGSTOP)
    site.worker()
    wait_for(build, Status.SUCCEEDED)
    paint(acme.image_directory / "newer.bmp", RED)
    newer = wait_for(acme.queue_build(), Status.SUCCEEDED)
    version = storage.version(acme.embeddings_directory)
    sleeper.let(100)
    sleeper.send(signal.SIGCONT)
    assert sleeper.wait() == 0
    assert storage.version(acme.embeddings_directory) == version
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))
    for row, embedded in ((build, 2 * BATCH), (newer, 1)):
        row.refresh_from_db()
        assert (row.status, row.images_embedded) == (Status.SUCCEEDED, embedded)


@pytest.mark.slow
@on_sqlite
def test_sigterm_hands_the_build_back_at_the_next_batch(site: Site, tmp_path: Path) -> None:
    acme = company_with(20 * BATCH)
    build = acme.queue_build()
    worker = site.worker(batches=2)
    worker.wait_for_batch(3)
    worker.send(signal.SIGTERM)
    worker.let(100)
    assert worker.wait() == 0
    build.refresh_from_db()
    assert (build.status, build.attempts) == (Status.QUEUED, 0)
    assert worker.embedded < 20 * BATCH
    fresh = site.worker()
    wait_for(build, Status.SUCCEEDED)
    assert build.attempts == 1
    assert worker.embedded + fresh.embedded == 20 * BATCH
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))


@on_sqlite
def test_a_second_sigterm_ends_a_worker_that_hangs(site: Site) -> None:
    company_with(BATCH).queue_build()
    worker = site.worker(batches=0)
    worker.wait_for_batch(1)
    worker.send(signal.SIGTERM)
    eventually(lambda: "shutting down" in worker.output, "the worker has noticed")
    worker.send(signal.SIGTERM)
    assert worker.wait() == -signal.SIGTERM


@on_sqlite
def test_a_cancelled_build_stops_and_its_worker_goes_on_with_others(site: Site) -> None:
    acme, globex = company_with(3 * BATCH), company_with(2, "globex")
    build = acme.queue_build()
    worker = site.worker(batches=1)
    worker.wait_for_batch(2)
    assert build.cancel()
    other = globex.queue_build()
    worker.let(100)
    wait_for(other, Status.SUCCEEDED)
    build.refresh_from_db()
    assert build.status == Status.CANCELLED
    assert not storage.has_index(acme.embeddings_directory)
    assert worker.status is None


@pytest.mark.slow
def test_two_workers_share_the_builds_of_many_companies(site: Site) -> None:
    companies = [company_with(10 + number, f"company{number}") for number in range(6)]
    builds = [company.queue_build() for company in companies]
    workers = [site.worker(), site.worker()]
    for build in builds:
        wait_for(build, Status.SUCCEEDED)
        assert build.attempts == 1
    assert [len(index_of(company)) for company in companies] == [10, 11, 12, 13, 14, 15]
    assert sum(worker.embedded for worker in workers) == sum(range(10, 16))


@on_sqlite
def test_a_build_that_fails_says_why_and_its_worker_goes_on(site: Site) -> None:
    acme, globex = Company.objects.create(name="acme"), company_with(2, "globex")
    failing, other = acme.queue_build(), globex.queue_build()
    site.worker()
    wait_for(other, Status.SUCCEEDED)
    wait_for(failing, Status.FAILED)
    assert "acme cannot be read: No such file or directory" in failing.error


def test_pictures_put_and_deleted_while_a_worker_builds_are_not_lost(site: Site, embedder: FakeEmbedder) -> None:
    acme = company_with(3 * BATCH)
    build = acme.queue_build()
    worker = site.worker(batches=1)
    worker.wait_for_batch(2)
    content = picture(RED, "red.png").getvalue()
    put_image(acme, "red.png", content, by=on_command_line())
    delete_image(acme, "000.bmp", by=on_command_line())  # of a batch that is embedded already
    worker.let(100)
    wait_for(build, Status.SUCCEEDED)
    acme.refresh_from_db()
    for index in (live_index(acme), _index_after_another_build(acme)):
        paths = {match.image.path for match in index.search(embedder.embed([np.float32([1, 0, 0])])[0], 4 * BATCH)}
        assert "red.png" in paths
        assert "000.bmp" not in paths
        assert len(paths) == 3 * BATCH


def _index_after_another_build(company: Company) -> ImageIndex:
    wait_for(company.queue_build(), Status.SUCCEEDED)
    return index_of(company)


# The command --------------------------------------------------------------------------------------------------------


def build_command(site: Site, *arguments: str, batches: int = 10**9) -> Process:
    options = ["--company=acme", "--batch_size=4", "--workers=2", *arguments]
    return site.manage("build_embeddings", *options, batches=batches)


@pytest.mark.slow
def test_twenty_kills_in_one_build_end_in_the_index_of_an_undisturbed_one(site: Site, tmp_path: Path) -> None:
    chance = random.Random(20)
    acme = company_with(300)
    embedded = killed = 0
    for kill in range(20):
        process = build_command(site, batches=chance.randrange(2, 4) if kill < 15 else 10**9)
        eventually(lambda p=process: p.status is not None or (p.pid and _has_begun(acme)), "the build has begun")
        time.sleep(chance.uniform(0, 0.25))  # the moment of the kill is the test's point
        process.kill()
        killed += process.status == KILLED
        embedded += process.embedded
        for build in acme.builds.active():
            let_lease_expire(build)
    assert killed >= 15
    last = build_command(site)
    assert last.wait() == 0, last.output
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))
    assert acme.builds.latest("id").status == Status.SUCCEEDED
    assert 300 <= embedded + last.embedded <= 300 + 20 * 2 * 4  # a kill costs the batches that it hits


def _has_begun(company: Company) -> bool:
    return company.builds.filter(status=Status.RUNNING, heartbeat_at__gt=Now() - timedelta(minutes=1)).exists()


@pytest.mark.slow
@on_sqlite
def test_ctrl_c_leaves_a_build_that_goes_on_and_says_so(site: Site, tmp_path: Path) -> None:
    acme = company_with(40)
    process = build_command(site, batches=3)
    process.wait_for_batch(4)
    process.send(signal.SIGINT)
    process.let(100)
    assert process.wait() == 130
    assert "the work done so far is kept. Run the command again to continue." in process.output
    assert "Traceback" not in process.output
    assert acme.builds.get().status == Status.CANCELLED
    again = build_command(site)
    assert again.wait() == 0, again.output
    assert process.embedded + again.embedded == 40
    assert_same_index(index_of(acme), undisturbed_index(acme, tmp_path))


@on_sqlite
def test_ctrl_c_with_an_output_directory_leaves_a_build_that_goes_on_too(site: Site, tmp_path: Path) -> None:
    acme = company_with(40)
    arguments = [
        f"--input_dir={acme.image_directory}",
        f"--output_dir={tmp_path / 'elsewhere'}",
        "--batch_size=4",
    ]
    process = site.manage("build_embeddings", *arguments, batches=3)
    process.wait_for_batch(4)
    process.send(signal.SIGINT)
    process.let(100)
    assert process.wait() == 130
    assert "Run the command again to continue" in process.output
    assert "Traceback" not in process.output
    again = site.manage("build_embeddings", *arguments)
    assert again.wait() == 0, again.output
    assert process.embedded + again.embedded == 40


@on_sqlite
def test_a_command_beside_a_running_build_says_so_and_leaves_it_alone(site: Site) -> None:
    site.lease_seconds = 60
    acme = company_with(40)
    first = build_command(site, batches=1)
    first.wait_for_batch(2)
    second = build_command(site)
    assert second.wait() == 1
    assert "A build of acme is already running" in second.output
    first.let(100)
    assert first.wait() == 0, first.output
    assert len(index_of(acme)) == 40


# Searches meanwhile -------------------------------------------------------------------------------------------------


@contextmanager
def searches(company: Company, top_k: int) -> Iterator[list[tuple[str, ...]]]:
    """Search without a pause until the end of the block; yield the paths of each answer."""
    answers: list[tuple[str, ...]] = []
    errors: list[Any] = []
    end = threading.Event()

    def search() -> None:
        client = Client(raise_request_exception=False)
        while not end.is_set():
            form = {"image": picture(colour_of(3)), "top_k": top_k}
            response = client.post(f"/api/search/{company.name}", form)
            if response.status_code != 200:
                errors.append(response.content)
                return
            answers.append(tuple(entry["fullPath"] for entry in response.json()["results"]))
        connections.close_all()

    thread = threading.Thread(target=search)
    thread.start()
    try:
        yield answers
    finally:
        end.set()
        thread.join()
    assert errors == []


@pytest.mark.slow
def test_searches_see_the_old_index_or_the_new_while_workers_build_and_die(site: Site, embedder: FakeEmbedder) -> None:
    acme = company_with(BATCH, prefix="0-")
    assert build_command(site).wait() == 0
    with searches(acme, top_k=BATCH) as answers:
        eventually(lambda: bool(answers), "the first index is searched")
        for turn in range(1, 5):
            for file in sorted(acme.image_directory.glob("*.bmp")):
                file.unlink()
            fill(acme, BATCH, prefix=f"{turn}-")
            unlucky = site.worker(batches=0)
            build = acme.queue_build(full=True)
            unlucky.wait_for_batch(1)
            unlucky.kill()
            healthy = site.worker()
            let_lease_expire(build)
            wait_for(build, Status.SUCCEEDED)
            eventually(lambda seen=turn: answers[-1][0].startswith(f"{seen}-"), "the new index is searched")
            healthy.kill()
    expected = {tuple(sorted(f"{turn}-{number:03}.bmp" for number in range(BATCH))) for turn in range(5)}
    seen = [tuple(sorted(answer)) for answer in answers]
    assert set(seen) == expected
    turns = [int(answer[0][0]) for answer in seen]
    assert turns == sorted(turns)  # nobody goes back to an older index


@pytest.mark.slow
def test_an_interrupted_publication_is_never_seen(site: Site) -> None:
    """Kills commands at random moments of short builds while a reader loads the index again and again."""
    chance = random.Random(7)
    acme = company_with(8, prefix="0-")
    assert build_command(site).wait() == 0
    end = threading.Event()
    seen: set[tuple[str, ...]] = set()
    torn: list[object] = []
    statuses: set[int | None] = set()

    def read() -> None:
        while not end.is_set():
            try:
                index = index_of(acme)
                seen.add(tuple(record.path for record in index.records))
                if not np.isfinite(index.vectors[:]).all():
                    torn.append("vectors")
            except Exception as error:
                torn.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for turn in range(1, 7):
            for file in list(acme.image_directory.glob("*.bmp")):
                file.rename(file.with_name(f"{turn}-{file.name.partition('-')[2]}"))
            process = build_command(site)
            eventually(lambda p=process: p.status is not None or _has_begun(acme), "the build has begun")
            time.sleep(chance.uniform(0, 0.1))  # the moment of the kill is the test's point
            process.kill()
            statuses.add(process.status)
            for build in acme.builds.active():
                let_lease_expire(build)
    finally:
        end.set()
        reader.join()
    assert KILLED in statuses
    assert torn == []
    assert seen <= {tuple(f"{turn}-{number:03}.bmp" for number in range(8)) for turn in range(7)}
    assert build_command(site).wait() == 0
    assert [record.path for record in index_of(acme).records] == [f"6-{number:03}.bmp" for number in range(8)]


@on_sqlite
def test_the_statuses_of_killed_processes_are_seen(site: Site) -> None:
    company_with(2)
    process = build_command(site, batches=0)
    process.wait_for_batch(1)
    process.kill()
    assert process.status == KILLED
