"""Pictures and thumbnails under /api/pictures/, and the signed URLs that open them in a browser."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from PIL import Image

from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import BLUE, GREEN, RED

MakeCompany = Callable[..., Company]


@pytest.fixture(autouse=True)
def cache(settings: Any, tmp_path: Path) -> Path:
    settings.CACHE_DIR = tmp_path / "cache"
    return tmp_path / "cache"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"Warm/red.png": RED, "blue.png": BLUE})


@pytest.fixture
def globex(make_company: MakeCompany) -> Company:
    return make_company("globex", {"green.png": GREEN})


@pytest.fixture
def key(acme: Company) -> Any:
    """Headers with a key of acme."""
    return {"X-API-Key": acme.issue_key("shop")[1]}


def image_id(company: Company, path: str) -> str:
    return str(Client().get(f"/api/images/{company}/{path}").json()["image"]["id"])


def address(company: Company, path: str, *, thumbnail: bool = False) -> str:
    return f"/api/pictures/{company}/{image_id(company, path)}" + "/thumbnail" * thumbnail


def content(response: Any) -> bytes:
    assert response.status_code == 200, response.content
    return b"".join(response.streaming_content) if response.streaming else response.content


def shown(response: Any) -> Image.Image:
    return Image.open(BytesIO(content(response)))


def search(client: Client, company: str, **options: Any) -> Any:
    return client.post(f"/api/search/{company}", {"image": picture(RED), "urls": "true"}, **options)


def links(company: str = "acme", **options: Any) -> list[str]:
    """Return both URLs of the best match, the red picture."""
    best = search(Client(), company, **options).json()["results"][0]
    return [best["url"], best["thumbnail_url"]]


def test_a_key_opens_a_picture_as_it_is_and_small(client: Client, acme: Company, key: Any) -> None:
    whole = client.get(address(acme, "Warm/red.png"), headers=key)
    assert content(whole) == (acme.image_directory / "Warm/red.png").read_bytes()
    assert whole["Content-Type"] == "image/png"
    small = client.get(address(acme, "Warm/red.png", thumbnail=True), headers=key)
    assert small["Content-Type"] == "image/jpeg"
    assert shown(small).size == (8, 8)


def test_signed_urls_of_a_search_open_without_a_key(client: Client, acme: Company, key: Any) -> None:
    for link in links(headers=key):
        assert shown(client.get(link)).size == (8, 8)
