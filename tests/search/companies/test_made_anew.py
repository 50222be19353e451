"""A company that was deleted and made again under its name, in real processes: nothing of the first is left."""

import json
import signal
from collections.abc import Iterator

import pytest
from django.test import Client

from search.companies.removal import delete_company
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild
from tests.conftest import Colour, paint
from tests.support.admin import search_names, url
from tests.support.fakes import BLUE, GREEN, RED, WHITE, FakeEmbedder
from tests.support.processes import Site
from tests.support.servers import Browser, Gunicorn, Server, forked_server
from tests.support.waiting import eventually

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

FIRST = {"first/red.png": RED, "first/blue.png": BLUE}
SECOND = {"second/green.png": GREEN, "second/white.png": WHITE}


def made(pictures: dict[str, Colour]) -> Company:
    company = Company.objects.create(name="acme")
    for path, colour in pictures.items():
        paint(company.image_directory / path, colour)
    return company


def built(pictures: dict[str, Colour]) -> Company:
    company = made(pictures)
    carry_out_build.func(company.queue_build().pk)
    return company


def writing_key(company: Company) -> str:
    return company.issue_key("shop", can_write=True)[1]


def paths_in_metadata(company: Company) -> set[str]:
    return {entry["fullPath"] for entry in json.loads((company.embeddings_directory / "metadata.json").read_bytes())}


def delete_all(company: Company) -> None:
    delete_company(company, by=on_command_line(), remove_index=True, remove_pictures=True)


@pytest.fixture(params=["forked", pytest.param("gunicorn", marks=pytest.mark.slow)])
def servers(request: pytest.FixtureRequest, site: Site) -> Iterator[list[Server]]:
    """Two processes that serve the site."""
    if request.param == "forked":
        yield [forked_server(site) for _ in range(2)]
        return
    started = [Gunicorn(site, number) for number in range(2)]
    yield list(started)
    for server in started:
        server.stop()


@pytest.mark.slow
@on_sqlite
def test_neither_of_two_servers_answers_with_anything_of_the_first(
    site: Site, servers: list[Server], embedder: FakeEmbedder
) -> None:
    first = built(FIRST)
    servers[0].put("acme", "first/put.png", WHITE, writing_key(first))
    for server in servers:  # both hold the first, its live change included
        assert set(server.found("acme", RED)) == {*FIRST, "first/put.png"}
    old_id = servers[0].get("/api/images/acme")["images"][0]["id"]

    said = Browser(servers[0]).submit(url("delete", first), remove_pictures="1")  # the index is ticked
    assert "Removed from disk: the index of acme." in said
    assert [server.get("/api/companies")["companies"] for server in servers] == [[], []]
    Browser(servers[1]).submit("/admin/tenants/company/add/", name="acme")
    second = Company.objects.get()
    assert [server.search("acme", RED).status_code for server in servers] == [503, 503]  # it has no index yet
    servers[1].put("acme", "second/put.png", RED, writing_key(second))
    for server in servers:
        assert server.found("acme", RED) == ["second/put.png"]
    for path, colour in SECOND.items():
        paint(second.image_directory / path, colour)
    carry_out_build.func(second.queue_build().pk)

    for server in servers:
        assert [set(server.found("acme", RED)) for _ in range(8)] == [{*SECOND, "second/put.png"}] * 8
        assert {image["fullPath"] for image in server.get("/api/images/acme")["images"]} == {*SECOND, "second/put.png"}
        assert server.get("/api/stats/acme")["stats"]["total_images"] == 3
        assert server.status(f"/api/search/acme/{old_id}") == 404
    assert paths_in_metadata(second) == {*SECOND, "second/put.png"}
    assert (second.embeddings_directory / "given_ids.json").read_text() == "{}"


SLEEPS = {  # where the worker of the first company's build falls asleep
    "before it writes anything": "search.engine.build.builder:make_plan",
    "before it embeds": "search.engine.build.builder:_Build._open_workspace",
    "with all files written": "search.engine.storage.writing:Draft.complete",
    "when it has published": "search.publication:_switch",
}


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("place", SLEEPS.values(), ids=SLEEPS)
def test_a_worker_of_the_first_that_was_asleep_leaves_the_second_alone(
    site: Site, embedder: FakeEmbedder, place: str
) -> None:
    site.lease_seconds = 600
    first = made(FIRST)
    build = first.queue_build()
    sleeper = site.manage("build_worker", "--no-startup-delay", "--max-tasks=1", stop_after=place)
    sleeper.wait_until_stopped()
    delete_all(first)
    assert not IndexBuild.objects.filter(pk=build.pk).exists()
    second = built(SECOND)
    published = Company.objects.get().generation

    sleeper.send(signal.SIGCONT)
    assert sleeper.wait() == 0, sleeper.output
    assert "Traceback" not in sleeper.output
    assert search_names(second) == set(SECOND)
    assert second.embeddings_directory.resolve().name == published
    assert paths_in_metadata(second) == set(SECOND)
    paint(second.image_directory / "second/red.png", RED)
    carry_out_build.func(second.queue_build().pk)
    assert search_names(second) == {*SECOND, "second/red.png"}
    assert left_beside(second) == {"company.json", ".lock", ".building", *generation_names(second)}
    assert list((second.embeddings_directory.parent / ".generations/acme/.building").iterdir()) == []


def left_beside(company: Company) -> set[str]:
    return {path.name for path in (company.embeddings_directory.parent / ".generations/acme").iterdir()}


def generation_names(company: Company) -> set[str]:
    return {name for name in left_beside(company) if name[0].isdigit()}


@on_sqlite
def test_a_build_that_runs_while_its_company_is_deleted_ends_and_says_so(site: Site) -> None:
    first = made(FIRST)
    command = site.manage("build_embeddings", "--company=acme", batches=0)
    command.wait_for_batch(1)
    delete_all(first)
    command.let(100)
    assert command.wait() == 1
    assert "Traceback" not in command.output
    assert "acme was deleted, and its build with it" in command.output


@on_sqlite
def test_what_the_first_has_embedded_is_of_no_use_to_the_second(site: Site) -> None:
    """The same pictures are embedded anew: nobody can tell what the first has left of them."""
    first = made(FIRST)
    killed = site.worker(batches=1)
    first.queue_build()
    killed.wait_for_batch(1)
    killed.kill()
    delete_company(first, by=on_command_line())
    second = made(FIRST)
    worker = site.worker()
    build = second.queue_build()
    eventually(lambda: IndexBuild.objects.get(pk=build.pk).status == "succeeded", "the build of the second")
    assert worker.embedded == len(FIRST)


@on_sqlite
def test_a_process_killed_after_the_deletion_leaves_an_index_that_comes_back_inactive(
    site: Site, embedder: FakeEmbedder
) -> None:
    built(FIRST)
    code = (
        "from search.companies.removal import delete_company; from tenants.models import Company;"
        "from tenants.audit import on_command_line;"
        "delete_company(Company.objects.get(), by=on_command_line(), remove_index=True)"
    )
    killed = site.manage("shell", "-c", code, die_after="search.companies.removal:index_directory")
    assert killed.wait() == -signal.SIGKILL
    assert not Company.objects.exists()
    assert site.manage("adopt_companies").wait() == 0
    company = Company.objects.get()
    assert not company.active
    assert Client().get("/api/companies").json()["companies"] == []
