"""Searches with a part of a picture, over HTTP."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import call_command
from django.test import Client
from PIL import Image

from tenants.models import Company
from tests.conftest import picture
from tests.support.encodings import encoded
from tests.support.fakes import BLUE, GREEN, RED

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    """Return a company with red, green and blue, and a scene in red with a tenth of green in its lower right corner."""
    company = make_company("acme", {"red.png": RED, "green.png": GREEN, "blue.png": BLUE})
    (company.image_directory / "scene.png").write_bytes(scene())
    call_command("build_embeddings", company="acme")
    return company


def scene() -> bytes:
    shown = Image.new("RGB", (200, 100), RED)
    shown.paste(GREEN, (160, 50, 200, 100))
    return encoded(shown, "PNG")


def search(client: Client, **form: Any) -> Any:
    return client.post("/api/search/acme", {"image": SimpleUploadedFile("scene.png", scene()), **form})


def found(response: Any) -> list[str]:
    return [entry["fullPath"] for entry in response.json()["results"]]


def image_id(client: Client, path: str) -> str:
    return str(client.get(f"/api/images/acme/{path}").json()["image"]["id"])


def test_search_is_with_the_part_alone(client: Client, acme: Company) -> None:
    assert found(search(client)) == ["scene.png", "red.png", "green.png", "blue.png"]
    part = search(client, crop="0.8,0.5,0.2,0.5")
    assert found(part)[0] == "green.png"
    assert part.json()["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert "ignored_parameters" not in part.json()


def test_search_by_id_is_with_the_part_of_its_file_and_leaves_the_picture_out(client: Client, acme: Company) -> None:
    address = f"/api/search/acme/{image_id(client, 'scene.png')}"
    assert found(client.get(address)) == ["red.png", "green.png", "blue.png"]
    part = client.get(f"{address}?crop=0.8,0.5,0.2,0.5&top_k=3")
    assert found(part)[0] == "green.png"
    assert set(found(part)) == {"red.png", "green.png", "blue.png"}


def test_a_part_of_a_picture_whose_file_is_gone_or_broken_is_a_404(client: Client, acme: Company) -> None:
    address = f"/api/search/acme/{image_id(client, 'scene.png')}"
    (acme.image_directory / "scene.png").write_bytes(b"broken")
    broken = client.get(f"{address}?crop=0,0,0.5,0.5")
    assert (broken.status_code, broken.json()["code"]) == (404, "picture_gone")
    (acme.image_directory / "scene.png").unlink()
    gone = client.get(f"{address}?crop=0,0,0.5,0.5")
    assert (gone.status_code, gone.json()["code"]) == (404, "picture_gone")
    assert client.get(address).status_code == 200
    other = client.get("/api/search/acme/00000000-0000-4000-8000-000000000000?crop=0,0,0.5,0.5")
    assert (other.status_code, other.json()["code"]) == (404, "image_not_found")


def test_what_is_no_part_of_the_picture_is_a_400(client: Client, acme: Company) -> None:
    address = f"/api/search/acme/{image_id(client, 'scene.png')}"
    for crop in ("", "0,0,0,1", "0.5,0,0.6,1", "nan,0,1,1", "0,0,1,1 ", "0,0,1", "0,0,0.05,0.1", "\0"):
        for response in (search(client, crop=crop), client.get(address, {"crop": crop})):
            assert (response.status_code, response.json()["code"]) == (400, "crop_invalid"), crop
            assert response.json()["error"].startswith("crop ")


def test_a_search_names_the_parameters_that_had_no_effect(client: Client, acme: Company) -> None:
    address = "/api/search/acme?top_k=1&Crop=0,0,1,1&_=1"
    image = {"image": picture(RED)}
    response = client.post(address, {**image, "limit": "3", "zoom": picture(RED), "location": ""})
    assert response.json()["ignored_parameters"] == ["Crop", "_", "limit", "top_k", "zoom"]
    assert response.json()["total_results"] == 4
    both = client.post("/api/search/acme?top_k=1", {"image": picture(RED), "top_k": "2"})
    assert (both.json()["total_results"], "ignored_parameters" in both.json()) == (2, False)


def test_a_search_by_id_names_the_parameters_that_had_no_effect(client: Client, acme: Company) -> None:
    response = client.get(f"/api/search/acme/{image_id(client, 'red.png')}?urls=false&size=3&size=4&image=x")
    assert response.json()["ignored_parameters"] == ["image", "size"]


def test_an_answer_repeats_no_more_of_such_names_than_people_send(client: Client, acme: Company) -> None:
    names = {f"{number:02}" + "\x01" * 7000: "x" for number in range(98)}
    response = search(client, **names)
    assert response.status_code == 200
    assert len(response.content) < 70_000
    assert response.json()["ignored_parameters"][1] == "01" + "\x01" * 98
    many = client.get(f"/api/search/acme/{image_id(client, 'red.png')}", dict.fromkeys(map(str, range(500)), ""))
    assert len(many.json()["ignored_parameters"]) == 100
