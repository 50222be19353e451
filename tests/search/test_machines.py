"""Several web machines over one database: real servers, of which one is read-only."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import requests
from django.contrib.auth.hashers import PBKDF2PasswordHasher, make_password
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db.models import Sum

from search.pictures import put_image
from tenants import audit
from tenants.models import ApiKey, Company, DailySearches
from tests.conftest import Colour, paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.object_store import StoreServer
from tests.support.permissions import BOUND
from tests.support.postgres import Cluster
from tests.support.processes import ROOT, Site
from tests.support.redis import redis_server
from tests.support.servers import Browser, Gunicorn, environment_of
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

OPERATOR = audit.on_command_line()
YELLOW, CYAN = (250, 240, 20), (20, 230, 240)


@pytest.fixture
def database_url(postgres: Cluster) -> str:
    return postgres.create(f"test_{secrets.token_hex(8)}", template="tables")


def make_company(site: Site) -> Company:
    company = Company.objects.create(name="acme", public_page=True)
    for name, colour in {"red.png": RED, "green.png": GREEN, "below/blue.png": BLUE}.items():
        paint(site.directory / "media/acme" / name, colour)
    build = site.manage("build_embeddings", "--company", "acme")
    assert build.wait() == 0, build.output
    return company


def make_key(company: Company, name: str = "shop") -> str:
    key = ApiKey(company=company, name=name, can_write=True)
    text = key.draw()
    key.save()
    return text


@contextmanager
def unwritable(*directories: Path) -> Iterator[None]:
    """Take the right to write away from everything in the directories until the end of the block."""
    below = [path for directory in directories for path in (directory, *directory.rglob("*")) if not path.is_symlink()]
    modes = {path: path.stat().st_mode for path in below}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def listing(*directories: Path) -> list[tuple[object, ...]]:
    """Return what tells whether anything in the directories was written, moved or replaced; reading it leaves alone."""
    paths = [path for directory in directories for path in (directory, *directory.rglob("*"))]
    found = ((path, path.lstat()) for path in sorted(paths))
    return [(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode) for path, stat in found]


def test_a_read_only_server_writes_to_no_index_and_no_picture(site: Site) -> None:
    company = make_company(site)
    key = {"X-API-Key": make_key(company)}
    places = [site.directory / "embeddings", site.directory / "media"]
    cache = site.directory / "cache"
    with unwritable(*places):
        before = listing(*places)
        server = Gunicorn(site, bound=BOUND, IMAGESEARCH_READ_ONLY="true", IMAGESEARCH_CACHE_DIR=str(cache))
        try:
            refused = {_change(server, method, path, key) for method, path in CHANGES for _ in range(4)}
            for colour in (RED, GREEN, BLUE) * 7:
                found = requests.post(
                    f"{server.url}/api/search/acme",
                    files={"image": ("query.png", picture(colour))},
                    data={"urls": "true"},
                    headers=key,
                    timeout=60,
                ).json()["results"]
                assert [server.status(found[0][url]) for url in ("url", "thumbnail_url")] == [200, 200]
            browser = Browser(server)
            for path in PAGES:
                assert browser.status(path.format(pk=company.pk)) == 200, path
            assert [browser.press(path.format(pk=company.pk)) for path in BUTTONS] == [403] * len(BUTTONS)
        finally:
            server.stop()
        assert refused == {(403, "read_only")}
        assert listing(*places) == before
    assert list((cache / "thumbnails").rglob("*-320"))
    assert "Traceback" not in server.log.read_text()


CHANGES = [
    ("PUT", "images/acme/new.png"),
    ("PUT", "images/acme/red.png"),
    ("DELETE", "images/acme/red.png"),
    ("POST", "reindex/acme"),
    ("POST", "builds/1/cancel"),
]
PAGES = [
    "/",
    "/search/acme/",
    "/api/images/acme",
    "/api/stats/acme",
    "/api/health",
    "/api/health/ready",
    "/admin/",
    "/admin/tenants/company/",
    "/admin/tenants/company/model/",
    "/admin/tenants/company/{pk}/change/",
    "/admin/tenants/company/{pk}/pictures/",
    "/admin/tenants/company/{pk}/duplicates/",
]
BUTTONS = [f"/admin/tenants/company/{{pk}}/{each}/" for each in ("change", "delete", "upload", "reindex", "roll-back")]


def _change(server: Gunicorn, method: str, path: str, headers: dict[str, str]) -> tuple[int, str]:
    body = picture(RED).getvalue()
    answer = requests.request(method, f"{server.url}/api/{path}", data=body, headers=headers, timeout=60)
    return answer.status_code, answer.json()["code"]


def test_a_read_only_server_without_any_directory_answers_from_the_store(
    site: Site, store_server: StoreServer, settings: Any, embedder: FakeEmbedder
) -> None:
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = site.directory / "replica"
    company = Company.objects.create(name="acme")
    add(company, "red.png", RED)
    call_command("build_embeddings", company="acme", stdout=StringIO())
    nothing = dict.fromkeys(("IMAGESEARCH_EMBEDDINGS_DIR", "IMAGESEARCH_MEDIA_DIR"), "/nowhere")
    cache = {"IMAGESEARCH_CACHE_DIR": str(site.directory / "cache")}
    store = store_server.environment(settings.STORE)
    server = Gunicorn(site, IMAGESEARCH_READ_ONLY="true", **nothing, **cache, **store)
    try:
        assert server.found("acme", RED) == ["red.png"]
        put_image(company, "green.png", picture(GREEN).getvalue(), by=OPERATOR)
        assert server.found("acme", GREEN) == ["green.png", "red.png"]
        add(company, "blue.png", BLUE)
        call_command("build_embeddings", company="acme", stdout=StringIO())
        assert eventually(lambda: server.found("acme", BLUE)[0] == "blue.png", "the new index is there")
        assert _change(server, "PUT", "images/acme/new.png", {}) == (403, "read_only")
        assert server.status("/api/health/ready") == 200
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text()


def add(company: Company, name: str, colour: Colour) -> None:
    paint(company.image_directory / name, colour)


# Two machines, each with a cache of its own, over one PostgreSQL and one Redis ----------------------------------------

RATE = 30


@pytest.fixture
def machines(site: Site) -> Iterator[tuple[Gunicorn, Gunicorn]]:
    """One that writes and one that is read-only, over the company acme."""
    make_company(site)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(site.directory))
        common = {"CACHE_URL": f"redis://127.0.0.1:{redis}/0", "IMAGESEARCH_RATE_PER_KEY": f"{RATE}/day"}
        started = []
        for number, read_only in enumerate(("false", "true")):
            own = {"IMAGESEARCH_CACHE_DIR": str(site.directory / f"cache-{number}"), "IMAGESEARCH_READ_ONLY": read_only}
            started.append(Gunicorn(site, number, **common, **own))
            stack.callback(started[-1].stop)
        writer, reader = started
        yield writer, reader


def search(server: Gunicorn, colour: tuple[int, int, int], key: str, **fields: str) -> requests.Response:
    files = {"image": ("query.png", picture(colour))}
    return requests.post(
        f"{server.url}/api/search/acme", files=files, data=fields, headers={"X-API-Key": key}, timeout=60
    )


def first_result(server: Gunicorn, colour: tuple[int, int, int], key: str) -> dict[str, str]:
    answer = search(server, colour, key, urls="true")
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["results"][0])


def test_what_is_done_on_one_machine_counts_on_the_other(machines: tuple[Gunicorn, Gunicorn], site: Site) -> None:
    company, key = Company.objects.get(), make_key(Company.objects.get())
    writer, reader = machines
    searched = 0

    # A change is seen by the next search, as is a new index.
    assert first_result(reader, YELLOW, key)["fullPath"] != "yellow.png"
    writer.put("acme", "yellow.png", YELLOW, key)
    assert [first_result(each, YELLOW, key)["fullPath"] for each in machines] == ["yellow.png"] * 2
    writer.delete("acme", "yellow.png", key)
    assert first_result(reader, YELLOW, key)["fullPath"] != "yellow.png"
    paint(site.directory / "media/acme/cyan.png", CYAN)
    assert site.manage("build_embeddings", "--company", "acme").wait() == 0
    assert [first_result(each, CYAN, key)["fullPath"] for each in machines] == ["cyan.png"] * 2
    searched += 6

    # Links that one has signed open on the other.
    for signer, other in (machines, machines[::-1]):
        result = first_result(signer, RED, key)
        assert [other.status(result[url]) for url in ("url", "thumbnail_url")] == [200, 200]
        searched += 1

    # Who has logged in on one is logged in on the other, and logged out on both.
    password = make_password("secret", hasher=PBKDF2PasswordHasher())  # type: ignore[arg-type]  # as the servers do
    User.objects.create(username="bob", is_staff=True, is_superuser=True, password=password)
    for door, other in (machines, machines[::-1]):
        with requests.Session() as session:
            assert _log_in(session, door) == 302
            assert _admin(session, other) == 200
            _post(session, f"{other.url}/admin/logout/", {})
            assert _admin(session, door) == 302

    # Rates and quotas are counted over both.
    limited = make_key(company, "limited")
    statuses = [search(machines[number % 2], RED, limited).status_code for number in range(RATE + 4)]
    assert statuses == [200] * RATE + [429] * 4
    searched += RATE
    Company.objects.update(daily_quota=5)
    frequent = make_key(company, "frequent")
    assert [search(machines[number % 2], RED, frequent).status_code for number in range(7)] == [200] * 5 + [429] * 2
    searched += 5
    Company.objects.update(daily_quota=None)

    # A revoked key is refused by both.
    ApiKey.objects.get(name="frequent").revoke()
    assert [search(each, RED, frequent).status_code for each in machines] == [401, 401]

    # A third machine with another SECRET_KEY does not start.
    environment = environment_of(site) | {"SECRET_KEY": "another one", "DJANGO_SETTINGS_MODULE": "imagesearch.settings"}
    third = [sys.executable, "-c", "import imagesearch.wsgi"]
    ended = subprocess.run(third, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "SECRET_KEY is not that of the other machines" in ended.stderr

    # All searches of both are counted, at the latest when they end.
    for each in machines:
        each.stop()
        assert "Traceback" not in each.log.read_text()
    counted = DailySearches.objects.filter(company=company).aggregate(Sum("searches"))
    assert counted == {"searches__sum": searched}


def _log_in(session: requests.Session, server: Gunicorn) -> int:
    session.get(f"{server.url}/admin/login/", timeout=60)
    return _post(session, f"{server.url}/admin/login/", {"username": "bob", "password": "secret"})


def _post(session: requests.Session, address: str, form: dict[str, str]) -> int:
    form = {"csrfmiddlewaretoken": session.cookies.get("csrftoken") or "", **form}
    return session.post(address, form, allow_redirects=False, timeout=60).status_code


def _admin(session: requests.Session, server: Gunicorn) -> int:
    return session.get(f"{server.url}/admin/tenants/company/", allow_redirects=False, timeout=60).status_code
