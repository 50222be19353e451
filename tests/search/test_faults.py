"""Disks that are full or cannot be written to, and databases that are busy or away: what callers and operators see."""

import errno
import os
import sqlite3
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import User
from django.db import close_old_connections, connections
from django.test import Client

from search import runtime
from search.builds import run_build
from search.companies.model_change import step_back, use_new
from search.engine.build.builder import BuildProgress
from search.engine.pictures import shelf
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild, LiveChange, SearchUsage
from tests.conftest import paint, picture
from tests.search.management.test_check_index import check
from tests.support.databases import on_postgresql, on_sqlite
from tests.support.disks import RefusingOs, fill_up
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.processes import Site
from tests.support.waiting import eventually

BUSY = {
    "success": False,
    "error": "The database is unavailable or busy; try again later",
    "code": "database_unavailable",
}


@pytest.fixture
def acme(make_company: Callable[..., Company]) -> Company:
    return make_company("acme", {"red.png": RED, "blue.png": BLUE})


@pytest.fixture
def staff(db: None) -> dict[str, str]:
    return staff_user()


def staff_user() -> dict[str, str]:
    User.objects.create_superuser("ann", password="secret")
    return {"Authorization": f"Basic {b64encode(b'ann:secret').decode()}"}


def search(company: str = "acme", **options: Any) -> Any:
    return Client(raise_request_exception=False).post(f"/api/search/{company}", {"image": picture(RED)}, **options)


def put(headers: dict[str, str], name: str = "green.png") -> Any:
    client = Client(raise_request_exception=False)
    content = picture(GREEN).getvalue()
    return client.generic("PUT", f"/api/images/acme/{name}", content, content_type="image/png", headers=headers)


