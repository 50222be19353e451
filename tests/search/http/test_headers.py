"""What answers say besides their body: who may read them, what a page may do."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

SHOP = "https://shop.example.com"
PREFLIGHT = {
    "Origin": SHOP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization, x-api-key, content-type, x-request-id",
}


@pytest.fixture
def shop(settings: Any) -> str:
    """An origin whose pages may call the API."""
    settings.CORS_ALLOWED_ORIGINS = [SHOP]
    return SHOP


def test_no_page_elsewhere_may_call_the_api_unless_it_is_named(client: Client) -> None:
    response = client.options("/api/search/acme", headers=PREFLIGHT)
    assert "Access-Control-Allow-Origin" not in response


def test_a_page_of_a_named_origin_may_search(client: Client, shop: str) -> None:
    response = client.options("/api/search/acme", headers=PREFLIGHT)
    assert response.status_code == 200
    assert response["Access-Control-Allow-Origin"] == shop
    assert "POST" in response["Access-Control-Allow-Methods"]
    allowed = {name.strip().lower() for name in response["Access-Control-Allow-Headers"].split(",")}
    assert allowed == {"authorization", "x-api-key", "content-type", "x-request-id"}


def test_a_page_of_a_named_origin_reads_what_helps_it(client: Client, db: None, shop: str) -> None:
    response = client.get("/api/companies", headers={"Origin": shop})
    assert response["Access-Control-Allow-Origin"] == shop
    exposed = {name.strip() for name in response["Access-Control-Expose-Headers"].split(",")}
    assert exposed == {"Retry-After", "Server-Timing", "X-Quota-Remaining", "X-Request-ID"}


def test_a_page_of_another_origin_reads_nothing(client: Client, db: None, shop: str) -> None:
    response = client.get("/api/companies", headers={"Origin": "https://evil.example.com"})
    assert "Access-Control-Allow-Origin" not in response


def test_a_browser_is_never_told_to_send_cookies(client: Client, db: None, shop: str) -> None:
    assert "Access-Control-Allow-Credentials" not in client.options("/api/search/acme", headers=PREFLIGHT)
    assert "Access-Control-Allow-Credentials" not in client.get("/api/companies", headers={"Origin": shop})


def test_the_admin_is_no_page_elsewheres_to_read(client: Client, db: None, shop: str) -> None:
    assert "Access-Control-Allow-Origin" not in client.get("/admin/login/", headers={"Origin": shop})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("put", "/api/images/acme/a.png"),
        ("delete", "/api/images/acme/a.png"),
        ("post", "/api/reindex/acme"),
        ("get", "/api/builds/1"),
        ("post", "/api/builds/1/cancel"),
    ],
)
def test_a_session_authorises_nothing_under_api(client: Client, db: None, method: str, path: str) -> None:
    client.force_login(User.objects.create_superuser("boss"))
    assert client.get("/admin/").status_code == 200
    response = getattr(client, method)(path)
    assert (response.status_code, response.json()["success"]) == (401, False)


@pytest.mark.parametrize(("method", "path"), [("post", "/api/search/acme"), ("get", "/api/stats/acme")])
def test_a_session_is_no_key(client: Client, db: None, settings: Any, method: str, path: str) -> None:
    settings.API_KEYS = "required"
    client.force_login(User.objects.create_superuser("boss"))
    assert getattr(client, method)(path).status_code == 401


@pytest.mark.parametrize("path", ["/", "/admin/login/", "/api/docs/", "/api/companies", "/api/no-such-page"])
def test_every_answer_holds_the_browser_to_what_is_ours(client: Client, db: None, path: str) -> None:
    response = client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in response["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert not {"script-src", "style-src"} & policy.keys()  # so default-src holds for them: nothing inline
    assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["X-Frame-Options"] == "DENY"
    assert response["Referrer-Policy"] == "same-origin"
    assert response["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "camera=()" in response["Permissions-Policy"]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/admin/login/",
        "/admin/",
        "/admin/tenants/company/",
        "/admin/tenants/company/{company}/change/",
        "/admin/tenants/company/add/",
        "/admin/tenants/indexbuild/",
        "/admin/auth/user/{user}/change/",
        "/api/docs/",
    ],
)
def test_no_page_has_what_the_policy_refuses(client: Client, make_company: Any, path: str) -> None:
    company = make_company("acme", {"a.png": (255, 0, 0)})
    user = User.objects.create_superuser("boss")
    if path != "/admin/login/":
        client.force_login(user)
    response = client.get(path.format(company=company.pk, user=user.pk))
    page = response.content.decode()
    assert response.status_code == 200
    assert not re.findall(r"<style|\sstyle=|\son[a-z]+=\"|javascript:", page)
    scripts = re.findall(r"<script\b([^>]*)>", page)
    assert all("src=" in script or 'type="application/json"' in script for script in scripts), scripts
    addresses = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"([^\"]+)\"", page)
    assert addresses
    assert all(address.startswith(("/", "?")) and not address.startswith("//") for address in addresses), addresses
