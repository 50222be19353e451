"""Searches with several pictures: uploaded ones, and the company's own, liked or not."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.test import Client

from tenants.models import Company
from tests.conftest import picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]

YELLOW, CYAN, VIOLET = (255, 255, 0), (0, 255, 255), (255, 0, 255)
NOBODY = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    colours = {"red": RED, "green": GREEN, "blue": BLUE, "yellow": YELLOW, "cyan": CYAN, "violet": VIOLET}
    return make_company("acme", {f"{name}.png": colour for name, colour in colours.items()})


def names(response: Any) -> list[str]:
    assert response.status_code == 200, response.content
    return [entry["name"] for entry in response.json()["results"]]


def search(client: Client, *colours: tuple[int, int, int], **form: Any) -> Any:
    return client.post("/api/search/acme", {"image": [picture(colour) for colour in colours], **form})


def ids(client: Client, *wanted: str) -> list[str]:
    return [client.get(f"/api/images/acme/{name}.png").json()["image"]["id"] for name in wanted]


def like(client: Client, *liked: str, unlike: tuple[str, ...] = (), **parameters: Any) -> Any:
    chosen = {"like": ids(client, *liked), "unlike": ids(client, *unlike)}
    return client.get("/api/search/acme", {**chosen, **parameters})


# Uploaded


def test_several_pictures_are_one_search_for_what_lies_between_them(client: Client, acme: Company) -> None:
    assert names(search(client, RED, top_k=1)) == ["red"]
    assert names(search(client, RED, GREEN, top_k=1)) == ["yellow"]
    assert names(search(client, RED, RED, RED, BLUE, BLUE, top_k=2)) == ["violet", "red"]


def test_each_picture_weighs_the_same_and_the_score_is_at_most_one(client: Client, acme: Company) -> None:
    same = search(client, RED, RED, RED).json()["results"][0]
    assert (same["name"], same["score"]) == ("red", 1)


def test_a_sixth_picture_is_refused_before_any_is_embedded(
    client: Client, acme: Company, embedder: FakeEmbedder
) -> None:
    assert names(search(client, *[RED] * 5, top_k=1)) == ["red"]
    embedded = embedder.embedded
    refused = search(client, *[RED] * 6)
    assert refused.status_code == 400
    assert refused.json() == {
        "success": False,
        "error": "Too many images: at most 5 are searched with at a time",
        "code": "too_many_images",
    }
    assert embedder.embedded == embedded


def test_one_that_is_no_picture_spoils_all(client: Client, acme: Company) -> None:
    broken = BytesIO(b"broken")
    broken.name = "broken.png"
    answer = client.post("/api/search/acme", {"image": [picture(RED), broken]})
    assert (answer.status_code, answer.json()["code"]) == (400, "image_unreadable")
    answer = client.post("/api/search/acme", {"image": [picture(RED), picture(RED, "notes.pdf")]})
    assert (answer.status_code, answer.json()["code"]) == (400, "file_type_not_allowed")
    assert search(client, RED, RED, crop="0,0,0.5,0.5").json()["code"] == "crop_invalid"


def test_a_text_beside_a_picture_has_no_effect(client: Client, acme: Company) -> None:
    assert names(client.post("/api/search/acme", {"image": ["text", picture(RED)], "top_k": 1})) == ["red"]


def test_together_they_are_no_larger_than_one_may_be(client: Client, acme: Company) -> None:
    half = BytesIO(picture(RED).getvalue() + bytes(django_settings.MAX_UPLOAD_BYTES // 2))
    half.name = "half.png"
    others = [BytesIO(half.getvalue()) for _ in range(2)]
    for other in others:
        other.name = "half.png"
    answer = client.post("/api/search/acme", {"image": [half, *others]})
    assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")


def test_several_pictures_count_as_one_search(client: Client, acme: Company) -> None:
    Company.objects.update(daily_quota=3)
    assert search(client, RED, GREEN, BLUE)["X-Quota-Remaining"] == "2"
    assert like(client, "red", "green", unlike=("blue",))["X-Quota-Remaining"] == "1"


# The company's own


def test_pictures_like_several_are_those_between_them_without_these(client: Client, acme: Company) -> None:
    assert names(like(client, "red", "green"))[:1] == ["yellow"]
    assert set(names(like(client, "red", "green"))) == {"yellow", "cyan", "violet", "blue"}


def test_what_is_unlike_comes_later(client: Client, acme: Company) -> None:
    assert set(names(like(client, "red", top_k=2))) == {"yellow", "violet"}
    assert names(like(client, "red", unlike=("blue",)))[:1] == ["yellow"]
    assert names(like(client, "red", unlike=("green",)))[:1] == ["violet"]
    assert "blue" not in names(like(client, "red", unlike=("blue",)))


def test_one_that_is_liked_is_a_search_by_its_id(client: Client, acme: Company) -> None:
    by_id = client.get(f"/api/search/acme/{ids(client, 'red')[0]}").json()
    assert like(client, "red").json()["results"] == by_id["results"]
    assert like(client, "red", "red").json()["results"] == by_id["results"]


def test_the_other_parameters_are_those_of_a_search_by_id(client: Client, acme: Company) -> None:
    answer = like(client, "red", "green", top_k=2, min_score=0.5, location="nowhere", page=2, image="x")
    assert (names(answer), answer.json()["ignored_parameters"]) == ([], ["image", "page"])
    assert like(client, "red", crop="0,0,1,1").status_code == 200
    assert like(client, "red", "red", crop="0,0,1,1").status_code == 200
    assert like(client, "red", "green", crop="0,0,1,1").json()["code"] == "crop_invalid"


def test_an_unknown_picture_is_a_404_that_names_it(client: Client, acme: Company, make_company: MakeCompany) -> None:
    make_company("globex", {"theirs.png": RED})
    theirs = client.get("/api/images/globex/theirs.png").json()["image"]["id"]
    own = ids(client, "red")[0]
    for chosen in ({"like": [own, NOBODY]}, {"like": own, "unlike": NOBODY}, {"like": [own, theirs]}):
        answer = client.get("/api/search/acme", chosen)
        assert (answer.status_code, answer.json()["code"]) == (404, "image_not_found")
    assert theirs in answer.json()["error"]


def test_what_is_no_id_is_a_400(client: Client, acme: Company) -> None:
    red, blue = ids(client, "red", "blue")
    for wrong in ("", "red", f"{NOBODY},{NOBODY}", f"{NOBODY} x", "\0", "9" * 5000):
        for name in ("like", "unlike"):
            answer = client.get("/api/search/acme", {"like": red, name: [blue, wrong]})
            assert (answer.status_code, answer.json()["code"]) == (400, f"{name}_invalid"), wrong
            assert answer.json()["error"] == f"{name} must be the id of a picture"


def test_there_is_something_to_be_like_and_not_too_much(client: Client, acme: Company) -> None:
    red, blue = ids(client, "red", "blue")
    alone = client.get("/api/search/acme", {"unlike": red})
    assert (alone.status_code, alone.json()["code"]) == (400, "like_invalid")
    assert client.get("/api/search/acme", {"like": [red] * 20, "unlike": [blue] * 20}).status_code == 200
    for name in ("like", "unlike"):
        many = client.get("/api/search/acme", {"like": red, name: [blue] * 21})
        assert (many.status_code, many.json()["error"]) == (400, f"{name} names too many pictures: at most 20")


def test_a_get_that_asks_for_nothing_is_a_405_as_ever(client: Client, acme: Company) -> None:
    answer = client.get("/api/search/acme?top_k=3")
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert "like" in answer.json()["error"]


def test_a_strangers_company_is_unknown_to_both_methods(client: Client, acme: Company) -> None:
    chosen = {"like": ids(client, "red")}
    Company.objects.update(requires_api_key=True)
    assert client.get("/api/search/acme", chosen).json()["code"] == "company_not_found"
    assert client.get("/api/search/acme/", chosen).json()["code"] == "company_not_found"


def test_the_files_of_pictures_that_are_liked_are_not_asked_for(client: Client, acme: Company) -> None:
    before = names(like(client, "red", "green", unlike=("blue",)))
    for file in acme.image_directory.iterdir():
        file.unlink()
    assert names(like(client, "red", "green", unlike=("blue",))) == before
