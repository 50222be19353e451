"""Searches for duplicates by real workers that are killed, stopped and needed for something else."""

import signal

import pytest
from django.db.models.functions import Now
from django_tasks_db.models import DBTaskResult

from search import tasks
from tenants.models import Company, DuplicateSearch, IndexBuild
from tests.support.databases import on_sqlite
from tests.support.duplicates import company_of, drawn, grouped, save
from tests.support.fakes import BLUE, RED, FakeEmbedder
from tests.support.processes import KILLED, Process, Site
from tests.support.waiting import eventually

Status = DuplicateSearch.Status


def acme_with_duplicates() -> Company:
    return company_of("acme", {"a.png": drawn(RED), "b.png": drawn(RED), "c.png": drawn(BLUE)})


def wait_for(search: DuplicateSearch, status: str) -> None:
    def arrived() -> bool:
        search.refresh_from_db()
        return search.status == status

    eventually(arrived, f"search {search.pk} is {status}")


def killed_worker(site: Site, place: str) -> Process:
    return site.manage("build_worker", "--interval=0.05", "--no-startup-delay", die_after=place)


@pytest.mark.slow
def test_a_search_whose_worker_is_killed_is_finished_by_another(site: Site, embedder: FakeEmbedder) -> None:
    acme = acme_with_duplicates()
    search = DuplicateSearch.objects.ask(acme)
    assert killed_worker(site, "search.companies.duplicates:_keep").wait() == KILLED
    search.refresh_from_db()
    assert (search.status, search.attempts) == (Status.RUNNING, 1)
    site.worker()
    wait_for(search, Status.SUCCEEDED)
    assert search.attempts == 2
    assert grouped(acme) == [["a.png", "b.png"]]


@on_sqlite
def test_after_a_build_a_worker_looks_at_what_is_new(site: Site, embedder: FakeEmbedder) -> None:
    acme = acme_with_duplicates()
    first = DuplicateSearch.objects.ask(acme)
    worker = site.worker()
    wait_for(first, Status.SUCCEEDED)
    save(acme, "d.png", drawn(BLUE))
    acme.queue_build()
    eventually(lambda: acme.duplicate_searches.filter(status=Status.SUCCEEDED).count() == 2, "it looks again")
    assert sorted(grouped(acme)) == [["a.png", "b.png"], ["c.png", "d.png"]]
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


@on_sqlite
def test_a_build_goes_before_a_search_that_was_queued_earlier(site: Site, embedder: FakeEmbedder) -> None:
    acme = acme_with_duplicates()
    search = DuplicateSearch.objects.ask(acme)
    build = acme.queue_build()
    site.worker()
    wait_for(search, Status.SUCCEEDED)
    build.refresh_from_db()
    assert build.status == IndexBuild.Status.SUCCEEDED
    assert build.finished_at < search.started_at


@pytest.mark.django_db
def test_a_search_gives_way_to_all_tasks_but_searches() -> None:
    acme = Company.objects.create(name="acme")
    DuplicateSearch.objects.ask(acme)
    assert not tasks._others_wait()
    acme.queue_build()
    assert tasks._others_wait()
    DBTaskResult.objects.update(run_after=Now())
    DBTaskResult.objects.filter(priority=0).delete()
    assert not tasks._others_wait()
