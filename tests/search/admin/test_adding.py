"""Adding a company in the admin where the disk holds an index from before."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from search.engine.index.records import image_id
from tenants.models import Company
from tests.conftest import paint, picture
from tests.support.admin import messages, rebuild, search_names, text, url
from tests.support.damage import cut_by_half
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import flask_directory, some_vectors
from tests.support.permissions import bound_by_permissions

MakeCompany = Callable[..., Company]
ADD = reverse("admin:tenants_company_add")

pytestmark = pytest.mark.django_db(transaction=True)  # files go, and are written, after commits


@pytest.fixture
def left(admin_client: Client, make_company: MakeCompany) -> Company:
    """An index of two pictures, that of a company which was deleted; its pictures are gone."""
    company = make_company("acme", {"a.png": RED, "b.png": BLUE})
    admin_client.post(url("change", company), {"active": "on", "requires_api_key": "on", "daily_quota": "7"})
    admin_client.post(url("delete", company), {"post": "yes", "remove_pictures": "1"})
    assert not Company.objects.exists()
    return company


@pytest.fixture
def of_flask(settings: Any) -> list[str]:
    """An index of the Flask service; return its ids."""
    return flask_directory(settings.EMBEDDINGS_DIR / "acme", some_vectors(2), ["a.png", "b.png"])


def add(client: Client, **form: str) -> Any:
    return client.post(ADD, {"name": "acme", "active": "on", **form}, follow=True)


def radio_buttons(response: Any) -> list[str]:
    return re.findall(r'<input type="radio" name="earlier_index" value="(\w+)"', response.content.decode())


def test_nothing_is_asked_where_there_is_no_earlier_index(admin_client: Client) -> None:
    assert radio_buttons(admin_client.get(ADD)) == []
    assert radio_buttons(add(admin_client)) == []
    assert Company.objects.get().active


def test_a_new_company_is_shown_where_its_pictures_are_uploaded(admin_client: Client) -> None:
    assert add(admin_client).redirect_chain[-1][0] == url("change", Company.objects.get())


@pytest.mark.parametrize("there", ["left", "of_flask"])
def test_an_earlier_index_is_asked_about(admin_client: Client, there: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(there)
    response = add(admin_client)
    assert radio_buttons(response) == ["use", "remove"]
    page = text(response.content.decode())
    assert "There is already an index of acme on the disk. Use it or remove it?" in page
    assert "Use it: its pictures can be searched" in page
    assert "This cannot be undone" in page
    assert not Company.objects.exists()


def test_an_earlier_index_that_is_used_protects_the_company_as_before(admin_client: Client, left: Company) -> None:
    response = add(admin_client, earlier_index="use")
    acme = Company.objects.get()
    assert (acme.active, acme.requires_api_key, acme.daily_quota) == (False, True, 7)
    assert "acme is inactive" in messages(response)
    assert search_names_of(admin_client, acme) == {"a.png", "b.png"}
    shown = text(admin_client.get(url("change", acme)).content.decode())
    assert "Pictures in the index 2" in shown
    assert "ready" in shown


def search_names_of(client: Client, company: Company) -> set[str]:
    """Return what searches of the company find once it is opened."""
    client.post(url("change", company), {"active": "on"})
    return search_names(company)


def test_what_is_closed_in_the_form_is_not_opened_by_an_earlier_index(
    admin_client: Client, make_company: MakeCompany
) -> None:
    company = make_company("acme", {"a.png": RED})
    kept = company.embeddings_directory.parent / ".generations/acme/company.json"
    open_card = kept.read_text()
    admin_client.post(url("delete", company), {"post": "yes"})
    kept.write_text(open_card)
    assert json.loads(open_card)["active"]
    add(admin_client, earlier_index="use", requires_api_key="on", daily_quota="3", active="")
    acme = Company.objects.get()
    assert (acme.active, acme.requires_api_key, acme.daily_quota) == (False, True, 3)


def test_an_index_of_flask_is_used_as_it_is(admin_client: Client, of_flask: list[str]) -> None:
    add(admin_client, earlier_index="use")
    acme = Company.objects.get()
    assert (acme.active, acme.requires_api_key, acme.daily_quota) == (True, False, None)
    images = Client().get("/api/images/acme").json()["images"]
    assert [image["id"] for image in images] == of_flask


def test_an_index_of_ours_that_tells_nothing_of_its_protection_comes_back_inactive(
    admin_client: Client, left: Company
) -> None:
    (left.embeddings_directory.parent / ".generations/acme/company.json").unlink()
    add(admin_client, earlier_index="use")
    assert not Company.objects.get().active


@pytest.mark.parametrize(
    "card",
    ["", "[]", "{}", '{"active": true}', '{"active": 1, "requires_api_key": false, "daily_quota": null}'],
)
@pytest.mark.parametrize("there", ["left", "of_flask"])
def test_protection_that_cannot_be_read_closes(
    admin_client: Client, request: pytest.FixtureRequest, there: str, settings: Any, card: str
) -> None:
    request.getfixturevalue(there)
    home: Path = settings.EMBEDDINGS_DIR / ".generations/acme"
    home.mkdir(parents=True, exist_ok=True)
    (home / "company.json").write_text(card)
    add(admin_client, earlier_index="use")
    assert not Company.objects.get().active


def test_an_earlier_index_that_is_removed_leaves_nothing(admin_client: Client, left: Company) -> None:
    add(admin_client, earlier_index="remove")
    acme = Company.objects.get()
    assert (acme.active, acme.requires_api_key, acme.daily_quota) == (True, False, None)
    assert Client().get("/api/companies").json()["companies"] == []
    paint(acme.image_directory / "c.png", GREEN)
    rebuild(acme)
    assert search_names(acme) == {"c.png"}
    assert (acme.embeddings_directory / "given_ids.json").read_text() == "{}"


def test_ids_of_a_flask_index_that_is_removed_do_not_come_back(
    admin_client: Client, of_flask: list[str], embedder: FakeEmbedder
) -> None:
    add(admin_client, earlier_index="remove")
    acme = Company.objects.get()
    paint(acme.image_directory / "a.png", RED)
    rebuild(acme)
    (entry,) = Client().get("/api/images/acme").json()["images"]
    assert entry["id"] == image_id("acme", "a.png")


def test_a_damaged_index_cannot_be_used_and_can_be_removed(admin_client: Client, left: Company) -> None:
    cut_by_half(left.embeddings_directory / "faiss_index.bin")
    response = add(admin_client, earlier_index="use")
    assert "The earlier index of acme cannot be used: faiss_index.bin is" in text(response.content.decode())
    assert radio_buttons(response) == ["use", "remove"]
    assert not Company.objects.exists()
    add(admin_client, earlier_index="remove")
    assert Company.objects.get().active


def test_an_index_that_the_disk_does_not_let_go_is_told_and_no_company_is_added(
    admin_client: Client, left: Company, settings: Any
) -> None:
    (settings.EMBEDDINGS_DIR / ".generations").chmod(0o555)
    with bound_by_permissions():
        response = add(admin_client, earlier_index="remove")
    (settings.EMBEDDINGS_DIR / ".generations").chmod(0o755)
    assert "No company was added." in messages(response)
    assert "Permission denied" in messages(response)
    assert not Company.objects.exists()
    assert radio_buttons(add(admin_client)) == ["use", "remove"]


@pytest.mark.parametrize("name", ["../acme", ".generations", "acme/x", "a" * 100])
def test_names_that_no_company_can_have_ask_about_nothing(admin_client: Client, left: Company, name: str) -> None:
    response = add(admin_client, name=name)
    assert radio_buttons(response) == []
    assert not Company.objects.exists()


def test_pictures_put_after_an_earlier_index_was_taken_over_are_found(admin_client: Client, left: Company) -> None:
    add(admin_client, earlier_index="use")
    acme = Company.objects.get()
    admin_client.post(url("change", acme), {"active": "on"})
    _, key = acme.issue_key("shop", can_write=True)
    client, content = Client(headers={"X-API-Key": key}), picture(GREEN).getvalue()
    assert client.put("/api/images/acme/c.png", content, content_type="image/png").status_code == 201
    assert client.delete("/api/images/acme/a.png").status_code == 200
    assert search_names(acme) == {"b.png", "c.png"}
