"""Publishers of one company on several machines that share a database and a store: killed, and in each other's way."""

import os
import random
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from search import publication, stores
from search.engine.storage import remote
from tenants.models import Company
from tests.support.object_store import StoreServer
from tests.support.store_processes import (
    Installation,
    Publish,
    machine,
    publish_before_the_upload,
    publish_on,
    publish_once,
    publish_when_told,
    read_on,
    start,
)

pytestmark = [pytest.mark.parametrize("database_url", ["postgresql"], indirect=True), pytest.mark.slow]

SECONDS = float(os.environ.get("KILL_SECONDS", "4"))  # that publishers are killed
SERVED = 5  # generations at least, however slow the machine is


@pytest.fixture
def installation(
    database_url: str, store_server: StoreServer, tmp_path: Path, settings: Any, django_db_blocker: Any
) -> Iterator[Installation]:
    """A company with one generation; this process is a machine as well."""
    settings.CACHE_DIR = tmp_path  # as they were after the test
    settings.STORE = settings.STORE_ENDPOINT = ""
    settings.REPLICA_DIR = tmp_path
    made = Installation(database_url, store_server.make_bucket(), store_server.endpoint, tmp_path)
    with django_db_blocker.unblock(), machine(made, "here"):
        Company.objects.create(name="acme")
        publish_once(1)
        yield made


def kill_publishers(installation: Installation, publish: Publish) -> list[tuple[set[int], list[str]]]:
    """Kill publishers on two machines at random under readers on two others; return what these say."""
    chance = random.Random(7)
    readers = [start(read_on, installation, f"reader {number}") for number in range(2)]
    publishers = [start(publish_on, installation, f"publisher {n}", 1000 * n, publish)[0] for n in (1, 2)]
    first, deadline, served = 10_000, time.monotonic() + SECONDS, set[str | None]()
    while time.monotonic() < deadline or len(served) < SERVED:
        time.sleep(chance.uniform(0.05, 1.2))  # anywhere within a publication
        killed = chance.randrange(2)
        publishers[killed].kill()
        publishers[killed].join()
        publishers[killed] = start(publish_on, installation, f"publisher {killed + 1}", first, publish)[0]
        first += 1000
        served.add(Company.objects.get().generation)
    for process in publishers:
        process.kill()
        process.join()
    for _, line in readers:
        line.send("stop")
    return [line.recv() for _, line in readers]


def test_whoever_reads_the_row_finds_its_generation_whole_however_publishers_are_killed(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = kill_publishers(installation, publication.publish)

    assert [wrong for _, wrong in said] == [[], []]
    assert all(len(seen) > 1 for seen, _ in said)

    # What the killed have left is collected, and the next publication works.
    monkeypatch.setattr(publication, "_GRACE", timedelta(seconds=-1))
    publication.repair()
    publication.collect_leftovers()
    company = Company.objects.get()
    store = stores.of(company)
    assert store is not None
    found = remote.look(store)
    assert all(each.is_complete and each.published_at for each in found)
    publish_once(5)
    assert Company.objects.get().generation not in {each.name for each in found}


def test_the_same_readers_catch_publishers_whose_row_names_what_is_not_uploaded_yet(
    installation: Installation,
) -> None:
    said = kill_publishers(installation, publish_before_the_upload)
    assert any("which is not in the store" in each for _, wrong in said for each in wrong)


def test_of_six_publishers_that_began_with_the_same_index_one_publishes(installation: Installation) -> None:
    before = Company.objects.get().generation
    racing = [start(publish_when_told, installation, f"racer {number}", 10 + number) for number in range(6)]
    for _, line in racing:
        line.send("go")
    published = [name for _, line in racing if (name := line.recv())]

    company = Company.objects.get()
    store = stores.of(company)
    assert store is not None
    assert published == [company.generation]
    assert remote.names(store) == [company.generation, before]  # nothing of the others is left
