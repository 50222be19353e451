"""The folders of a company's pictures: GET /api/folders/<company>."""

import unicodedata
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from search.api.views import folders
from tenants.models import ApiKey, Company
from tests.conftest import picture
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.indexes import flask_directory, some_vectors

MakeCompany = Callable[..., Company]


@pytest.fixture
def staff(db: None) -> dict[str, str]:
    User.objects.create_superuser("ann", password="secret")
    return {"Authorization": f"Basic {b64encode(b'ann:secret').decode()}"}


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED, "B/b.png": BLUE, "B/C/D/c.png": GREEN, "B/C/D/d.png": GREEN})


def folders_of(client: Client, **query: Any) -> list[tuple[str, int, int]]:
    answer = client.get("/api/folders/acme", query)
    assert answer.status_code == 200, answer.content
    return [(each["location"], each["images"], each["total_images"]) for each in answer.json()["folders"]]


def test_each_folder_is_listed_with_its_pictures_and_those_below(client: Client, acme: Company) -> None:
    assert client.get("/api/folders/acme/").json() == {
        "success": True,
        "company": "acme",
        "folders": [
            {"location": "", "name": "", "images": 1, "total_images": 4},
            {"location": "B", "name": "B", "images": 1, "total_images": 3},
            {"location": "B/C", "name": "C", "images": 0, "total_images": 2},
            {"location": "B/C/D", "name": "D", "images": 2, "total_images": 2},
        ],
        "total": 4,
        "page": 1,
        "pages": 1,
    }


@pytest.mark.parametrize("location", ["B/C", "/B/C/"])
def test_the_folders_below_one_are_listed(client: Client, acme: Company, location: str) -> None:
    assert folders_of(client, location=location) == [("B/C", 0, 2), ("B/C/D", 2, 2)]
    assert folders_of(client, location="B/C/D/c.png") == folders_of(client, location="nowhere") == []


def test_live_changes_count_at_once(client: Client, acme: Company, staff: dict[str, str]) -> None:
    assert folders_of(client)[0] == ("", 1, 4)
    client.delete("/api/images/acme/B/b.png", headers=staff)
    client.delete("/api/images/acme/a.png", headers=staff)
    for path in ("New/x.png", "B/C/D/d.png"):
        client.put(f"/api/images/acme/{path}", picture(BLUE).getvalue(), content_type="image/png", headers=staff)
    assert folders_of(client) == [("", 0, 3), ("B", 0, 2), ("B/C", 0, 2), ("B/C/D", 2, 2), ("New", 1, 1)]


def test_a_folder_written_as_a_mac_does_and_as_others_do_is_one(client: Client, make_company: MakeCompany) -> None:
    composed, apart = (unicodedata.normalize(form, "Schühe") for form in ("NFC", "NFD"))
    make_company("acme", {f"{composed}/a.png": RED, f"{apart}/b.png": BLUE})
    assert folders_of(client) == [("", 0, 2), (composed, 2, 2)]
    assert folders_of(client, location=apart) == [(composed, 2, 2)]


def test_folders_come_in_pages(client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "FOLDERS_A_PAGE", 3)
    assert folders_of(client, page=2) == [("B/C/D", 2, 2)]
    beyond = client.get("/api/folders/acme?page=3")
    assert (beyond.status_code, beyond.json()["code"]) == (404, "page_out_of_range")
    assert client.get("/api/folders/acme?page=0").status_code == 400


def test_odd_names_of_the_flask_service_break_nothing(client: Client, db: None) -> None:
    company = Company.objects.create(name="acme")
    paths = ["\udcff/a.png", "new\nline/b.png", "/abs.png", "a//b.png", 'q"uote\\/c.png', "?#%/d.png"]
    flask_directory(company.embeddings_directory, some_vectors(len(paths)), paths)
    assert {location for location, images, _ in folders_of(client) if images} == {
        "\udcff",
        "new\nline",
        "",
        "a/",
        'q"uote\\',
        "?#%",
    }


def test_folders_are_for_those_who_may_search(client: Client, acme: Company, make_company: MakeCompany) -> None:
    other = make_company("globex", {"Secret/a.png": RED})
    Company.objects.update(requires_api_key=True)
    assert client.get("/api/folders/acme").json()["code"] == "company_not_found"
    key = ApiKey(company=other, name="test")
    text = key.draw()
    key.save()
    assert client.get("/api/folders/globex", headers={"X-API-Key": text}).json()["total"] == 2
    for name in ("acme", "nobody"):
        answer = client.get(f"/api/folders/{name}", headers={"X-API-Key": text})
        assert (answer.status_code, answer.json()["code"]) == (400, "company_not_found")


def test_a_company_without_an_index_is_a_503_that_says_what_to_do(client: Client, db: None) -> None:
    Company.objects.create(name="acme")
    answer = client.get("/api/folders/acme")
    assert (answer.status_code, answer.json()["code"]) == (503, "index_not_built")
