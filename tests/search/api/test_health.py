import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from search import runtime
from search.companies.model_change import warm_up_now_or_later
from tenants.models import Company
from tests.support.fakes import RED, FakeEmbedder
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]


@pytest.fixture
def warm(embedder: FakeEmbedder) -> None:
    runtime.warm_up()


@pytest.mark.parametrize("path", ["/api/health/live", "/api/health/live/"])
def test_live_answers_without_the_database(client: Client, path: str) -> None:  # pytest-django refuses its use
    response = client.get(path)
    assert (response.status_code, response.json()) == (200, {"status": "alive"})


@pytest.mark.usefixtures("warm", "db")
@pytest.mark.parametrize("path", ["/api/health/ready", "/api/health/ready/"])
def test_ready_when_nothing_is_missing(client: Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "checks": {"database": "ok", "embeddings": "ok", "model": "ok"}}


def assert_missing(client: Client, part: str) -> str:
    """Return what ready says of the one part that is missing."""
    response = client.get("/api/health/ready")
    assert response.status_code == 503
    body = response.json()
    assert (body["success"], body["error"]) == (False, f"Not ready: {part}")
    assert [name for name, says in body["checks"].items() if says != "ok"] == [part]
    return str(body["checks"][part])


@pytest.mark.usefixtures("db")
def test_a_model_that_is_not_loaded_is_told_and_not_loaded(client: Client) -> None:
    assert "Not loaded" in assert_missing(client, "model")
    assert not runtime.has_model()


@pytest.mark.usefixtures("warm", "db")
def test_embeddings_that_are_gone_are_told_without_their_path(client: Client, settings: Any) -> None:
    settings.EMBEDDINGS_DIR.rmdir()
    says = assert_missing(client, "embeddings")
    assert "No such file or directory" in says
    assert str(settings.EMBEDDINGS_DIR) not in says


@pytest.mark.usefixtures("warm", "db")
def test_embeddings_that_may_not_be_read_are_told(
    client: Client, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def refuse(path: Any) -> Any:
        if path == settings.EMBEDDINGS_DIR:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "Permission denied" in assert_missing(client, "embeddings")


@pytest.mark.usefixtures("warm", "db")
def test_the_embeddings_are_only_read(client: Client, settings: Any) -> None:
    before = settings.EMBEDDINGS_DIR.stat().st_mtime_ns
    assert client.get("/api/health/ready").status_code == 200
    assert settings.EMBEDDINGS_DIR.stat().st_mtime_ns == before


@pytest.mark.usefixtures("db")
def test_a_model_that_could_not_be_loaded_at_the_start_is_tried_again(client: Client, settings: Any) -> None:
    settings.WEIGHTS, settings.DEVICE = "/nowhere/weights.pth", "cpu"
    warm_up_now_or_later(look_again_seconds=0.01)
    assert_missing(client, "model")
    fake = FakeEmbedder()
    runtime.use(fake)  # as if the weights were there now
    eventually(lambda: fake.embedded, "the model is run")
    assert client.get("/api/health/ready").status_code == 200


@pytest.mark.usefixtures("warm", "db")
@pytest.mark.parametrize("database", ["/nowhere/db.sqlite3", "empty.sqlite3"])
def test_a_database_that_is_gone_or_has_no_tables_is_told(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    monkeypatch.setitem(connection.settings_dict, "NAME", str(tmp_path / database))
    assert str(tmp_path) not in assert_missing(client, "database")


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Return the port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
def test_a_database_that_hangs_does_not_hang_ready(
    client: Client, silent_server: int, monkeypatch: pytest.MonkeyPatch, django_db_blocker: Any
) -> None:
    from django.db.backends.postgresql.base import DatabaseWrapper

    place = {"NAME": "images", "USER": "me", "PASSWORD": "hunter2", "HOST": "127.0.0.1", "PORT": silent_server}
    away = DatabaseWrapper({**connection.settings_dict, **place, "OPTIONS": {}}, "default")
    monkeypatch.setattr("search.health.connection", away)
    began = time.monotonic()
    with django_db_blocker.unblock():
        said = assert_missing(client, "database")
    assert time.monotonic() - began < 30  # the server is silent for ever
    assert not {"hunter2", "127.0.0.1"} & set(said.split())


@pytest.mark.usefixtures("warm")
def test_the_contracts_health_stays_as_it_is(client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"a.png": RED})
    body = client.get("/api/health").json()
    assert set(body) == {
        "status",
        "api_ready",
        "timestamp",
        "total_companies_available",
        "loaded_companies",
        "loaded_count",
    }
    assert body["status"] == "healthy"
