"""What is counted of a company's searches, and when it is written."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from search.companies.usage import note_search
from tenants.models import ApiKey, Company, DailySearches, SearchChannel, SearchOutcome
from tenants.models.searches import search_note, today
from tenants.models.unwritten import unwritten
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.processes import Site
from tests.support.servers import Gunicorn
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]

COUNTS = ("channel", "key_prefix", "searches", "without_result", "errors", "refused")


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED, "sale/blue.png": BLUE})


def search(company: str = "acme", *, key: str = "", image: Any = None, **form: Any) -> Any:
    headers = {"X-API-Key": key} if key else {}
    return Client().post(f"/api/search/{company}", {"image": image or picture(RED), **form}, headers=headers)


def counted() -> list[tuple[Any, ...]]:
    return list(DailySearches.objects.order_by("channel", "key_prefix").values_list(*COUNTS))


def note(company: Company, **differently: Any) -> None:
    outcome = {"outcome": SearchOutcome.FOUND, "seconds": 0.03, "best_score": 0.5}
    note_search(company, **{"channel": SearchChannel.API, "key": None, **outcome, **differently})


# What is counted


def test_a_search_is_counted_by_day_channel_and_key(acme: Company) -> None:
    key, text = acme.issue_key("Shop")
    for sent in ("", text, text):
        assert search(key=sent).status_code == 200
    assert counted() == [("api", "", 1, 0, 0, 0), ("api", key.prefix, 2, 0, 0, 0)]
    assert set(DailySearches.objects.values_list("day", flat=True)) == {today()}


def test_a_search_that_finds_nothing_is_counted_as_one_without_result(acme: Company) -> None:
    assert search(min_score=1, image=picture(GREEN)).json()["total_results"] == 0
    assert counted() == [("api", "", 1, 1, 0, 0)]


def test_a_search_with_one_of_the_companys_pictures_is_counted(acme: Company) -> None:
    image = search().json()["results"][0]["id"]
    assert Client().get(f"/api/search/acme/{image}").status_code == 200
    assert counted() == [("api", "", 2, 0, 0, 0)]


def test_the_best_score_and_the_time_are_added_up(acme: Company) -> None:
    for _ in range(2):
        search()
    row = DailySearches.objects.get()
    assert row.scores == pytest.approx(2)  # the same picture, twice
    assert 0 < row.seconds < 60


def test_what_the_caller_has_sent_wrongly_is_counted_as_refused(acme: Company) -> None:
    assert search(top_k="many").status_code == 400
    assert search(image="no file").status_code == 400
    assert Client().get(f"/api/search/acme/{'0' * 8}-0000-0000-0000-{'0' * 12}").status_code == 404
    assert counted() == [("api", "", 0, 0, 0, 3)]


def test_a_search_over_the_quota_is_counted_as_refused(acme: Company) -> None:
    Company.objects.update(daily_quota=1)
    assert [search().status_code for _ in range(3)] == [200, 429, 429]
    assert counted() == [("api", "", 1, 0, 0, 2)]


def test_a_search_over_the_rate_of_a_key_is_counted_as_refused(acme: Company, settings: Any) -> None:
    settings.RATE_PER_KEY = (1, 86400)
    key, text = acme.issue_key("Shop")
    assert [search(key=text).status_code for _ in range(3)] == [200, 429, 429]
    assert counted() == [("api", key.prefix, 1, 0, 0, 2)]


def test_a_key_over_its_rate_counts_nothing_for_another_company(
    acme: Company, make_company: MakeCompany, settings: Any
) -> None:
    settings.RATE_PER_KEY = (1, 86400)
    make_company("globex", {"green.png": GREEN})
    _, text = acme.issue_key("Shop")
    assert [search("globex", key=text).status_code for _ in range(2)] == [400, 429]
    assert counted() == []


def test_a_search_that_fails_here_is_counted_as_an_error(acme: Company, settings: Any) -> None:
    Company.objects.create(name="globex")  # without an index
    assert search("globex").status_code == 503
    assert counted() == [("api", "", 0, 0, 1, 0)]


def test_an_unknown_company_and_a_wrong_key_are_not_counted(acme: Company) -> None:
    assert search("initech").status_code == 400
    assert search(key=f"{'0' * 12}.{'x' * 43}").status_code == 401
    assert counted() == []


@pytest.mark.parametrize(
    ("seconds", "column"),
    [(0.0, "within_25ms"), (0.025, "within_25ms"), (0.03, "within_50ms"), (4.9, "within_5000ms"), (5.1, None)],
)
def test_the_time_is_counted_in_one_column(acme: Company, seconds: float, column: str | None) -> None:
    note(acme, seconds=seconds)
    unwritten.write()
    row = DailySearches.objects.get()
    assert [name for name in DailySearches.WITHIN if getattr(row, name)] == ([column] if column else [])


# When it is written


def test_a_search_writes_nothing_itself(acme: Company, settings: Any) -> None:
    settings.USAGE_SECONDS = 3600
    _, text = acme.issue_key("Shop")
    with CaptureQueriesContext(connection) as queries:
        for _ in range(3):
            assert search(key=text).status_code == 200
    assert {query["sql"].split()[0] for query in queries} == {"SELECT"}
    assert counted() == []


def test_the_searches_of_a_process_and_the_use_of_its_keys_are_written_together(acme: Company, settings: Any) -> None:
    settings.USAGE_SECONDS = 3600
    key, text = acme.issue_key("Shop")
    for _ in range(3):
        search(key=text)
    unwritten.write()
    assert counted() == [("api", key.prefix, 3, 0, 0, 0)]
    assert ApiKey.objects.exclude(last_used=None).exists()


def test_searches_of_a_company_that_is_deleted_meanwhile_are_dropped_and_those_of_others_written(
    acme: Company, make_company: MakeCompany
) -> None:
    globex = make_company("globex", {"green.png": GREEN})
    note(globex)
    note(acme)
    Company.objects.filter(pk=globex.pk).delete()
    unwritten.write()
    assert list(DailySearches.objects.values_list("company", "searches")) == [(acme.pk, 1)]


def test_days_that_are_too_old_go_when_a_new_day_begins(acme: Company) -> None:
    ages = [1, 399, 400, 500]
    for age in ages:
        DailySearches.objects.create(company=acme, day=today() - timedelta(days=age), channel="api")
    search()
    kept: list[date] = list(DailySearches.objects.order_by("-day").values_list("day", flat=True))
    assert [(today() - day).days for day in kept] == [0, 1, 399]


def test_many_who_write_at_once_add_up_exactly(site: Site) -> None:
    company = Company.objects.create(name="acme")
    found = {"outcome": SearchOutcome.FOUND, "seconds": 0.03, "best_score": 0.5}
    each = search_note(company, channel=SearchChannel.API, key_prefix="", **found)

    def write_often(_: int) -> None:
        try:
            for _ in range(50):
                each.write()
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, range(4)))
    assert counted() == [("api", "", 200, 0, 0, 0)]
    assert DailySearches.objects.get().scores == pytest.approx(100)


def test_a_locked_database_keeps_no_search_waiting_and_its_count_is_written_later(
    site: Site, embedder: FakeEmbedder
) -> None:
    acme = company_of(site)
    note(acme)
    unwritten.write()
    with someone_writing(site):
        began = time.monotonic()
        assert search().status_code == 200
        assert time.monotonic() - began < 5
        assert counted() == [("api", "", 1, 0, 0, 0)]
    note(acme)
    unwritten.write()
    assert counted() == [("api", "", 3, 0, 0, 0)]


def company_of(site: Site) -> Company:
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "red.png", RED)
    call_command("build_embeddings", company="acme")
    return company


@contextmanager
def someone_writing(site: Site) -> Iterator[None]:
    """Hold what a writer of the counts needs until the end of the block."""
    if site.database_url.startswith("sqlite"):
        with closing(sqlite3.connect(site.directory / "db.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
    else:
        with psycopg.connect(site.database_url) as other:
            other.execute("UPDATE tenants_dailysearches SET searches = searches")
            yield
            other.rollback()


# In a server


@pytest.fixture
def server(site: Site, embedder: FakeEmbedder) -> Iterator[Gunicorn]:
    company_of(site)
    server = Gunicorn(site)
    yield server
    server.stop()


@pytest.mark.slow
def test_a_server_that_has_nothing_more_to_do_writes_its_counts(server: Gunicorn) -> None:
    for _ in range(3):
        server.found("acme", RED)
    assert counted() == []
    eventually(lambda: counted() == [("api", "", 3, 0, 0, 0)], "the counts are written", seconds=15)
    server.found("acme", RED)
    eventually(lambda: counted() == [("api", "", 4, 0, 0, 0)], "the next as well", seconds=15)


@pytest.mark.slow
def test_a_server_writes_its_counts_before_it_ends(server: Gunicorn) -> None:
    for _ in range(3):
        server.found("acme", RED)
    assert counted() == []
    server.stop()
    assert counted() == [("api", "", 3, 0, 0, 0)]
