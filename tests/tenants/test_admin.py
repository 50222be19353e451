"""The admin as an operator sees it, through the pages."""

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from search.builds import run_build
from search.engine.model.passport import UNTRAINED, ModelPassport
from tenants.models import Company, IndexBuild
from tests.conftest import Colleague
from tests.support.fakes import BLUE, RED, FakeEmbedder

MakeCompany = Callable[..., Company]

COMPANIES = reverse("admin:tenants_company_changelist")
BUILDS = reverse("admin:tenants_indexbuild_changelist")


def row(client: Client, company: str) -> str:
    """Return what the line of a company in the list says, as text."""
    page = client.get(COMPANIES).content.decode()
    line = next(line for line in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if f">{company}</a>" in line)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", line)).split())


def reindex(client: Client, *companies: Company) -> Any:
    form = {"action": "reindex", "_selected_action": [company.pk for company in companies]}
    return client.post(COMPANIES, form, follow=True)


def messages(response: Any) -> str:
    return " | ".join(str(message) for message in response.context["messages"])


# The list


def test_list_shows_status_pictures_and_last_build(admin_client: Client, make_company: MakeCompany) -> None:
    make_company("acme", {"a.png": RED, "b.png": BLUE})
    Company.objects.create(name="globex")
    assert re.search(r"ready.* 2 .*just now", row(admin_client, "acme"), re.IGNORECASE)
    assert re.search(r"no index.* never", row(admin_client, "globex"), re.IGNORECASE)


def test_list_shows_a_failed_build_and_the_pictures_that_serve_on(
    admin_client: Client, make_company: MakeCompany
) -> None:
    acme = make_company("acme", {"a.png": RED, "b.png": BLUE})
    build = acme.queue_build()
    assert "queued" in row(admin_client, "acme").lower()
    build.start()
    assert "running" in row(admin_client, "acme").lower()
    build.fail("out of disk")
    assert re.search(r"failed.* 2 ", row(admin_client, "acme"), re.IGNORECASE)


def test_every_status_of_a_build_can_be_shown(admin_client: Client, db: None) -> None:
    for status in IndexBuild.Status:
        company = Company.objects.create(name=f"is-{status}")
        IndexBuild.objects.create(company=company, status=status)
        shown = "no index yet" if status == IndexBuild.Status.SUCCEEDED else status  # its files are gone
        assert f"is-{status} {shown}" in row(admin_client, f"is-{status}").lower()
    assert admin_client.get(BUILDS).status_code == 200


def test_untrained_weights_are_unmissable(
    admin_client: Client, make_company: MakeCompany, embedder: FakeEmbedder
) -> None:
    make_company("acme", {"a.png": RED})
    assert UNTRAINED not in row(admin_client, "acme").lower()
    embedder.passport = ModelPassport(UNTRAINED, "0" * 64)
    make_company("demo", {"a.png": RED})
    assert "untrained weights" in row(admin_client, "demo").lower()
    page = admin_client.get(COMPANIES).content.decode()
    assert re.search(r"<[^>]+badge is-untrained[^>]+>\s*[^<]*untrained", page, re.IGNORECASE)


def test_list_takes_a_fixed_number_of_queries(
    admin_client: Client, db: None, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        IndexBuild.objects.create(company=Company.objects.create(name=f"company-{number}"), status="succeeded")
    with django_assert_max_num_queries(12):
        admin_client.get(COMPANIES)


# Reindex


def test_reindex_queues_a_build_of_each_chosen_company(admin_client: Client, db: None) -> None:
    acme, globex, other = (Company.objects.create(name=name) for name in ("acme", "globex", "other"))
    response = reindex(admin_client, acme, globex)
    assert "acme" in messages(response)
    assert "globex" in messages(response)
    assert [company.builds.count() for company in (acme, globex, other)] == [1, 1, 0]
    assert acme.builds.get().status == IndexBuild.Status.QUEUED


def test_reindex_asked_twice_keeps_the_one_build(admin_client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    reindex(admin_client, acme)
    build = acme.builds.get()
    response = reindex(admin_client, acme)
    assert acme.builds.get() == build
    assert str(build.pk) in messages(response)


def test_reindex_needs_its_permission(colleague: Colleague) -> None:
    acme = Company.objects.create(name="acme")
    client = colleague("view_company", "change_company")
    assert 'value="reindex"' not in client.get(COMPANIES).content.decode()
    reindex(client, acme)
    assert not acme.builds.exists()


def test_a_colleague_with_the_permission_may_reindex(colleague: Colleague) -> None:
    acme = Company.objects.create(name="acme")
    reindex(colleague("view_company", "reindex_company"), acme)
    assert acme.builds.count() == 1


def test_strangers_see_nothing(client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    for page in (COMPANIES, BUILDS):
        assert client.get(page).status_code == 302
    reindex(client, acme)
    assert not acme.builds.exists()


# One company


def test_a_company_is_made_with_a_name_that_stays(admin_client: Client, db: None) -> None:
    admin_client.post(reverse("admin:tenants_company_add"), {"name": "acme", "active": "on"})
    acme = Company.objects.get(name="acme")
    page = reverse("admin:tenants_company_change", args=[acme.pk])
    assert 'name="name"' not in admin_client.get(page).content.decode()
    admin_client.post(page, {"name": "globex", "notes": "calls on Mondays"})
    acme.refresh_from_db()
    assert (acme.name, acme.notes, acme.active) == ("acme", "calls on Mondays", False)


@pytest.mark.parametrize("form", [{"name": "../x"}, {"name": "ACME"}, {"name": "new", "image_folder": "/etc"}])
def test_a_company_that_may_not_be_is_refused_with_the_reason(
    admin_client: Client, db: None, form: dict[str, str]
) -> None:
    Company.objects.create(name="acme")
    response = admin_client.post(reverse("admin:tenants_company_add"), form)
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    assert Company.objects.count() == 1


# Builds


@pytest.fixture
def build(make_company: MakeCompany) -> IndexBuild:
    acme = make_company("acme", {"a.png": RED})
    (acme.image_directory / "broken.png").write_bytes(b"not a picture")
    build = acme.queue_build()
    build.start()
    run_build(build)
    build.refresh_from_db()
    return build


def test_a_build_shows_the_files_it_skipped_and_why(admin_client: Client, build: IndexBuild) -> None:
    page = admin_client.get(reverse("admin:tenants_indexbuild_change", args=[build.pk])).content.decode()
    assert "broken.png" in page
    assert "not a picture of an allowed type" in page


def test_builds_are_read_only(admin_client: Client, build: IndexBuild) -> None:
    page = reverse("admin:tenants_indexbuild_change", args=[build.pk])
    shown = admin_client.get(page).content.decode()
    assert 'name="_save"' not in shown
    assert 'name="status"' not in shown
    assert admin_client.post(page, {"status": "failed"}).status_code == 403
    assert admin_client.get(reverse("admin:tenants_indexbuild_add")).status_code == 403
    assert (
        admin_client.post(reverse("admin:tenants_indexbuild_delete", args=[build.pk]), {"post": "yes"}).status_code
        == 403
    )
    assert IndexBuild.objects.get(pk=build.pk).status == IndexBuild.Status.SUCCEEDED
