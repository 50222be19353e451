"""Pictures put and deleted in an index that the Flask service made: its ids, and paths and ids that it lists twice."""

import json
import shutil
from base64 import b64encode
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from PIL import Image

from search.tasks import carry_out_build
from tenants.models import Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import flask_directory

PINK, LIME = (255, 60, 60), (60, 255, 60)


class Api:
    """The API as somebody sees it who may write."""

    def __init__(self) -> None:
        User.objects.create_superuser("ann", password="secret")
        self._client = Client(headers={"Authorization": f"Basic {b64encode(b'ann:secret').decode()}"})

    def put(self, path: str, colour: Any) -> str:
        """Put a picture and return its id."""
        content = picture(colour).getvalue()
        response = self._client.generic("PUT", f"/api/images/acme/{path}", content, content_type="image/png")
        assert response.status_code in {200, 201}, response.content
        return str(response.json()["image"]["id"])

    def delete(self, path: str) -> None:
        response = self._client.delete(f"/api/images/acme/{path}")
        assert response.status_code == 200, response.content

    def listed(self) -> list[tuple[str, str]]:
        images = self._client.get("/api/images/acme").json()["images"]
        return [(entry["fullPath"], entry["id"]) for entry in images]

    def found(self, colour: Any) -> list[tuple[str, str]]:
        results = self._client.post("/api/search/acme", {"image": picture(colour)}).json()["results"]
        return [(entry["fullPath"], entry["id"]) for entry in results]

    def similar_to(self, image_id: str) -> list[str] | int:
        response = self._client.get(f"/api/search/acme/{image_id}")
        if response.status_code != 200:
            return int(response.status_code)
        return [entry["fullPath"] for entry in response.json()["results"]]

    def entry(self, path: str) -> str | None:
        response = self._client.get(f"/api/images/acme/{path}")
        return response.json()["image"]["id"] if response.status_code == 200 else None


@pytest.fixture
def api(db: None, embedder: FakeEmbedder) -> Api:
    return Api()


def flask_company(*pictures: tuple[str, Any], ids: list[str] | None = None) -> list[str]:
    """Give acme an index of the Flask service that lists these pictures; return their ids.

    ids: instead of random ones.
    """
    company = Company.objects.create(name="acme")
    model = FakeEmbedder()
    vectors = model.embed([model.prepare(Image.new("RGB", (8, 8), colour)) for _, colour in pictures])
    drawn = flask_directory(company.embeddings_directory, vectors, [path for path, _ in pictures])
    for path, colour in pictures:
        paint(company.image_directory / path, colour)
    if ids:
        metadata = company.embeddings_directory / "metadata.json"
        entries = [{**entry, "id": id_} for entry, id_ in zip(json.loads(metadata.read_bytes()), ids, strict=True)]
        metadata.write_text(json.dumps(entries))
    return ids or drawn


def build(**options: bool) -> None:
    call_command("build_embeddings", company="acme", **options)


def fold() -> None:
    carry_out_build.func(Company.objects.get().queue_build(fold=True).pk)


# An id is for ever


def test_a_picture_that_is_deleted_and_put_again_keeps_the_id_that_flask_gave_it(api: Api) -> None:
    red, _ = flask_company(("red.png", RED), ("blue.png", BLUE))
    api.delete("red.png")
    assert api.put("red.png", GREEN) == red
    assert ("red.png", red) in api.found(GREEN)
    for publish in (fold, build, lambda: build(full=True)):
        publish()
        assert api.entry("red.png") == red
        api.delete("red.png")
        assert api.put("red.png", RED) == red


@pytest.mark.parametrize("publish", [fold, build])
def test_also_where_an_index_without_it_was_published_meanwhile(api: Api, settings: Any, publish: Any) -> None:
    settings.KEEP_GENERATIONS = 0
    red, _ = flask_company(("red.png", RED), ("blue.png", BLUE))
    build()
    api.delete("red.png")
    publish()
    assert not Company.objects.get().live_changes.exists()
    assert api.put("red.png", RED) == red
    build()
    assert api.entry("red.png") == red


def test_also_where_the_file_comes_back_unseen_and_is_deleted_and_put(api: Api, settings: Any) -> None:
    settings.KEEP_GENERATIONS = 0
    red, _ = flask_company(("red.png", RED), ("blue.png", BLUE))
    build()
    api.delete("red.png")
    build()
    paint(Company.objects.get().image_directory / "red.png", RED)
    api.delete("red.png")
    assert api.put("red.png", RED) == red


def test_also_where_the_index_is_lost_and_only_the_change_tells(api: Api) -> None:
    red, _ = flask_company(("red.png", RED), ("blue.png", BLUE))
    api.delete("red.png")
    shutil.rmtree(Company.objects.get().embeddings_directory)
    assert api.put("red.png", RED) == red


# A path that is listed twice


def test_a_path_that_is_listed_twice_is_deleted_whole(api: Api) -> None:
    first, blue, second = flask_company(("red.png", RED), ("blue.png", BLUE), ("red.png", PINK))
    assert len(api.found(RED)) == 3
    api.delete("red.png")
    for publish in (lambda: None, fold, build):
        publish()
        assert (api.found(RED), api.listed()) == ([("blue.png", blue)], [("blue.png", blue)])
        assert (api.entry("red.png"), api.similar_to(first), api.similar_to(second)) == (None, 404, 404)


def test_a_path_that_is_listed_twice_is_put_as_one_picture_of_its_first_id(api: Api) -> None:
    first, blue, _ = flask_company(("red.png", RED), ("blue.png", BLUE), ("red.png", PINK))
    assert api.entry("red.png") == first
    assert api.put("red.png", GREEN) == first
    for publish in (lambda: None, fold, build, lambda: build(full=True)):
        publish()
        assert sorted(api.found(GREEN)) == [("blue.png", blue), ("red.png", first)]


@pytest.mark.parametrize("publish", [fold, lambda: build(full=True)])
def test_of_a_path_that_is_listed_twice_the_first_id_stays(api: Api, publish: Any) -> None:
    first, blue, _ = flask_company(("red.png", RED), ("blue.png", BLUE), ("red.png", PINK))
    publish()
    assert sorted(api.listed()) == [("blue.png", blue), ("red.png", first)]


# An id that is listed twice


def test_an_id_that_is_listed_twice_stands_for_the_first_picture_that_is_left(api: Api) -> None:
    twice, pink, lime = (f"{number}1111111-1111-4111-8111-111111111111" for number in range(3))
    pictures = ("red.png", RED), ("green.png", GREEN), ("pink.png", PINK), ("lime.png", LIME)
    flask_company(*pictures, ids=[twice, twice, pink, lime])
    assert api.similar_to(twice) == ["pink.png", "lime.png"]
    api.delete("red.png")
    assert api.similar_to(twice) == ["lime.png", "pink.png"]
    api.delete("green.png")
    assert api.similar_to(twice) == 404
