"""The environment that docs/production.md gives, in processes of their own."""

import json
import re
import secrets
from pathlib import Path

import pytest

from tests.support.checkout import start
from tests.support.processes import ROOT

pytestmark = pytest.mark.slow

ASK = """
import json, sys
from django.core.wsgi import get_wsgi_application
get_wsgi_application()
from django.test import Client
def ask(path, host="search.example.com", **headers):
    response = Client(headers={"Host": host, **headers}).get(path)
    cookies = {name: bool(cookie["secure"]) for name, cookie in response.cookies.items()}
    return {"status": response.status_code, "headers": dict(response.headers), "cookies": cookies}
print(json.dumps([ask(path, **headers) for path, headers in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def production(code: Path) -> dict[str, str]:
    """Return that environment, with a secret key and a database that this machine has."""
    section = (ROOT / "docs/production.md").read_text()
    environment = dict(re.findall(r"^    ([A-Z_]+)=(\S+)$", section, re.MULTILINE))
    assert environment["HTTPS"] == "true"
    assert environment["DATABASE_URL"].startswith("postgres://")
    return {**environment, "SECRET_KEY": secrets.token_urlsafe(64)}


def ask(checkout: Path, environment: dict[str, str], *requests: tuple[str, dict[str, str]]) -> list[dict[str, object]]:
    """Return what a process with the environment answers to each path with its headers."""
    local = {**environment, "DATABASE_URL": "sqlite:///db.sqlite3", "DJANGO_SETTINGS_MODULE": "imagesearch.settings"}
    result = start(checkout, "-c", ASK, json.dumps(requests), **local)
    assert result.returncode == 0, result.stderr
    return list(json.loads(result.stdout.splitlines()[-1]))


def test_check_deploy_has_nothing_to_warn_of(code: Path, production: dict[str, str]) -> None:
    result = start(code, "manage.py", "check", "--deploy", "--fail-level", "WARNING", **production)
    assert (result.returncode, result.stdout) == (0, "System check identified no issues (0 silenced).\n"), result.stderr


def test_https_is_asked_for_everywhere_but_at_the_health_probes(
    code: Path,
    production: dict[str, str],
) -> None:
    https = {"X-Forwarded-Proto": "https"}
    plain, probe, page, schema = ask(
        code,
        production,
        ("/api/docs/", {}),
        ("/api/health/live", {}),
        ("/admin/login/", https),
        ("/api/schema/", https),
    )
    assert plain["status"] == 301
    assert plain["headers"]["Location"] == "https://search.example.com/api/docs/"  # type: ignore[index]
    assert probe["status"] == 200
    assert page["status"] == schema["status"] == 200
    assert page["cookies"] == {"csrftoken": True}
    assert page["headers"]["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains; preload"  # type: ignore[index]


def test_nobody_is_believed_to_have_come_by_https_unless_a_proxy_is_there(
    code: Path,
    production: dict[str, str],
) -> None:
    (answer,) = ask(code, {**production, "NUM_PROXIES": "0"}, ("/api/docs/", {"X-Forwarded-Proto": "https"}))
    assert answer["status"] == 301


def test_by_default_the_service_speaks_http(code: Path) -> None:
    (answer,) = ask(code, {"SECRET_KEY": "x"}, ("/admin/login/", {"host": "localhost"}))
    assert answer["status"] == 200
    assert answer["cookies"] == {"csrftoken": False}
    assert "Strict-Transport-Security" not in answer["headers"]  # type: ignore[operator]
