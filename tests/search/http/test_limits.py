import base64
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connection
from django.test import Client, RequestFactory
from django.utils import timezone

from search import runtime
from search.engine.errors import ImageUnreadable
from search.http import limits
from search.http.limits import QuotaExceeded, Rate, RateExceeded, client_address, counted_search
from tenants.models import ApiKey, Company, SearchUsage
from tests.conftest import picture
from tests.support.fakes import RED, FakeEmbedder
from tests.support.processes import database
from tests.support.redis import free_port, redis_server

MakeCompany = Callable[..., Company]
NOON = datetime(2026, 11, 22, 12, 0, 15, 250_000, tzinfo=UTC)


class Clock:
    """What the limits take for the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOON
        for clock in ("time", "monotonic"):
            monkeypatch.setattr(time, clock, lambda: self.now.timestamp())

    def go_on(self, **units: float) -> None:
        self.now += timedelta(**units)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    limits.reset()
    return Clock(monkeypatch)


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED})


def make_key(company: Company, name: str = "shop") -> tuple[ApiKey, str]:
    key = ApiKey(company=company, name=name)
    text = key.draw()
    key.save()
    return key, text


def search(client: Client, **headers: str) -> Any:
    return client.post("/api/search/acme", {"image": picture(RED)}, headers=headers)


def assert_refused(response: Any, error: str, retry_after: int) -> None:
    assert response.status_code == 429
    assert (response.json()["success"], response.json()["error"]) == (False, error)
    assert response["Retry-After"] == str(retry_after)


# Rates ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_limited_unless_it_is_asked_for(client: Client, acme: Company) -> None:
    assert {client.get("/api/stats/acme").status_code for _ in range(50)} == {200}


def test_an_address_comes_as_often_as_it_may_and_no_more(client: Client, acme: Company, settings: Any) -> None:
    settings.RATE_PER_ADDRESS = (2, 60)
    assert [search(client).status_code for _ in range(2)] == [200, 200]
    error = "Too many requests from your address: at most 2 per minute; try again in 45 seconds"
    assert_refused(search(client), error, 45)
    assert_refused(client.get("/api/companies"), error, 45)
    assert client.get("/api/companies", REMOTE_ADDR="192.0.2.7").status_code == 200


def test_it_may_come_again_when_retry_after_says_so(client: Client, acme: Company, settings: Any, clock: Clock) -> None:
    settings.RATE_PER_ADDRESS = (1, 60)
    assert client.get("/api/companies").status_code == 200
    refused = client.get("/api/companies")
    clock.go_on(seconds=int(refused["Retry-After"]) - 1)
    assert client.get("/api/companies")["Retry-After"] == "1"
    clock.go_on(seconds=1)
    assert client.get("/api/companies").status_code == 200


@pytest.mark.parametrize(
    ("seconds", "words", "retry_after"),
    [(1, "second", 1), (60, "minute", 45), (3600, "hour", 3585), (86400, "day", 43185)],
)
def test_rates_of_every_unit(
    client: Client, db: None, settings: Any, seconds: int, words: str, retry_after: int
) -> None:
    settings.RATE_PER_ADDRESS = (1, seconds)
    assert client.get("/api/companies").status_code == 200
    response = client.get("/api/companies")
    assert f"at most 1 per {words};" in response.json()["error"]
    assert response["Retry-After"] == str(retry_after)


def test_a_key_has_a_rate_of_its_own(client: Client, acme: Company, settings: Any) -> None:
    settings.RATE_PER_KEY, settings.RATE_PER_ADDRESS = (2, 60), (1, 60)
    (_, shop), (_, app) = make_key(acme, "shop"), make_key(acme, "app")
    assert [search(client, **{"X-API-Key": shop}).status_code for _ in range(2)] == [200, 200]
    error = "Too many requests with this API key: at most 2 per minute; try again in 45 seconds"
    assert_refused(search(client, **{"X-API-Key": shop}), error, 45)
    assert_refused(search(client, Authorization=f"Api-Key {shop}"), error, 45)
    assert search(client, **{"X-API-Key": app}).status_code == 200
    assert search(client).status_code == 200  # nobody has come from the address without a key yet


def test_a_wrong_header_does_not_lead_round_the_rate(client: Client, acme: Company, settings: Any) -> None:
    settings.RATE_PER_ADDRESS, settings.RATE_WRONG_LOGINS = (1, 60), None
    assert search(client, Authorization="Digest x").status_code == 200
    assert search(client, Authorization="Digest y").status_code == 429


@pytest.mark.parametrize("path", ["/api/health", "/api/health/", "/api/health/live", "/api/health/ready"])
def test_probes_are_never_refused(client: Client, db: None, settings: Any, path: str) -> None:
    settings.RATE_PER_ADDRESS = (1, 86400)
    assert 429 not in {client.get(path).status_code for _ in range(3)}
    assert client.get("/api/companies").status_code == 200  # nor do they count


def test_a_preflight_does_not_count(client: Client, db: None, settings: Any) -> None:
    settings.RATE_PER_ADDRESS, settings.CORS_ALLOWED_ORIGINS = (1, 60), ["https://shop.example.com"]
    headers = {"Origin": "https://shop.example.com", "Access-Control-Request-Method": "GET"}
    assert {client.options("/api/companies", headers=headers).status_code for _ in range(3)} == {200}
    refused = [client.get("/api/companies", headers=headers) for _ in range(2)][1]
    assert refused.status_code == 429
    assert refused["Access-Control-Allow-Origin"] == "https://shop.example.com"  # so the page can read Retry-After


def passed(rate: Rate, attempts: int) -> int:
    """Return how many of so many counts are let through."""
    count = 0
    for _ in range(attempts):
        try:
            rate.count("somebody")
        except RateExceeded:
            continue
        count += 1
    return count


@pytest.fixture
def _threads_change_often() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("_threads_change_often")
def test_exactly_as_many_pass_among_threads() -> None:
    rate = Rate("test", "tries", 1000, 86400)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: passed(rate, 250), range(8))) == 1000


# Addresses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "address"),
    [
        (0, "192.0.2.1", "", "192.0.2.1"),
        (0, "192.0.2.1", "198.51.100.1", "192.0.2.1"),  # anybody can write that
        (1, "10.0.0.1", "198.51.100.1", "198.51.100.1"),
        (1, "10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the client made up the first
        (2, "10.0.0.1", "203.0.113.9, 198.51.100.1,10.0.0.2", "198.51.100.1"),
        (2, "192.0.2.1", "198.51.100.1", "192.0.2.1"),  # it came round a proxy
        (1, "10.0.0.1", "", "unknown"),
        (1, "10.0.0.1", "nonsense", "unknown"),
        (0, "", "", "unknown"),
        (0, "2001:db8:1:2:3:4:5:6", "", "2001:db8:1:2::"),
        (0, "::ffff:192.0.2.1", "", "192.0.2.1"),
        (0, "fe80::1%eth0", "", "fe80::"),
    ],
)
def test_the_address_is_the_last_that_can_be_trusted(
    settings: Any, proxies: int, peer: str, forwarded: str, address: str
) -> None:
    settings.NUM_PROXIES = proxies
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_FOR=forwarded)
    assert client_address(request) == address


def test_the_addresses_of_one_ipv6_customer_count_together(client: Client, db: None, settings: Any) -> None:
    settings.RATE_PER_ADDRESS = (1, 60)
    addresses = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    assert [client.get("/api/companies", REMOTE_ADDR=address).status_code for address in addresses] == [200, 429, 200]


# Wrong passwords and keys ---------------------------------------------------------------------------------------------


def basic(password: str) -> str:
    return f"Basic {base64.b64encode(f'boss:{password}'.encode()).decode()}"


@pytest.fixture
def boss(db: None, settings: Any) -> User:
    settings.RATE_WRONG_LOGINS = (2, 60)
    return User.objects.create_superuser("boss", password="right")


def test_the_right_password_is_refused_after_too_many_wrong_ones(
    client: Client, boss: User, acme: Company, clock: Clock
) -> None:
    def reindex(password: str) -> Any:
        return client.post("/api/reindex/acme", headers={"Authorization": basic(password)})

    assert [reindex("wrong").status_code for _ in range(2)] == [401, 401]
    error = "Too many wrong passwords or API keys from your address: at most 2 per minute; try again in 45 seconds"
    assert_refused(reindex("right"), error, 45)
    elsewhere = client.post("/api/reindex/acme", headers={"Authorization": basic("right")}, REMOTE_ADDR="192.0.2.7")
    assert elsewhere.status_code == 202
    assert search(client).status_code == 200  # who gives no password is not concerned
    clock.go_on(seconds=45)
    assert reindex("right").status_code == 202


@pytest.mark.parametrize("between", ["\t", "  ", "\x0b", "\x0c"])
def test_no_white_space_leads_round_the_limit(client: Client, boss: User, acme: Company, between: str) -> None:
    def reindex(password: str) -> Any:
        header = basic(password).replace(" ", between)
        return client.post("/api/reindex/acme", headers={"Authorization": header})

    assert [reindex("wrong").status_code for _ in range(2)] == [401, 401]
    assert reindex("right").status_code == 429


def test_right_passwords_do_not_count(client: Client, boss: User, acme: Company) -> None:
    headers = {"Authorization": basic("right")}
    assert {client.post("/api/reindex/acme", headers=headers).status_code for _ in range(5)} == {202}


def test_the_admins_login_is_closed_after_too_many_wrong_passwords(client: Client, boss: User, clock: Clock) -> None:
    def login(password: str) -> Any:
        return client.post("/admin/login/", {"username": "boss", "password": password})

    assert [login("wrong").status_code for _ in range(2)] == [200, 200]
    refused = login("right")
    assert (refused.status_code, refused["Retry-After"]) == (429, "45")
    assert refused.content.decode().startswith("Too many wrong passwords")
    assert client.get("/admin/login/").status_code == 200
    clock.go_on(minutes=1)
    assert login("right").status_code == 302


def test_who_guesses_keys_is_refused_and_who_has_one_is_not(client: Client, boss: User, acme: Company) -> None:
    _, text = make_key(acme)
    wrong = [search(client, **{"X-API-Key": f"{text[:-1]}{'A' if text[-1] != 'A' else 'B'}"}) for _ in range(3)]
    assert [response.status_code for response in wrong] == [401, 401, 429]
    assert wrong[2]["Retry-After"] == "45"
    assert search(client, **{"X-API-Key": text}).status_code == 200


# A cache that is away or shared ---------------------------------------------------------------------------------------


def use_redis(settings: Any, port: int) -> None:
    settings.CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": f"redis://127.0.0.1:{port}/0",
            "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 1},
        }
    }


def test_searches_go_on_without_the_cache_and_the_log_says_so_once(
    client: Client, acme: Company, settings: Any, caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    settings.RATE_PER_ADDRESS = settings.RATE_WRONG_LOGINS = (1, 60)
    use_redis(settings, free_port())
    assert {search(client).status_code for _ in range(3)} == {200}
    assert client.post("/api/reindex/acme", headers={"Authorization": basic("wrong")}).status_code == 401
    said = [record.getMessage() for record in caplog.records if record.name == "search.http.limits"]
    assert len(said) == 1
    assert said[0].startswith("The cache of CACHE_URL fails, so rates are not limited for 10 seconds: Error")
    clock.go_on(seconds=10)
    assert search(client).status_code == 200
    assert len([record for record in caplog.records if record.name == "search.http.limits"]) == 2


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    with redis_server(tmp_path) as port:
        yield port


def test_exactly_as_many_pass_among_those_who_share_a_redis(
    settings: Any, redis_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    use_redis(settings, redis_port)  # a connection of its own for each thread, as for each process
    rate = Rate("test", "tries", 100, 86400)
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(lambda _: passed(rate, 25), range(8))) == 100
    with pytest.raises(RateExceeded):
        rate.check("somebody")
    assert not caplog.records  # no count went by because Redis was away


# Quotas ---------------------------------------------------------------------------------------------------------------


def test_answers_say_how_many_searches_the_quota_leaves(client: Client, acme: Company) -> None:
    Company.objects.update(daily_quota=3)
    first = search(client)
    image = first.json()["results"][0]["id"]
    answers = [first, client.get(f"/api/search/acme/{image}"), search(client), search(client)]
    assert [(answer.status_code, answer["X-Quota-Remaining"]) for answer in answers] == [
        (200, "2"),
        (200, "1"),
        (200, "0"),
        (429, "0"),
    ]


def test_without_a_quota_answers_say_nothing_of_one(client: Client, acme: Company) -> None:
    assert "X-Quota-Remaining" not in search(client)


def test_a_company_searches_as_often_a_day_as_its_quota_allows(
    client: Client, acme: Company, make_company: MakeCompany
) -> None:
    Company.objects.filter(pk=acme.pk).update(daily_quota=2)
    make_company("globex", {"red.png": RED})
    first = search(client).json()["results"][0]["id"]
    assert client.get(f"/api/search/acme/{first}").status_code == 200
    for refused in (search(client), client.get(f"/api/search/acme/{first}")):
        assert refused.status_code == 429
        wanted = "Company 'acme' has reached its daily quota of 2 searches (resets 00:00 UTC); try again in "
        assert refused.json()["error"] == f"{wanted}{refused['Retry-After']} seconds"
    left = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0) - datetime.now(UTC)
    assert int(search(client)["Retry-After"]) in range(max(1, int(left.total_seconds()) - 60), 86401)
    assert client.get("/api/stats/acme").status_code == 200  # no search
    assert client.post("/api/search/globex", {"image": picture(RED)}).status_code == 200


def test_the_next_day_begins_at_nothing(client: Client, acme: Company) -> None:
    Company.objects.filter(pk=acme.pk).update(daily_quota=1)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    SearchUsage.objects.create(company=acme, day=yesterday, searches=1)
    assert [search(client).status_code for _ in range(2)] == [200, 429]


def test_what_is_no_search_costs_nothing(client: Client, acme: Company) -> None:
    Company.objects.filter(pk=acme.pk).update(daily_quota=1)
    assert client.post("/api/search/acme").status_code == 400  # no image
    assert client.post("/api/search/acme", {"image": picture(RED), "top_k": "0"}).status_code == 400
    assert search(client).status_code == 200


def search_with(client: Client, content: bytes) -> Any:
    file = BytesIO(content)
    file.name = "query.png"
    return client.post("/api/search/acme", {"image": file})


def test_a_search_that_is_refused_or_fails_costs_nothing(client: Client, acme: Company, settings: Any) -> None:
    Company.objects.filter(pk=acme.pk).update(daily_quota=2)
    assert [search_with(client, b"no picture").status_code for _ in range(3)] == [400] * 3
    assert client.get(f"/api/search/acme/{uuid4()}").status_code == 404
    runtime.reset()
    settings.WEIGHTS, settings.DEVICE = "/nowhere/weights.pth", "cpu"
    assert [search(client).status_code for _ in range(3)] == [503] * 3
    runtime.use(FakeEmbedder())
    assert [search(client).status_code for _ in range(3)] == [200, 200, 429]
    assert search_with(client, b"no picture").status_code == 429
    assert SearchUsage.objects.get().searches == 2


def test_a_search_that_is_refused_counts_against_the_rate(client: Client, acme: Company, settings: Any) -> None:
    settings.RATE_PER_ADDRESS = (2, 60)
    Company.objects.filter(pk=acme.pk).update(daily_quota=2)
    assert [search_with(client, b"no picture").status_code for _ in range(3)] == [400, 400, 429]


def test_a_missing_index_costs_nothing(client: Client, embedder: FakeEmbedder, db: None) -> None:
    company = Company.objects.create(name="acme", daily_quota=1)
    assert [search(client).status_code for _ in range(2)] == [503, 503]
    assert not SearchUsage.objects.filter(company=company, searches__gt=0).exists()


def searches_by_day() -> dict[date, int]:
    return dict(SearchUsage.objects.values_list("day", "searches"))


def test_a_search_that_fails_is_given_back_to_the_day_that_counted_it(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme, now = Company.objects.create(name="acme", daily_quota=5), [datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC)]
    monkeypatch.setattr(timezone, "now", lambda: now[-1])
    with suppress(ImageUnreadable), counted_search(acme):
        now.append(now[-1] + timedelta(seconds=2))
        with counted_search(acme):
            pass
        raise ImageUnreadable("broken")
    assert searches_by_day() == {date(2026, 11, 22): 0, date(2026, 11, 23): 1}


def test_no_more_is_given_back_than_was_counted(db: None) -> None:
    acme = Company.objects.create(name="acme", daily_quota=5)
    with counted_search(acme):
        pass
    usage = SearchUsage.objects.get()
    for _ in range(3):
        SearchUsage.objects.give_back(usage)
    assert searches_by_day() == {usage.day: 0}


def test_a_database_that_fails_does_not_hide_why_a_search_was_refused(
    client: Client, acme: Company, caplog: pytest.LogCaptureFixture
) -> None:
    Company.objects.filter(pk=acme.pk).update(daily_quota=2)

    def fail_to_give_back(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE") and SearchUsage._meta.db_table in sql:
            raise OperationalError("database is locked")
        return execute(sql, *rest)

    with connection.execute_wrapper(fail_to_give_back):
        assert search_with(client, b"no picture").status_code == 400
    assert "A search of acme that was counted could not be given back" in caplog.text


def test_without_a_quota_nothing_is_written(client: Client, acme: Company) -> None:
    assert search(client).status_code == 200
    assert not SearchUsage.objects.exists()


def test_exactly_the_quota_passes_among_connections(database_url: str, django_db_blocker: Any) -> None:
    """On SQLite and PostgreSQL, each thread with a connection of its own, as a process has. Every other one fails."""
    barrier = threading.Barrier(4)

    def search(company: Company, *, broken: bool) -> bool:
        with suppress(ImageUnreadable, QuotaExceeded), counted_search(company):
            if broken:
                raise ImageUnreadable("broken")
            return True
        return False

    def search_often(company: Company) -> int:
        barrier.wait()
        try:
            return sum(search(company, broken=bool(number % 2)) for number in range(40))
        finally:
            connection.close()

    with django_db_blocker.unblock(), database(database_url):
        company = Company.objects.create(name="acme", daily_quota=60)
        with ThreadPoolExecutor(4) as pool:
            passed = sum(pool.map(search_often, [company] * 4))
        while search(company, broken=False):  # which a broken one's place was kept from
            passed += 1
        assert passed == 60
        assert SearchUsage.objects.today().get().searches == 60


def test_the_admin_shows_the_searches_of_today_beside_the_quota(
    client: Client, acme: Company, make_company: Any
) -> None:
    make_company("globex", {"red.png": RED})
    Company.objects.filter(pk=acme.pk).update(daily_quota=1000)
    assert search(client).status_code == 200
    assert client.post("/api/search/globex", {"image": picture(RED)}).status_code == 200
    client.force_login(User.objects.create_superuser("boss"))
    page = client.get("/admin/tenants/company/").content.decode()
    assert '<td class="field-searches_today">1 of 1,000</td>' in page
    assert '<td class="field-searches_today">1</td>' in page
    assert "1 of 1,000" in client.get(f"/admin/tenants/company/{acme.pk}/change/").content.decode()


def test_the_quota_is_set_in_the_admin(client: Client, acme: Company) -> None:
    client.force_login(User.objects.create_superuser("boss"))
    address = f"/admin/tenants/company/{acme.pk}/change/"
    assert "greater than or equal to 1" in client.post(address, {"daily_quota": "0"}).content.decode()
    assert client.post(address, {"active": "on", "daily_quota": "7"}).status_code == 302
    acme.refresh_from_db()
    assert acme.daily_quota == 7
