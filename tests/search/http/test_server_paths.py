"""Callers of the API do not learn where things lie on the server."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from search.engine.errors import EngineError
from search.http.server_paths import without_server_paths
from search.tasks import carry_out_build
from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import RED

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED})


def test_a_failed_build_names_no_directory_of_the_server(client: Client, acme: Company, tmp_path: Path) -> None:
    _, key = acme.issue_key("reader")
    shutil.rmtree(acme.image_directory)
    build = acme.queue_build()
    with pytest.raises((EngineError, OSError)):
        carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert str(acme.image_directory) in build.error  # operators see it
    shown = client.get(f"/api/builds/{build.pk}", headers={"X-API-Key": key}).json()["build"]["error"]
    assert "media/acme" in shown
    assert str(tmp_path) not in shown


@pytest.mark.parametrize("name", ["faiss_index.bin", "metadata.json", "index_info.json"])
def test_a_damaged_index_is_named_without_its_directory(
    client: Client, acme: Company, tmp_path: Path, name: str
) -> None:
    file = acme.embeddings_directory / name
    file.chmod(0o600)
    file.write_bytes(b"[")
    response = client.post("/api/search/acme", {"image": picture(RED)})
    assert response.status_code == 503
    assert str(tmp_path) not in response.content.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{media}/acme/a.png is gone", "media/acme/a.png is gone"),
        ("No pictures in {media}: add some", "No pictures in media: add some"),
        (
            "The weights file /srv/models/w.pth cannot be read: replace it",
            "The weights file w.pth cannot be read: replace it",
        ),
        (
            "[Errno 2] No such file or directory: '/srv/My Pictures/a b.png'",
            "[Errno 2] No such file or directory: 'a b.png'",
        ),
        ("put it at /opt/models/w.pth, or set TORCH_HOME", "put it at w.pth, or set TORCH_HOME"),
        ("at most 20/min, see https://example.com/a/b", "at most 20/min, see https://example.com/a/b"),
        ("Warm/red.png: Truncated", "Warm/red.png: Truncated"),
        ("/srv/a", "a"),
        ("", ""),
    ],
)
def test_absolute_paths_are_cut_to_what_they_end_in(settings: Any, text: str, shown: str) -> None:
    assert without_server_paths(text.replace("{media}", str(settings.MEDIA_ROOT))) == shown


def test_directories_with_spaces_are_cut_where_they_are_known() -> None:
    text = "The folder /srv/My Pictures/Old ones does not exist"
    assert without_server_paths(text, "/srv/My Pictures/Old ones") == "The folder Old ones does not exist"


def test_a_store_is_named_by_the_end_of_its_url_and_without_its_server(settings: Any) -> None:
    settings.STORE_ENDPOINT = "http://10.0.0.3:9000"
    text = "s3://shop/secret/acme cannot be used (GET http://10.0.0.3:9000/shop?prefix=secret%2Facme in 3 ms): check it"
    assert without_server_paths(text) == "acme cannot be used (GET the store in 3 ms): check it"
    settings.STORE_ENDPOINT = ""
    text = "No pictures in s3://shop/a b/acme, asked https://shop.s3.eu-central-1.amazonaws.com/a%20b/acme: add some"
    shown = without_server_paths(text, "s3://shop/a b/acme")
    assert shown == "No pictures in acme, asked the store: add some"


def test_the_address_of_milvus_is_left_out(settings: Any) -> None:
    settings.MILVUS_URL = "http://milvus.lan:19530"
    text = "Milvus at http://milvus.lan:19530 does not answer: Fail connecting to server on milvus.lan:19530, or not"
    shown = "Milvus at the search server does not answer: Fail connecting to server on the search server, or not"
    assert without_server_paths(text) == shown
