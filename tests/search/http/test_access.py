"""Who is let in, to what, and what a stranger can tell from the answers."""

import base64
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core import checks
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tenants.models import ApiKey, ApiKeyQuerySet, Company
from tests.conftest import picture
from tests.support.fakes import BLUE, GREEN, RED

MakeCompany = Callable[..., Company]

# Names of one length, so that answers that echo them can be compared byte by byte.
OPEN, LOCKED, OFF, UNKNOWN = COMPANIES = ("open", "lock", "gone", "none")
BAD = ("expired", "revoked", "malformed", "altered", "unheard of", "not ascii", "huge", "empty")
CALLERS = ("stranger", *(f"key of {name}" for name in (OPEN, LOCKED, OFF)), *BAD)
IMAGE_ID = "00000000-0000-5000-8000-000000000000"

ENDPOINTS: dict[str, Callable[[Client, str, dict[str, str]], Any]] = {
    "stats": lambda client, name, headers: client.get(f"/api/stats/{name}", headers=headers),
    "search": lambda client, name, headers: client.post(
        f"/api/search/{name}", {"image": picture(RED)}, headers=headers
    ),
    "similar": lambda client, name, headers: client.get(f"/api/search/{name}/{IMAGE_ID}", headers=headers),
    "list": lambda client, name, headers: client.get(f"/api/images/{name}", headers=headers),
    "get": lambda client, name, headers: client.get(f"/api/images/{name}/a.png", headers=headers),
    "head": lambda client, name, headers: client.head(f"/api/images/{name}/a.png", headers=headers),
    "put": lambda client, name, headers: client.generic(
        "PUT", f"/api/images/{name}/p.png", picture(GREEN).getvalue(), content_type="image/png", headers=headers
    ),
    "delete": lambda client, name, headers: client.delete(f"/api/images/{name}/p.png", headers=headers),
    "reindex": lambda client, name, headers: client.post(f"/api/reindex/{name}", headers=headers),
}
WRITES = {"put", "delete", "reindex"}
SUCCESS = {"put": 201, "reindex": 202, "similar": 404}  # no picture has that id; the others 200


@pytest.fixture
def keys(make_company: MakeCompany, settings: Any) -> dict[str, str]:
    """Make the companies; return what each caller sends as a key."""
    settings.RATE_WRONG_LOGINS = None  # a 429 would hide what is asked here
    open_, locked, off = (make_company(name, {"a.png": RED, "b.png": BLUE}) for name in (OPEN, LOCKED, OFF))
    texts = {f"key of {company}": company.issue_key("writer", can_write=True)[1] for company in (open_, locked, off)}
    Company.objects.filter(name=LOCKED).update(requires_api_key=True)
    Company.objects.filter(name=OFF).update(active=False)
    _, texts["expired"] = locked.issue_key("old", can_write=True, expires=timezone.now() - timedelta(seconds=1))
    revoked, texts["revoked"] = locked.issue_key("lost", can_write=True)
    revoked.revoke()
    good = texts[f"key of {LOCKED}"]
    return {
        **texts,
        "malformed": good[:-1],
        "altered": good[:-1] + ("A" if good[-1] != "A" else "B"),
        "unheard of": f"{'0' * 12}.{good.partition('.')[2]}",
        "not ascii": "ключ\x00",
        "huge": "0" * 100_000,
        "empty": "",
    }


def headers_of(caller: str, keys: dict[str, str]) -> dict[str, str]:
    return {} if caller == "stranger" else {"X-API-Key": keys[caller]}


def lets_in(caller: str, name: str, *, required: bool) -> bool:
    if caller == "stranger":
        return name == OPEN and not required
    return caller == f"key of {name}" and name != OFF


def observed(
    endpoint: str, client: Client, name: str, headers: dict[str, str]
) -> tuple[int, bytes, dict[str, str], int]:
    """Return all that a caller can see of an answer, with the name left out, and how much the database was asked."""
    with CaptureQueriesContext(connection) as queries:
        response = ENDPOINTS[endpoint](client, name, headers)
    shown = {key: value for key, value in response.headers.items() if key not in ("X-Request-ID", "Server-Timing")}
    return response.status_code, response.content.replace(name.encode(), b"*"), shown, len(queries)


