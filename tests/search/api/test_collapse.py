"""Searches that show one picture of each group of duplicates: collapse=duplicates."""

from io import BytesIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from PIL import Image

from search import overlay, queries
from search.pictures import delete_image, put_image
from tenants.audit import on_command_line
from tenants.models import Company, NotDuplicates
from tests.support.duplicates import company_of, content, drawn, grouped, look
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

COPIES = [f"red/{number}.png" for number in range(12)]


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder) -> Company:
    copies = {path: drawn(RED, size=64 + number) for number, path in enumerate(COPIES)}
    return company_of("acme", {**copies, "blue.png": drawn(BLUE), "green.png": drawn(GREEN)})


def search(client: Client, image: Image.Image, **form: Any) -> list[str]:
    file = BytesIO(content(image))
    file.name = "query.png"
    answer = client.post("/api/search/acme", {"image": file, "collapse": "duplicates", **form})
    assert answer.status_code == 200, answer.content
    return [result["fullPath"] for result in answer.json()["results"]]


def put(company: Company, path: str, image: Image.Image) -> None:
    company.refresh_from_db()
    put_image(company, path, content(image), by=on_command_line())


@pytest.fixture(params=["looked at", "not looked at"])
def either(acme: Company, request: pytest.FixtureRequest) -> Company:
    """Whether somebody has looked for duplicates or not, searches show each picture once."""
    if request.param == "looked at":
        look(acme)
    return acme


def test_the_best_of_each_group_is_shown_and_as_many_others_as_are_asked_for(client: Client, either: Company) -> None:
    found = search(client, drawn(RED), top_k=3)
    assert (found[0], set(found[1:])) == ("red/0.png", {"blue.png", "green.png"})
    assert search(client, drawn(RED), top_k=1) == ["red/0.png"]


def test_a_search_ends_where_copies_hardly_do(client: Client, either: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "_DEEPEST", 10)
    assert search(client, drawn(RED), top_k=3) == ["red/0.png"]
    monkeypatch.setattr(queries, "_DEEPEST", 13)
    assert len(search(client, drawn(RED), top_k=3)) == 2


def test_the_best_that_the_filters_allow_is_shown(client: Client, either: Company) -> None:
    assert len(search(client, drawn(RED), location="red")) == 1
    assert search(client, drawn(RED), min_score=0.9) == ["red/0.png"]


def test_what_was_put_and_deleted_since_counts(client: Client, either: Company) -> None:
    put(either, "new.png", drawn(RED, size=70))
    assert len(set(search(client, drawn(RED))) & {*COPIES, "new.png"}) == 1
    put(either, "red/1.png", drawn(GREEN))
    found = search(client, drawn(GREEN))
    assert len(found) == 3
    assert len({"green.png", "red/1.png"} & set(found)) == 1
    either.refresh_from_db()
    leader = grouped(either)[0][0] if either.duplicate_searches.exists() else "red/0.png"
    delete_image(either, leader, by=on_command_line())
    assert len(search(client, drawn(RED))) == 3


def test_what_somebody_has_said_is_none_is_shown(client: Client, either: Company) -> None:
    ids = {record.path: record.id for record in overlay.live_index(either).page(0, 99)[0]}
    pairs = [(ids["red/3.png"], ids[path]) for path in COPIES]
    NotDuplicates.objects.add(either, pairs, paths=["red/3.png"], by=on_command_line())
    assert {"red/0.png", "red/3.png"} & {*search(client, drawn(RED))} != set()
    assert len({*COPIES} & {*search(client, drawn(RED))}) == 2


def test_searches_by_id_show_each_picture_once_too(client: Client, either: Company) -> None:
    image_id = overlay.live_index(either).find_path("blue.png").id  # type: ignore[union-attr]
    answer = client.get(f"/api/search/acme/{image_id}?collapse=duplicates").json()
    assert answer["total_results"] == 2


def test_without_it_copies_are_shown_as_ever(client: Client, either: Company) -> None:
    assert len(search(client, drawn(RED), collapse="duplicates")) == 3
    file = BytesIO(content(drawn(RED)))
    file.name = "query.png"
    assert client.post("/api/search/acme", {"image": file, "top_k": 50}).json()["total_results"] == 14


def test_anything_else_is_refused(client: Client, acme: Company) -> None:
    file = BytesIO(content(drawn(RED)))
    file.name = "query.png"
    answer = client.post("/api/search/acme", {"image": file, "collapse": "all"})
    assert (answer.status_code, answer.json()["code"]) == (400, "collapse_invalid")


def test_the_command_collapses_as_well(acme: Company, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    query = tmp_path / "query.png"
    drawn(RED).save(query)
    for where in ({"company": "acme"}, {"embeddings_dir": acme.embeddings_directory}):
        call_command("search_similar_images", query_image=[query], collapse="duplicates", **where)
        assert '"total_results": 3' in capsys.readouterr().out
