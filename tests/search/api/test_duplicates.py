"""Pictures that show the same: GET /api/duplicates/<company>."""

from typing import Any

import pytest
from django.test import Client

from search.api.views import duplicates
from search.engine.storage.layout import home
from tenants.models import ApiKey, Company
from tests.support.duplicates import company_of, drawn, look
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder) -> Company:
    red, blue = drawn(RED), drawn(BLUE)
    others = {"c.png": drawn(RED, size=90), "f.png": drawn(GREEN)}
    return company_of("acme", {"a.png": red, "B/b.png": red, "d.png": blue, "e.png": blue, **others})


def ask(client: Client, query: str = "", **options: Any) -> Any:
    return client.get(f"/api/duplicates/acme{query}", **options)


def groups(client: Client, query: str = "") -> list[list[tuple[str, str]]]:
    answer = ask(client, query)
    assert answer.status_code == 200, answer.content
    return [[(image["fullPath"], image["level"]) for image in group["images"]] for group in answer.json()["groups"]]


def test_until_somebody_has_looked_the_answer_says_so(client: Client, acme: Company) -> None:
    answer = ask(client)
    assert (answer.status_code, answer.json()["code"]) == (409, "duplicates_unknown")
    assert "Nobody has looked for duplicates of 'acme' yet" in answer.json()["error"]


def test_groups_come_with_their_leader_first(client: Client, acme: Company) -> None:
    look(acme)
    body = ask(client, "/").json()
    assert {name: body[name] for name in body if name != "groups"} == {
        "success": True,
        "company": "acme",
        "total": 2,
        "page": 1,
        "pages": 1,
    }
    first = body["groups"][0]["images"]
    assert {image["fullPath"] for image in first} == {"a.png", "B/b.png", "c.png"}
    assert first[0].keys() == {"fullPath", "id", "location", "name", "type", "score", "level"}
    assert (first[0]["score"], first[0]["level"]) == (1.0, "exact")
    assert {image["fullPath"] for image in body["groups"][1]["images"]} == {"d.png", "e.png"}


def test_levels_are_chosen_one_or_several_at_a_time(client: Client, acme: Company) -> None:
    look(acme)
    exact = {frozenset(path for path, _ in group) for group in groups(client, "?level=exact")}
    assert exact == {frozenset({"a.png", "B/b.png"}), frozenset({"d.png", "e.png"})}
    assert groups(client, "?level=exact&level=same&level=edited") == groups(client)


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("?level=alike", 400, "level_invalid"),
        ("?level=exact&level=", 400, "level_invalid"),
        ("?page=0", 400, "page_invalid"),
        ("?page=x", 400, "page_invalid"),
        ("?page=3", 404, "page_out_of_range"),
    ],
)
def test_what_does_not_exist_is_refused_in_words(
    client: Client, acme: Company, query: str, status: int, code: str
) -> None:
    look(acme)
    answer = ask(client, query)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_pages_hold_so_many_groups(client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    look(acme)
    whole = groups(client)
    monkeypatch.setattr(duplicates, "GROUPS_A_PAGE", 1)
    assert groups(client, "?page=1") + groups(client, "?page=2") == whole
    assert ask(client, "?page=2").json()["pages"] == 2


def test_parameters_without_effect_are_named(client: Client, acme: Company) -> None:
    look(acme)
    assert ask(client, "?levels=exact").json()["ignored_parameters"] == ["levels"]


def test_who_may_search_may_ask(client: Client, acme: Company, settings: Any) -> None:
    look(acme)
    settings.API_KEYS = "required"
    assert ask(client).status_code == 401
    key, secret = acme.issue_key("shop")
    assert ask(client, headers={"X-API-Key": secret}).status_code == 200
    _, other = Company.objects.create(name="globex").issue_key("shop")
    hidden = ask(client, headers={"X-API-Key": other})
    assert (hidden.status_code, hidden.json()["code"]) == (400, "company_not_found")
    ApiKey.objects.get(pk=key.pk).revoke(by=None)
    assert ask(client, headers={"X-API-Key": secret}).status_code == 401


def test_pictures_are_shown_to_who_may_see_them_alone(client: Client, acme: Company) -> None:
    look(acme)
    assert ask(client, "?urls=true").status_code == 401
    _, secret = acme.issue_key("shop")
    answer = ask(client, "?urls=true", headers={"X-API-Key": secret}).json()
    image = answer["groups"][0]["images"][0]
    assert client.get(image["url"]).status_code == client.get(image["thumbnail_url"]).status_code == 200


def test_it_counts_as_no_search(client: Client, acme: Company) -> None:
    look(acme)
    Company.objects.filter(pk=acme.pk).update(daily_quota=1)
    assert [ask(client).status_code for _ in range(2)] == [200, 200]


def test_what_was_found_and_is_damaged_is_found_anew(client: Client, acme: Company) -> None:
    look(acme)
    before = groups(client)
    for file in home(acme.embeddings_directory).glob(".duplicates*"):
        file.write_bytes(b"\0" * file.stat().st_size)
    assert ask(client).status_code == 409
    look(acme)
    assert groups(client) == before