@pytest.mark.parametrize("setting", ["off", "required"])
def test_callers_see_their_own_company_and_no_trace_of_others(
    client: Client, keys: dict[str, str], settings: Any, setting: str
) -> None:
    settings.API_KEYS = setting
    for caller, endpoint in itertools.product(CALLERS, ENDPOINTS):
        headers = headers_of(caller, keys)
        client.get("/api/companies", headers=headers)  # the note of a key's first use is behind it
        unknown = observed(endpoint, client, UNKNOWN, headers)
        has_key = caller in (f"key of {OPEN}", f"key of {LOCKED}")
        may_ask = has_key or (caller == "stranger" and setting == "off" and endpoint not in WRITES)
        assert unknown[0] == (400 if may_ask else 401), (caller, endpoint)
        for name in (OPEN, LOCKED, OFF):
            answer = observed(endpoint, client, name, headers)
            if may_ask and lets_in(caller, name, required=setting == "required"):
                assert answer[0] == SUCCESS.get(endpoint, 200), (caller, endpoint, name, answer)
            else:
                assert answer == unknown, (caller, endpoint, name)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_hidden_company_is_not_even_looked_at(
    client: Client, keys: dict[str, str], caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    """As much is done for it as for one that never was, so that the time tells nothing."""
    for caller in ("stranger", f"key of {OPEN}"):
        caplog.clear()
        with caplog.at_level("INFO", "search.requests"):
            ENDPOINTS[endpoint](client, LOCKED, headers_of(caller, keys))
        (line,) = [record for record in caplog.records if record.name == "search.requests"]
        assert getattr(line, "company") == "", caller  # noqa: B009, which no record is known to have


@pytest.mark.parametrize("setting", ["off", "required"])
def test_lists_tell_callers_of_their_own_companies(
    client: Client, keys: dict[str, str], settings: Any, setting: str
) -> None:
    for name in (OPEN, LOCKED):  # so that their indexes are loaded
        client.post(f"/api/search/{name}", {"image": picture(RED)}, headers=headers_of(f"key of {name}", keys))
    settings.API_KEYS = setting
    for caller in CALLERS:
        headers = headers_of(caller, keys)
        companies, health = (client.get(f"/api/{what}", headers=headers) for what in ("companies", "health"))
        if caller in BAD or caller == f"key of {OFF}":
            assert companies.status_code == health.status_code == 401, caller
            continue
        seen = [name for name in COMPANIES if lets_in(caller, name, required=setting == "required")]
        listed = companies.json()
        assert ([entry["name"] for entry in listed["companies"]], listed["total"]) == (seen, len(seen)), caller
        told = [health.json()[what] for what in ("total_companies_available", "loaded_companies", "loaded_count")]
        assert told == [len(seen), seen, len(seen)], caller


def test_a_key_that_is_no_use_is_a_401_that_says_how_to_come(client: Client, keys: dict[str, str]) -> None:
    for caller in BAD:
        schemes = [{"Authorization": f"{scheme} {keys[caller]}"} for scheme in ("Api-Key", "Bearer")]
        for headers in (headers_of(caller, keys), *schemes):
            response = client.get(f"/api/stats/{OPEN}", headers=headers)
            assert response.status_code == 401, caller
            assert response.json() == {
                "success": False,
                "error": "The API key is invalid, expired or revoked",
                "code": "credentials_invalid",
            }
            assert response["WWW-Authenticate"] == 'Api-Key realm="api", Basic realm="api"'


HOSTILE = [
    *(f"{scheme}{rest}" for scheme in ("Api-Key", "Bearer") for rest in ("", " ", " \x00", " é", " ." * 9000)),
    "API-KEY a b",
    "Basic",
    "Basic \xff",
    "Basic " + "A" * 9000,
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_headers_are_a_401(client: Client, db: None, value: str) -> None:
    assert client.get("/api/companies", headers={"Authorization": value}).status_code == 401


def test_either_header_carries_a_key_and_two_keys_are_refused(client: Client, keys: dict[str, str]) -> None:
    mine, other = keys[f"key of {LOCKED}"], keys[f"key of {OPEN}"]
    for headers, status in (
        ({"Authorization": f"Api-Key {mine}"}, 200),
        ({"Authorization": f"api-key  {mine} "}, 200),
        ({"X-API-Key": mine, "Authorization": f"Api-Key {mine}"}, 200),
        ({"X-API-Key": mine, "Authorization": f"Api-Key {other}"}, 401),
        ({"X-API-Key": mine, "Authorization": "Api-Key"}, 401),
        ({"Authorization": f"Bearer {mine}"}, 200),
        ({"Authorization": f"bearer {mine}"}, 200),
        ({"X-API-Key": mine, "Authorization": f"Bearer {mine}"}, 200),
        ({"X-API-Key": mine, "Authorization": f"Bearer {other}"}, 401),
        ({"X-API-Key": mine, "Authorization": "Digest something"}, 200),  # nothing of ours
    ):
        assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == status, headers


def test_a_key_without_the_right_to_write_only_reads(client: Client, keys: dict[str, str]) -> None:
    headers = {"X-API-Key": Company.objects.get(name=LOCKED).issue_key("reader")[1]}
    for endpoint, ask in ENDPOINTS.items():
        status = ask(client, LOCKED, headers).status_code
        assert status == (403 if endpoint in WRITES else SUCCESS.get(endpoint, 200)), endpoint


def test_who_may_not_write_hears_what_is_missing(client: Client, keys: dict[str, str]) -> None:
    User.objects.create_user("viewer", password="a-secret", is_staff=True)
    reader = {"X-API-Key": Company.objects.get(name=LOCKED).issue_key("reader")[1]}
    key_refused = client.post(f"/api/reindex/{LOCKED}", headers=reader)
    user_refused = client.post(f"/api/reindex/{LOCKED}", headers=basic_of("viewer", "a-secret"))
    assert key_refused.json()["error"] == "This API key can only read: send one that can write"
    assert user_refused.json()["error"] == (
        "This takes a staff user with the permission tenants.reindex_company, or an API key that can write"
    )
    assert key_refused.status_code == user_refused.status_code == 403


def test_builds_of_other_companies_do_not_exist_for_a_key(client: Client, keys: dict[str, str]) -> None:
    mine, other = (Company.objects.get(name=name).queue_build() for name in (LOCKED, OPEN))
    headers = headers_of(f"key of {LOCKED}", keys)
    reader = {"X-API-Key": Company.objects.get(name=LOCKED).issue_key("reader")[1]}
    assert client.get(f"/api/builds/{mine.pk}", headers=reader).json()["build"]["company"] == LOCKED
    assert client.post(f"/api/builds/{mine.pk}/cancel", headers=reader).status_code == 403
    for method, tail in (("get", ""), ("post", "/cancel")):
        hidden = getattr(client, method)(f"/api/builds/{other.pk}{tail}", headers=headers)
        unknown = getattr(client, method)(f"/api/builds/99999{tail}", headers=headers)
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.json()["error"].replace(str(other.pk), "*") == unknown.json()["error"].replace("99999", "*")
    assert client.get(f"/api/builds/{mine.pk}").status_code == 401
    assert client.post(f"/api/builds/{mine.pk}/cancel", headers=headers).json()["build"]["status"] == "cancelled"
    other.refresh_from_db()
    assert other.status == "queued"


def basic_of(name: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"}


PATHS = (
    *(f"/api/stats/{name}" for name in COMPANIES),
    *(f"/api/search/{name}" for name in COMPANIES),
    f"/api/images/{OPEN}/a.png",
    f"/api/reindex/{UNKNOWN}",
    "/api/companies",
    "/api/health",
    "/api/health/live",
    "/api/health/ready",
    "/api/schema/",
    "/api/docs/",
    "/api/builds/99",
    "/api/no-such-page",
)


@pytest.mark.parametrize("method", ["get", "post", "options", "delete", "head"])
def test_wrong_credentials_are_a_401_on_every_path(client: Client, keys: dict[str, str], method: str) -> None:
    User.objects.create_superuser("ann", password="secret")
    right = headers_of(f"key of {LOCKED}", keys)
    for headers in (
        headers_of("altered", keys),
        {"Authorization": f"Bearer {keys['revoked']}"},
        basic_of("ann", "wrong"),
        {**right, **basic_of("ann", "wrong")},
        {**headers_of("altered", keys), **basic_of("ann", "secret")},
    ):
        for path in PATHS:
            response = getattr(client, method)(path, headers=headers)
            assert response.status_code == 401, (path, headers)
            if method != "head":
                assert response.json()["code"] == "credentials_invalid"


def test_who_sends_nothing_is_asked_for_nothing_by_probes_and_lost_pages(client: Client, db: None) -> None:
    assert client.get("/api/health/live").status_code == 200
    assert client.get("/api/no-such-page").json() == {
        "success": False,
        "error": "No such page: /api/no-such-page",
        "code": "page_not_found",
    }


@pytest.mark.parametrize("setting", ["off", "required"])
def test_staff_who_may_view_companies_search_by_basic(
    client: Client, keys: dict[str, str], settings: Any, setting: str
) -> None:
    settings.API_KEYS = setting
    viewer = User.objects.create_user("vic", password="secret", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_company"))
    for name in (OPEN, LOCKED):
        for endpoint in ("stats", "search", "list", "get"):
            assert ENDPOINTS[endpoint](client, name, basic_of("vic", "secret")).status_code == 200, endpoint
        assert ENDPOINTS["put"](client, name, basic_of("vic", "secret")).status_code == 403
    assert observed("stats", client, OFF, basic_of("vic", "secret")) == observed(
        "stats", client, UNKNOWN, basic_of("vic", "secret")
    )
    listed = client.get("/api/companies", headers=basic_of("vic", "secret")).json()["companies"]
    assert [entry["name"] for entry in listed] == [LOCKED, OPEN]


@pytest.mark.parametrize("options", [{"is_staff": True}, {"is_staff": False}])
@pytest.mark.parametrize("setting", ["off", "required"])
def test_a_password_without_the_permission_shows_no_more_than_none(
    client: Client, keys: dict[str, str], settings: Any, setting: str, options: dict[str, bool]
) -> None:
    settings.API_KEYS = setting
    User.objects.create_user("joe", password="secret", **options)
    basic = basic_of("joe", "secret")
    for endpoint in set(ENDPOINTS) - WRITES:
        answers = [observed(endpoint, client, name, basic) for name in (LOCKED, OFF, UNKNOWN)]
        assert answers[0] == answers[1] == answers[2], endpoint
        assert answers[0][0] == (403 if setting == "required" else 400), endpoint


def test_who_asks_for_a_company_in_vain_is_told_that_a_key_may_be_missing(client: Client, keys: dict[str, str]) -> None:
    for name in (LOCKED, OFF, UNKNOWN):
        for headers in ({}, headers_of(f"key of {OPEN}", keys)):
            body = client.get(f"/api/stats/{name}", headers=headers).json()
            assert body["error"] == f"Company '{name}' not found"
            assert body["code"] == "company_not_found"
            assert "X-API-Key" in body["hint"]


@pytest.mark.parametrize("setting", ["off", "required"])
def test_staff_write_by_basic_and_sessions_are_never_enough(
    client: Client, keys: dict[str, str], settings: Any, setting: str
) -> None:
    settings.API_KEYS = setting
    user = User.objects.create_superuser("ann", password="secret")
    basic = basic_of("ann", "secret")
    for endpoint in sorted(WRITES, reverse=True):
        assert ENDPOINTS[endpoint](client, LOCKED, basic).status_code in (200, 201, 202), endpoint
    client.force_login(user)
    for endpoint in ENDPOINTS:
        assert observed(endpoint, client, LOCKED, {})[:2] == observed(endpoint, Client(), LOCKED, {})[:2]


@pytest.mark.parametrize("setting", ["off", "required"])
def test_answers_to_a_key_are_stored_by_no_cache(
    client: Client, keys: dict[str, str], settings: Any, setting: str
) -> None:
    settings.API_KEYS = setting
    for path in ("/api/companies", "/api/health", f"/api/stats/{LOCKED}", f"/api/stats/{UNKNOWN}"):
        for headers in (headers_of(f"key of {LOCKED}", keys), headers_of("revoked", keys)):
            assert client.get(path, headers=headers)["Cache-Control"] == "no-store"
        vary = client.get(path)["Vary"].lower()
        assert "authorization" in vary
        assert "x-api-key" in vary


# What is kept of a key


def test_nothing_that_is_kept_opens_anything(client: Client, keys: dict[str, str]) -> None:
    text = keys[f"key of {LOCKED}"]
    prefix, _, secret = text.partition(".")
    row = ApiKey.objects.filter(prefix=prefix).values().get()
    assert secret not in str(row)
    for stolen in (row["digest"], f"{prefix}.{row['digest']}", f"{prefix}.{row['digest'][:43]}"):
        assert client.get(f"/api/stats/{LOCKED}", headers={"X-API-Key": stolen}).status_code == 401


def test_a_key_survives_a_new_secret_key_through_the_fallbacks(
    client: Client, keys: dict[str, str], settings: Any
) -> None:
    headers = headers_of(f"key of {LOCKED}", keys)
    before, settings.SECRET_KEY = settings.SECRET_KEY, "another one"
    assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 401
    settings.SECRET_KEY_FALLBACKS = [before]
    assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 200
    settings.SECRET_KEY_FALLBACKS = []  # used once, it is the new one's
    assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 200


def updates_of_keys(client: Client, headers: dict[str, str]) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 200
    return sum(query["sql"].startswith("UPDATE") for query in queries)


def test_a_use_is_noted_once_a_minute(client: Client, keys: dict[str, str]) -> None:
    headers = headers_of(f"key of {LOCKED}", keys)
    assert [updates_of_keys(client, headers) for _ in range(3)] == [1, 0, 0]
    key = ApiKey.objects.get(prefix=headers["X-API-Key"].partition(".")[0])
    assert key.last_used is not None
    assert abs(timezone.now() - key.last_used) < timedelta(minutes=1)
    ApiKey.objects.update(last_used=timezone.now() - timedelta(seconds=61))
    assert [updates_of_keys(client, headers) for _ in range(2)] == [1, 0]


def test_a_wrong_key_is_not_noted_as_used(client: Client, keys: dict[str, str]) -> None:
    client.get("/api/companies", headers=headers_of("altered", keys))
    assert not ApiKey.objects.exclude(last_used=None).exists()


def test_a_database_that_cannot_be_written_to_does_not_stop_a_search(
    client: Client, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> int:
        raise OperationalError("database is locked")

    headers = headers_of(f"key of {LOCKED}", keys)
    with monkeypatch.context() as patch:
        patch.setattr(ApiKeyQuerySet, "update", refused)
        assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 200
    client.get("/api/health/live")  # whichever request comes next writes what is left to write
    assert ApiKey.objects.exclude(last_used=None).exists()


def test_a_revoked_key_is_refused_from_the_next_request_on(client: Client, keys: dict[str, str]) -> None:
    headers = headers_of(f"key of {LOCKED}", keys)
    assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 200
    key = ApiKey.objects.get(prefix=headers["X-API-Key"].partition(".")[0])
    assert (key.state, key.revoke(), key.revoke(), key.state) == ("valid", True, False, "revoked")
    assert client.get(f"/api/stats/{LOCKED}", headers=headers).status_code == 401


# What is told of it


@pytest.fixture
def deploy_warnings(settings: Any) -> Callable[[str], list[str]]:
    def warnings(setting: str) -> list[str]:
        settings.API_KEYS = setting
        return [str(each.id) for each in checks.run_checks(include_deployment_checks=True, tags=["security"])]

    return warnings


def test_check_deploy_warns_while_no_key_is_required(deploy_warnings: Callable[[str], list[str]]) -> None:
    assert "search.W001" in deploy_warnings("off")
    assert "search.W001" not in deploy_warnings("required")


def test_the_schema_tells_of_keys(client: Client, db: None) -> None:
    document = client.get("/api/schema/", headers={"Accept": "application/vnd.oai.openapi+json"}).json()
    scheme = document["components"]["securitySchemes"]["ApiKeyAuth"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "X-API-Key")
    assert {"ApiKeyAuth": []} in document["paths"]["/api/search/{company}"]["post"]["security"]
    assert {} not in document["paths"]["/api/reindex/{company}"]["post"]["security"]
