"""Searches with pictures in uniform borders, over HTTP."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from PIL import Image

from tenants.models import Company
from tests.conftest import picture
from tests.support.encodings import encoded
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]


def leaves() -> Image.Image:
    """Return a picture of many greens."""
    greens = np.random.default_rng(0).integers((0, 120, 0), (120, 256, 60), (20, 20, 3), np.uint8)
    return Image.fromarray(greens).resize((100, 60), Image.Resampling.NEAREST)


def on_a_page(shown: Image.Image) -> Image.Image:
    """Return a picture in the middle of a blue page."""
    page = Image.new("RGB", (100, 200), BLUE)
    page.paste(shown, (0, 70))
    return page


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    company = make_company("acme", {"red.png": RED, "blue.png": BLUE, "green.png": GREEN})
    leaves().save(company.image_directory / "leaves.png")
    call_command("build_embeddings", company="acme")
    return company


def search(client: Client, *shown: Image.Image, **form: Any) -> Any:
    files = [SimpleUploadedFile("query.png", encoded(each, "PNG")) for each in shown]
    return client.post("/api/search/acme", {"image": files, **form}).json()["results"]


def names(results: Any) -> list[str]:
    return [entry["name"] for entry in results]


def test_a_picture_is_found_by_what_lies_inside_its_borders(
    client: Client, acme: Company, embedder: FakeEmbedder
) -> None:
    before = embedder.embedded
    first, second, *rest = search(client, on_a_page(leaves()))
    assert (first["name"], first["score"]) == ("leaves", pytest.approx(1, abs=1e-3))
    assert (second["name"], len(rest)) == ("blue", 2)  # which the whole is like
    assert embedder.embedded == before + 2


def test_each_picture_comes_once_and_as_many_as_are_asked_for(client: Client, acme: Company) -> None:
    assert names(search(client, on_a_page(leaves()), top_k=2)) == ["leaves", "blue"]
    assert sorted(names(search(client, on_a_page(leaves())))) == ["blue", "green", "leaves", "red"]
    assert names(search(client, on_a_page(leaves()), min_score=0.97)) == ["leaves"]


def test_the_picture_with_its_borders_is_found_as_well(client: Client, acme: Company) -> None:
    on_a_page(leaves()).save(acme.image_directory / "page.png")
    call_command("build_embeddings", company="acme")
    results = search(client, on_a_page(leaves()))
    assert set(names(results[:2])) == {"page", "leaves"}
    assert next(entry["score"] for entry in results if entry["name"] == "page") == 1


def test_parts_several_and_pictures_without_borders_are_embedded_once(
    client: Client, acme: Company, embedder: FakeEmbedder
) -> None:
    before = embedder.embedded
    search(client, leaves())
    client.post("/api/search/acme", {"image": picture(RED)})
    search(client, on_a_page(leaves()), crop="0,0,1,1")
    assert embedder.embedded == before + 3
    search(client, on_a_page(leaves()), on_a_page(leaves()))
    assert embedder.embedded == before + 5
    assert names(search(client, on_a_page(leaves()), crop="0,0,1,1"))[0] == "blue"


def test_a_picture_that_is_put_keeps_its_borders(client: Client, acme: Company, embedder: FakeEmbedder) -> None:
    _, key = acme.issue_key("writer", can_write=True)
    before = embedder.embedded
    body = BytesIO(encoded(on_a_page(leaves()), "PNG")).getvalue()
    client.put("/api/images/acme/new.png", body, content_type="image/png", headers={"x-api-key": key})
    assert embedder.embedded == before + 1
