"""What protects a company, kept beside its index."""

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import reverse

from search.builds import run_build
from search.tasks import look_after_companies
from tenants.models import Company
from tests.conftest import paint
from tests.support.admin import rebuild, url
from tests.support.fakes import BLUE, RED
from tests.support.permissions import bound_by_permissions

MakeCompany = Callable[..., Company]
commits = pytest.mark.django_db(transaction=True)

OPEN = {"active": True, "requires_api_key": False, "daily_quota": None}
CLOSED = {"active": False, "requires_api_key": True, "daily_quota": 7}


def card(company: Company) -> dict[str, Any]:
    text = (company.embeddings_directory.parent / ".generations" / company.name / "company.json").read_text()
    kept: dict[str, Any] = json.loads(text)
    assert kept.pop("version") == 1
    return kept


@commits
def test_saving_a_company_in_the_admin_keeps_what_protects_it(admin_client: Client) -> None:
    admin_client.post(reverse("admin:tenants_company_add"), {"name": "acme", "active": "on"})
    acme = Company.objects.get()
    assert card(acme) == OPEN  # although there is no index yet
    admin_client.post(url("change", acme), {"requires_api_key": "on", "daily_quota": "7"})
    assert card(acme) == CLOSED


@commits
def test_a_save_that_is_taken_back_is_not_kept(admin_client: Client, make_company: MakeCompany) -> None:
    acme = make_company("acme", {"a.png": RED})

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    before = Client(raise_request_exception=False)
    before.cookies = admin_client.cookies
    pre_save.connect(fail, sender="admin.LogEntry")
    try:
        assert before.post(url("change", acme), {"requires_api_key": "on"}).status_code == 500
    finally:
        pre_save.disconnect(fail, sender="admin.LogEntry")
    assert card(acme) == OPEN


@commits
def test_a_disk_that_refuses_does_not_fail_the_save(
    admin_client: Client, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMBEDDINGS_DIR.chmod(0o555)
    with bound_by_permissions():
        response = admin_client.post(reverse("admin:tenants_company_add"), {"name": "acme", "active": "on"})
    assert response.status_code == 302
    assert Company.objects.get().active
    (line,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert line.getMessage() == "What protects acme could not be kept beside its index"
    settings.EMBEDDINGS_DIR.chmod(0o755)
    look_after_companies()  # as a worker does when it starts
    assert card(Company.objects.get()) == OPEN


@commits
def test_a_build_keeps_what_protects_the_company_when_it_publishes(make_company: MakeCompany) -> None:
    acme = make_company("acme", {"a.png": RED})
    build = acme.queue_build()
    assert build.start()
    paint(acme.image_directory / "b.png", BLUE)

    def close(progress: object) -> None:  # as a process of an earlier release does, which keeps nothing
        Company.objects.filter(pk=acme.pk).update(**CLOSED)

    run_build(build, on_progress=close)
    assert card(acme) == CLOSED


def test_saving_a_page_that_was_left_open_leaves_a_later_index_in_use(
    admin_client: Client, make_company: MakeCompany
) -> None:
    acme = make_company("acme", {"a.png": RED})
    paint(acme.image_directory / "b.png", BLUE)

    def publish(*, instance: Company, **_: object) -> None:
        pre_save.disconnect(publish, sender=Company)
        rebuild(Company.objects.get())

    pre_save.connect(publish, sender=Company)
    admin_client.post(url("change", acme), {"active": "on", "notes": "calls on Mondays"})
    found = Company.objects.get()
    assert found.notes == "calls on Mondays"
    assert found.generation != acme.generation
    assert found.generation == acme.embeddings_directory.resolve().name
    assert Client().get("/api/stats/acme").json()["stats"]["total_images"] == 2
