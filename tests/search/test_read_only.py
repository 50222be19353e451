"""A machine with IMAGESEARCH_READ_ONLY: what it answers, and that it refuses everything else first."""

import re
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client, RequestFactory

from search import checks, queries
from search.http.read_only import is_refused
from tenants.models import ApiKey, AuditEvent, Company
from tests.conftest import picture
from tests.search.http.test_access import basic_of
from tests.support.fakes import RED
from tests.support.routes import Route, routes

MakeCompany = Callable[..., Company]
SEARCHES = {"/api/search/", "/search/<str:company>"}
SESSIONS = {"login", "logout"}
REFUSAL = "This machine is read-only: changes are made at https://admin.example.com"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED})


@pytest.fixture
def read_only(settings: Any) -> None:
    settings.READ_ONLY, settings.WRITE_URL = True, "https://admin.example.com"


def path_of(route: Route, company: Company) -> str:
    image_id = UUID(int=1)
    texts = {"company": company.name, "image_id": image_id, "image_path": "a.png", "app_label": "tenants"}
    return route.path(dict.fromkeys(route.parameters, company.pk) | texts)


def is_search(route: Route) -> bool:
    return any(route.template.startswith(start) for start in SEARCHES)


def test_whatever_may_change_something_is_refused_at_every_address(
    acme: Company, read_only: None, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    asked = 0
    for route in routes():
        posts = [] if is_search(route) or route.name in SESSIONS else ["post"]
        for method in [*posts, "delete"]:
            answer = getattr(admin_client, method)(path_of(route, acme))
            assert answer.status_code == 403, f"{method} {route.template}"
            assert REFUSAL in answer.content.decode(), f"{method} {route.template}"
            assert "Location" not in answer
            asked += 1
    assert asked > 100
    assert AuditEvent.objects.count() == 1  # the build of when acme was made


def test_the_api_says_so_in_a_code_before_it_looks_who_asks(acme: Company, read_only: None, client: Client) -> None:
    headers = {"X-API-Key": "nobody's"}
    answer = client.put("/api/images/acme/new.png", b"x", content_type="image/png", headers=headers)
    assert answer.json() == {"success": False, "error": REFUSAL, "code": "read_only"}


def test_without_an_address_for_writes_it_is_said_without_one(acme: Company, settings: Any, client: Client) -> None:
    settings.READ_ONLY = True
    answer = client.post("/api/reindex/acme")
    assert answer.json()["error"] == "This machine is read-only: changes are made on another one"


def test_no_body_is_read_of_what_is_refused(acme: Company, read_only: None) -> None:
    class Untouched(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise AssertionError("the body was read")

    environ = {"wsgi.input": Untouched(), "CONTENT_LENGTH": "1000", "CONTENT_TYPE": "multipart/form-data; boundary=x"}
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("bob"))
    for path in ("/api/reindex/acme", f"/admin/tenants/company/{acme.pk}/upload/", "/admin/tenants/company/add/"):
        assert client.post(path, **environ).status_code == 403
        assert REFUSAL in client.post(path, **environ).content.decode()


def test_the_server_tells_from_the_head_what_is_refused(
    acme: Company, settings: Any, admin_client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    settings.READ_ONLY, settings.WRITE_URL = True, "https://admin.example.com"
    for route in routes():
        path = path_of(route, acme)
        for method in ["PUT"] if route.name in SESSIONS else ["POST", "PUT"]:
            answer = admin_client.generic(method, path)
            assert is_refused(method, path) == (REFUSAL in answer.content.decode()), f"{method} {route.template}"
        assert not is_refused("GET", path)
    assert not is_refused("POST", "/nowhere")
    assert not is_refused("POST", "/admin/login/")
    settings.READ_ONLY = False
    assert not is_refused("PUT", "/api/images/acme/a.png")


def test_searches_lists_and_pictures_are_answered(acme: Company, read_only: None, admin_client: Client) -> None:
    found = admin_client.post("/api/search/acme", {"image": picture(RED), "urls": "true"}, headers=_basic())
    assert found.status_code == 200, found.content
    result = found.json()["results"][0]
    assert result["fullPath"] == "red.png"
    for path in (result["url"], result["thumbnail_url"], "/api/images/acme", "/api/health", "/", "/search/acme/"):
        assert admin_client.get(path).status_code == 200, path
    assert admin_client.post("/search/acme/", {"image": picture(RED)}).status_code == 200


def _basic() -> dict[str, str]:
    User.objects.create_superuser("root", password="secret")
    return basic_of("root", "secret")


def test_people_log_in_and_out(db: None, read_only: None, client: Client) -> None:
    User.objects.create_superuser("bob", password="secret")
    assert client.post("/admin/login/", {"username": "bob", "password": "secret"}).status_code == 302
    assert client.get("/admin/").status_code == 200
    assert client.post("/admin/logout/").status_code == 200
    assert client.get("/admin/").status_code == 302


def test_nobody_types_a_new_password_where_it_would_be_refused(read_only: None, admin_client: Client) -> None:
    answer = admin_client.get("/admin/password_change/")
    assert (answer.status_code, answer.content.decode()) == (403, REFUSAL)


@pytest.mark.slow
def test_the_admin_offers_nothing_that_would_be_refused_and_says_where_changes_are_made(
    acme: Company, settings: Any, admin_client: Client, admin_pages: list[str]
) -> None:
    def offered() -> list[str]:
        return [f"{path} {button}" for path in admin_pages for button in _buttons(admin_client, path)]

    assert len(offered()) > 10
    settings.READ_ONLY, settings.WRITE_URL = True, "https://admin.example.com"
    assert offered() == []
    silent = [path for path in admin_pages if REFUSAL not in admin_client.get(path).content.decode()]
    assert silent == []


BUTTON = re.compile(r'<(?:button|input type="submit")(?![^>]*type="(?:button|search)")[^>]*>[^<]*')
OF_READERS = re.compile(r'Log out|Search|Show these|theme|value="Search"')


def _buttons(client: Client, path: str) -> list[str]:
    """Return what a page offers to press, but for searching, filtering and logging out."""
    answer = client.get(path)
    assert answer.status_code == 200, path
    return [each for each in BUTTON.findall(answer.content.decode()) if not OF_READERS.search(each)]


@pytest.fixture
def admin_pages(acme: Company) -> list[str]:
    key = ApiKey(company=acme, name="shop")
    key.draw()
    key.save()
    user = User.objects.get(username="ann").pk if User.objects.exists() else User.objects.create_superuser("ann").pk
    company = f"/admin/tenants/company/{acme.pk}"
    image = f"?id={_first_image(acme)}"
    below = ["change/", "pictures/", f"pictures/picture/{image}", "duplicates/", "duplicates/apart/", "history/"]
    others = ["company/", "company/model/", "apikey/", f"apikey/{key.pk}/change/", "indexbuild/", "auditevent/"]
    return [
        "/admin/",
        *(f"{company}/{page}" for page in below),
        *(f"/admin/tenants/{page}" for page in others),
        "/admin/auth/user/",
        f"/admin/auth/user/{user}/change/",
    ]


def _first_image(company: Company) -> str:
    return queries.company_index(company).records[0].id


def test_no_page_of_the_admin_lets_a_superuser_change_rows(db: None, read_only: None, rf: RequestFactory) -> None:
    request = rf.get("/")
    request.user = User.objects.create_superuser("bob")
    for model, page in admin.site._registry.items():
        allowed = page.get_model_perms(request)
        assert {name for name, allows in allowed.items() if allows} <= {"view"}, model
        assert page.get_actions(request) == {}, model


READING = [
    ["api_keys"],
    ["builds"],
    ["check_index", "acme"],
    ["search_similar_images", "--company", "acme", "--query_image", "RED"],
    ["model_change", "--list"],
    ["build_embeddings", "--company", "acme", "--dry-run"],
    ["prepare"],
]
WRITING = [
    ["build_embeddings", "--company", "acme"],
    ["build_embeddings", "--company", "acme", "--enqueue"],
    ["build_worker", "--batch"],
    ["create_api_key", "--company", "acme", "--name", "shop"],
    ["revoke_api_key", "x"],
    ["adopt_companies"],
    ["rollback_index", "acme"],
    ["duplicates", "--company", "acme", "--look"],
    ["model_change", "--back", "acme"],
    ["import_company", "globex", "/nowhere"],
    ["export_company", "acme", "--to", "/nowhere.tar"],
]


@pytest.mark.parametrize("command", WRITING, ids=" ".join)
def test_commands_that_change_something_refuse(acme: Company, read_only: None, command: list[str]) -> None:
    with pytest.raises(CommandError, match=REFUSAL):
        call_command(*command)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_commands_that_only_read_run(acme: Company, read_only: None, command: list[str]) -> None:
    arguments = [str(acme.image_directory / "red.png") if each == "RED" else each for each in command]
    call_command(*arguments, stdout=StringIO(), stderr=StringIO())
    assert not Company.objects.exclude(name="acme").exists()
    assert not User.objects.exists()


def test_it_starts_without_directories_for_indexes_and_pictures(settings: Any, tmp_path: Path) -> None:
    settings.EMBEDDINGS_DIR, settings.MEDIA_ROOT = tmp_path / "no", tmp_path / "none"
    settings.IMAGE_ROOTS = [tmp_path / "nowhere"]
    assert len(_complaints()) == 3
    settings.READ_ONLY = True
    assert _complaints() == []


def _complaints() -> list[str]:
    found = [*checks.directories_are_writable(None), *checks.image_roots_exist(None)]
    return [each.msg for each in found if "DATABASE_URL" not in each.msg]
