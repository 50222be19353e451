"""How much a key may store."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from search.tasks import carry_out_build
from tenants.models import Company, LiveChange
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, WHITE

MakeCompany = Callable[..., Company]
SIZE = len(picture(GREEN).getvalue())


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED, "b.png": BLUE})


@pytest.fixture
def key(acme: Company) -> dict[str, str]:
    return {"X-API-Key": acme.issue_key("writer", can_write=True)[1]}


def limit(company: Company, **limits: int | None) -> None:
    """Set limits as the admin does."""
    for name, value in limits.items():
        setattr(company, name, value)
    company.change(by=None, detail="")


def put(client: Client, path: str, headers: dict[str, str], content: bytes = picture(GREEN).getvalue()) -> Any:
    return client.generic("PUT", f"/api/images/acme/{path}", content, content_type="image/png", headers=headers)


def require_refusal(response: Any, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (413, code)


def test_no_more_pictures_are_put_than_the_company_may_have(client: Client, acme: Company, key: dict[str, str]) -> None:
    limit(acme, max_pictures=3)
    assert put(client, "c.png", key).status_code == 201
    require_refusal(put(client, "d.png", key), "picture_limit_reached")
    assert not (acme.image_directory / "d.png").exists()
    assert LiveChange.objects.count() == 1
    assert put(client, "c.png", key, picture(WHITE).getvalue()).status_code == 200  # another in its place
    assert client.delete("/api/images/acme/a.png", headers=key).status_code == 200
    assert put(client, "d.png", key).status_code == 201
    require_refusal(put(client, "e.png", key), "picture_limit_reached")


def test_no_more_bytes_are_put_than_the_company_may_have(client: Client, acme: Company, key: dict[str, str]) -> None:
    limit(acme, max_bytes=sum(file.stat().st_size for file in acme.image_directory.iterdir()) + 2 * SIZE)
    padded = picture(GREEN).getvalue() + bytes(SIZE)
    assert put(client, "c.png", key).status_code == 201
    require_refusal(put(client, "d.png", key, padded), "space_limit_reached")
    assert put(client, "d.png", key).status_code == 201
    require_refusal(put(client, "d.png", key, padded), "space_limit_reached")
    assert (acme.image_directory / "d.png").stat().st_size == SIZE
    assert client.delete("/api/images/acme/c.png", headers=key).status_code == 200
    assert put(client, "d.png", key, padded).status_code == 200


def test_a_company_without_limits_has_none(client: Client, acme: Company, key: dict[str, str]) -> None:
    for name in "cde":
        assert put(client, f"{name}.png", key).status_code == 201
    limit(acme, max_pictures=5)  # what was put before the limit counts as well
    require_refusal(put(client, "f.png", key), "picture_limit_reached")
    limit(acme, max_pictures=None)
    assert put(client, "f.png", key).status_code == 201


def test_what_others_have_written_to_the_folder_counts_after_the_next_build(
    client: Client, acme: Company, key: dict[str, str]
) -> None:
    limit(acme, max_pictures=4)
    assert put(client, "c.png", key).status_code == 201
    paint(acme.image_directory / "copied.png", WHITE)
    carry_out_build.func(acme.queue_build().pk)
    require_refusal(put(client, "d.png", key), "picture_limit_reached")
    (acme.image_directory / "copied.png").unlink()
    carry_out_build.func(acme.queue_build().pk)
    assert put(client, "d.png", key).status_code == 201


def test_uploads_in_the_admin_may_exceed_the_limits_and_count(
    client: Client, admin_client: Client, acme: Company, key: dict[str, str]
) -> None:
    limit(acme, max_pictures=3)
    assert put(client, "c.png", key).status_code == 201
    assert client.delete("/api/images/acme/c.png", headers=key).status_code == 200
    files = [SimpleUploadedFile(f"{name}.png", picture(WHITE).getvalue()) for name in "xyz"]
    response = admin_client.post(reverse("admin:tenants_company_upload", args=[acme.pk]), {"files": files}, follow=True)
    assert (acme.image_directory / "z.png").exists()
    said = [str(message) for message in response.context["messages"]]
    assert "acme has 5 pictures now, more than its limit of 3: the API adds no more." in said
    require_refusal(put(client, "c.png", key), "picture_limit_reached")


def test_a_folder_that_is_gone_is_empty(client: Client, acme: Company, key: dict[str, str]) -> None:
    shutil.rmtree(acme.image_directory)
    limit(acme, max_pictures=1)
    assert put(client, "c.png", key).status_code == 201
    require_refusal(put(client, "d.png", key), "picture_limit_reached")


def test_a_refused_upload_costs_no_embedding(client: Client, acme: Company, key: dict[str, str], embedder: Any) -> None:
    limit(acme, max_pictures=2)
    before = embedder.embedded
    require_refusal(put(client, "c.png", key), "picture_limit_reached")
    assert embedder.embedded == before


def test_limits_are_set_on_the_companys_page(admin_client: Client, acme: Company) -> None:
    url = reverse("admin:tenants_company_change", args=[acme.pk])
    assert admin_client.post(url, {"active": "on", "max_pictures": "7", "max_bytes": "123"}).status_code == 302
    acme.refresh_from_db()
    assert (acme.max_pictures, acme.max_bytes) == (7, 123)
