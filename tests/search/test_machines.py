"""Several web machines over one database: real servers, of which one is read-only."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from tenants.models import ApiKey, Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.permissions import BOUND
from tests.support.processes import Site, copy_sqlite
from tests.support.servers import Browser, Gunicorn

pytestmark = pytest.mark.slow


@pytest.fixture
def database_url(sqlite_tables: Path, tmp_path: Path) -> str:
    return copy_sqlite(sqlite_tables, tmp_path / "db.sqlite3")


def make_company(site: Site) -> Company:
    company = Company.objects.create(name="acme", public_page=True)
    for name, colour in {"red.png": RED, "green.png": GREEN, "below/blue.png": BLUE}.items():
        paint(site.directory / "media/acme" / name, colour)
    build = site.manage("build_embeddings", "--company", "acme")
    assert build.wait() == 0, build.output
    return company


def make_key(company: Company) -> str:
    key = ApiKey(company=company, name="shop", can_write=True)
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
            for colour in (RED, GREEN, BLUE) * 4:
                found = requests.post(
                    f"{server.url}/api/search/acme",
                    files={"image": ("query.png", picture(colour))},
                    data={"urls": "true"},
                    headers=key,
                    timeout=60,
                ).json()["results"]
                assert [server.status(found[0][url]) for url in ("url", "thumbnail_url")] == [200, 200]
            browser = Browser(server)
            for path in PAGES * 3:
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