def paths(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [entry["fullPath"] for entry in response.json()["results"]]


def failed_build(company: Company, error: str) -> None:
    """Carry out a build that fails, and see that the index before it serves."""
    build = company.queue_build()
    with pytest.raises(OSError, match=error):
        carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert build.status == IndexBuild.Status.FAILED
    assert error in build.error
    assert paths(search()) == ["red.png", "blue.png"]


def healed_build(company: Company) -> None:
    carry_out_build.func(company.queue_build().pk)
    assert set(paths(search())) == {"red.png", "blue.png", "green.png"}
    assert "acme: ok, 3 pictures" in check("acme")


# Disks


@pytest.mark.parametrize("name", ["faiss_index.bin", "metadata.json", "given_ids.json", "index_info.json"])
def test_a_disk_that_fills_up_during_a_build(acme: Company, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    paint(acme.image_directory / "green.png", GREEN)
    with monkeypatch.context() as patch:
        fill_up(patch, name)
        failed_build(acme, "No space left on device")
    assert not list(acme.embeddings_directory.parent.glob(".generations/acme/.writing-*"))
    healed_build(acme)


def test_a_folder_of_indexes_that_cannot_be_written_to(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(acme.image_directory / "green.png", GREEN)
    real = Path.mkdir

    def refuse(path: Path, *args: Any, **options: Any) -> None:
        if path.name.startswith(".writing-"):
            raise OSError(30, "Read-only file system", str(path))
        real(path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        failed_build(acme, "Read-only file system")
    healed_build(acme)


@pytest.mark.parametrize(
    ("number", "function"), [(errno.EROFS, "mkdir"), (errno.ENOSPC, "fsync"), (errno.ENOSPC, "rename")]
)
def test_a_folder_of_pictures_that_cannot_be_written_to(
    acme: Company, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch, number: int, function: str
) -> None:
    """Whether the disk refuses before or after the row was written: neither the row nor the picture is there."""
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "os", RefusingOs(number, function))
        response = put(staff)
    words = os.strerror(number)
    assert response.status_code == 503
    assert response.json()["error"] == f"The folder of acme cannot be written to: {words}"
    assert not LiveChange.objects.exists()
    assert sorted(file.name for file in acme.image_directory.iterdir()) == ["blue.png", "red.png"]
    assert paths(search()) == ["red.png", "blue.png"]
    assert put(staff).status_code == 201


def test_a_picture_that_cannot_be_deleted_stays_searchable(
    acme: Company, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "os", RefusingOs(errno.EROFS, "unlink"))
        response = Client().delete("/api/images/acme/red.png", headers=staff)
    assert response.status_code == 503
    assert response.json()["error"] == "The folder of acme cannot be written to: Read-only file system"
    assert not LiveChange.objects.exists()
    assert paths(search()) == ["red.png", "blue.png"]
    assert Client().delete("/api/images/acme/red.png", headers=staff).status_code == 200
    assert paths(search()) == ["blue.png"]


def test_a_vanished_folder_of_pictures_fails_the_build_and_the_index_serves(acme: Company) -> None:
    acme.image_directory.rename(acme.image_directory.with_name("elsewhere"))
    build = acme.queue_build()
    with pytest.raises(Exception, match="image folder"):
        carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert (build.status, paths(search())) == (IndexBuild.Status.FAILED, ["red.png", "blue.png"])


def test_an_index_that_is_damaged_once_it_is_loaded_goes_on_and_a_new_process_names_the_file(
    acme: Company, embedder: FakeEmbedder
) -> None:
    assert paths(search()) == ["red.png", "blue.png"]
    offsets = acme.embeddings_directory / "metadata_offsets.npy"
    offsets.rename(offsets.with_name("elsewhere"))
    offsets.write_bytes(b"nothing")
    assert paths(search()) == ["red.png", "blue.png"]
    runtime.reset()  # as a process that has just begun
    runtime.use(embedder)
    response = search()
    assert (response.status_code, "metadata_offsets.npy" in response.json()["error"]) == (503, True)


# Databases


@contextmanager
def impatient() -> Iterator[None]:
    """Wait for SQLite's lock for a moment only, where a server waits 20 seconds."""
    options = connections.settings["default"]["OPTIONS"]
    before, options["timeout"] = options["timeout"], 0.05
    connections["default"].close()
    connections["default"].settings_dict["OPTIONS"]["timeout"] = 0.05
    try:
        yield
    finally:
        connections["default"].close()
        options["timeout"] = connections["default"].settings_dict["OPTIONS"]["timeout"] = before


def company_of(site: Site) -> Company:
    company = Company.objects.create(name="acme")
    for name, colour in {"red.png": RED, "blue.png": BLUE}.items():
        paint(company.image_directory / name, colour)
    carry_out_build.func(company.queue_build().pk)
    return company


@on_sqlite
def test_a_locked_database_lets_searches_through_and_tells_writers_to_come_back(
    site: Site, embedder: FakeEmbedder
) -> None:
    company_of(site)
    staff = staff_user()
    with impatient(), closing(sqlite3.connect(site.directory / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert paths(search()) == ["red.png", "blue.png"]
        response = put(staff)
        assert (response.status_code, response.json()) == (503, BUSY)
        other.execute("ROLLBACK")
        assert not (site.directory / "media/acme/green.png").exists()
        assert put(staff).status_code == 201
    assert set(paths(search())) == {"red.png", "blue.png", "green.png"}


@on_sqlite
def test_a_search_with_a_key_does_not_wait_for_a_locked_database_and_its_use_is_noted_later(
    site: Site, embedder: FakeEmbedder
) -> None:
    key, text = company_of(site).issue_key("shop")
    with closing(sqlite3.connect(site.directory / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert paths(search(headers={"X-API-Key": text})) == ["red.png", "blue.png"]
        assert time.monotonic() - began < 5  # others wait for 20
        other.execute("ROLLBACK")
    key.refresh_from_db()
    assert key.last_used is None
    assert paths(search()) == ["red.png", "blue.png"]
    key.refresh_from_db()
    assert key.last_used is not None


@on_postgresql
def test_a_search_with_a_key_does_not_wait_for_who_changes_the_key_and_its_use_is_noted_later(
    site: Site, embedder: FakeEmbedder
) -> None:
    key, text = company_of(site).issue_key("shop")
    with psycopg.connect(site.database_url) as other:
        other.execute("UPDATE tenants_apikey SET name = name")
        assert paths(search(headers={"X-API-Key": text})) == ["red.png", "blue.png"]  # else it would wait for ever
        other.rollback()
    key.refresh_from_db()
    assert key.last_used is None
    assert paths(search()) == ["red.png", "blue.png"]
    key.refresh_from_db()
    assert key.last_used is not None


@on_postgresql
@pytest.mark.parametrize(("ask", "column"), [(use_new, "own_model"), (step_back, "model_before")])
def test_who_asks_for_another_model_while_a_build_publishes_waits_for_it(
    site: Site, embedder: FakeEmbedder, ask: Callable[..., IndexBuild], column: str
) -> None:
    company, another = company_of(site), FakeEmbedder("e" * 64)
    runtime.use_also(another)
    Company.objects.update(**{column: another.passport.fingerprint})
    company.refresh_from_db()
    running = company.queue_build()
    assert running.start()

    def asked() -> IndexBuild:
        with closing(connections["default"]):
            return ask(company, by=on_command_line())

    with psycopg.connect(site.database_url) as build, ThreadPoolExecutor(1) as thread:
        build.execute("UPDATE tenants_indexbuild SET heartbeat_at = now()")  # as build.hold() does
        answer = thread.submit(asked)
        eventually(lambda: _waiting(site), "it waits")
        build.execute("SET deadlock_timeout = '1ms'")
        build.execute("SELECT FROM tenants_company FOR UPDATE")
        build.commit()
        assert answer.result().pk == running.pk
    running.refresh_from_db()
    assert running.follow_up_switch


@on_postgresql
def test_who_deletes_a_company_while_its_build_ends_waits_for_it(site: Site, embedder: FakeEmbedder) -> None:
    company = company_of(site)
    Company.objects.update(stored_pictures=2, stored_bytes=200)
    running = company.queue_build()
    assert running.start()

    with psycopg.connect(site.database_url) as removal, ThreadPoolExecutor(1) as thread:

        def lock(progress: BuildProgress) -> None:
            removal.execute("UPDATE tenants_indexbuild SET heartbeat_at = now()")  # as build.cancel() does

        def end() -> None:
            with closing(connections["default"]):
                run_build(running, on_progress=lock)

        ended = thread.submit(end)
        eventually(lambda: _waiting(site), "it waits")
        removal.execute("SET deadlock_timeout = '1ms'")
        removal.execute("SELECT FROM tenants_company FOR UPDATE")
        removal.commit()
        ended.result()
    running.refresh_from_db()
    assert running.status == IndexBuild.Status.SUCCEEDED


def _waiting(site: Site) -> bool:
    with psycopg.connect(site.database_url) as other:
        row = other.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool((row.fetchone() or [0])[0])


def test_a_search_is_counted_and_the_use_of_its_key_noted_on_each_database(site: Site, embedder: FakeEmbedder) -> None:
    company = company_of(site)
    key, text = company.issue_key("shop")
    Company.objects.update(daily_quota=1)
    assert paths(search(headers={"X-API-Key": text})) == ["red.png", "blue.png"]
    assert search(headers={"X-API-Key": text}).json()["code"] == "quota_exceeded"
    key.refresh_from_db()
    assert key.last_used is not None


@on_sqlite
def test_a_search_that_cannot_be_counted_is_refused_after_a_second(site: Site, embedder: FakeEmbedder) -> None:
    company_of(site)
    Company.objects.update(daily_quota=5)
    with closing(sqlite3.connect(site.directory / "db.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        response = search()
        assert (response.status_code, response.json(), response["Retry-After"]) == (503, BUSY, "2")
        assert time.monotonic() - began < 5
        other.execute("ROLLBACK")
    assert paths(search()) == ["red.png", "blue.png"]
    assert SearchUsage.objects.get().searches == 1


@on_sqlite
def test_a_database_file_that_is_away_is_a_503_until_it_is_back(site: Site, embedder: FakeEmbedder) -> None:
    company_of(site)
    file = site.directory / "db.sqlite3"
    connections["default"].close()
    hidden = {part: part.with_name(f"hidden-{part.name}") for part in site.directory.glob("db.sqlite3*")}
    for part, place in hidden.items():
        part.rename(place)
    file.mkdir()  # or SQLite would make an empty one
    for response in (search(), Client().get("/api/companies"), Client().get("/api/stats/acme")):
        assert (response.status_code, response.json()) == (503, BUSY)
    file.rmdir()
    for part, place in hidden.items():
        place.rename(part)
    assert paths(search()) == ["red.png", "blue.png"]


@on_postgresql
def test_a_database_server_that_is_away_is_a_503_until_it_is_back(
    site: Site, embedder: FakeEmbedder, postgres: Any, caplog: pytest.LogCaptureFixture
) -> None:
    company_of(site)
    assert paths(search()) == ["red.png", "blue.png"]
    name = site.database_url.rpartition("/")[2]
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        for _ in range(2):  # on the connection that was cut, and on one that cannot be made
            response = search()
            assert (response.status_code, response.json()) == (503, BUSY)
            close_old_connections()  # as a server does between requests
        assert "terminating connection" in caplog.text
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    assert paths(search()) == ["red.png", "blue.png"]
