"""Machines that share a database and a store: real processes, each machine with a directory of its own."""

import secrets
from pathlib import Path

import pytest

from search.engine import storage
from search.engine.storage import copies
from tenants.models import ApiKey, Company
from tests.conftest import paint
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.object_store import StoreServer
from tests.support.processes import KILLED, Process, Site
from tests.support.servers import Server, forked_server
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]


@pytest.fixture
def acme(site: Site, store_server: StoreServer) -> Company:
    """A company whose index lies in the store, published by a machine that is not looked at again."""
    site.store, site.endpoint = f"{store_server.make_bucket()}/indexes", store_server.endpoint
    company = Company.objects.create(name="acme")
    publish(site, company, "red.png", RED)
    return company


def publish(site: Site, company: Company, path: str, colour: tuple[int, int, int]) -> None:
    paint(site.directory / "media" / company.name / path, colour)
    build = site.manage("build_embeddings", "--company", company.name, machine="publisher")
    assert build.wait() == 0, build.output


def writing_key(company: Company) -> str:
    key = ApiKey(company=company, name=secrets.token_hex(4), can_write=True)
    text = key.draw()
    key.save()
    return text


def found(server: Server) -> set[str]:
    return set(server.found("acme", RED))


def test_two_machines_answer_alike_whatever_is_published_put_and_deleted(site: Site, acme: Company) -> None:
    machines = [forked_server(site, machine) for machine in ("first", "second")]
    assert [found(each) for each in machines] == [{"red.png"}] * 2

    publish(site, acme, "blue.png", BLUE)
    eventually(lambda: all(found(each) == {"red.png", "blue.png"} for each in machines), "the new index is used")

    key = writing_key(acme)
    machines[0].put("acme", "green.png", GREEN, key)
    machines[1].delete("acme", "red.png", key)
    assert [found(each) for each in machines] == [{"blue.png", "green.png"}] * 2
    generation = str(Company.objects.get().generation)
    for machine in ("first", "second"):
        assert (site.directory / machine / ".generations/acme" / generation).is_dir()


def test_two_processes_of_a_machine_fetch_once(site: Site, acme: Company) -> None:
    both = [site.manage("prefetch", "acme", machine="machine") for _ in range(2)]
    assert [each.wait() for each in both] == [0, 0]
    assert sum(each.output.count("Fetched the index") for each in both) == 1


def test_a_fetch_that_is_killed_is_finished_by_the_next(site: Site, acme: Company) -> None:
    killed = site.manage("prefetch", "acme", machine="machine", die_after="search.engine.storage.remote:_fetch_one")
    assert killed.wait() == KILLED
    (left,) = (site.directory / "machine/.generations/acme").glob(".fetching-*")
    assert not copies.copies(site.directory / "machine")

    assert site.manage("prefetch", "acme", machine="machine").wait() == 0
    (copy,) = copies.copies(site.directory / "machine")
    storage.require_undamaged(copy.path)
    assert not left.exists()


def test_who_follows_fetches_what_is_published(site: Site, acme: Company) -> None:
    following = site.manage("prefetch", "acme", "--follow", machine="machine")
    publish(site, acme, "blue.png", BLUE)
    eventually(lambda: copy_of(site, acme, following).is_dir(), "the new index is here")


def copy_of(site: Site, company: Company, running: Process) -> Path:
    assert running.status is None, running.output
    generation = str(Company.objects.get(pk=company.pk).generation)
    return site.directory / "machine/.generations" / company.name / generation
