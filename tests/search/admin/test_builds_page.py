"""The admin's pages of builds and of the files that one skipped."""

import csv
from collections.abc import Callable
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.test import Client
from django.urls import reverse

from search.builds import run_build
from tenants.models import Company, IndexBuild
from tests.conftest import Colleague
from tests.support.admin import BUILDS, REINDEX, VIEW, messages, reindex, text, url
from tests.support.fakes import RED

MakeCompany = Callable[..., Company]


@pytest.fixture
def build(make_company: MakeCompany) -> IndexBuild:
    acme = make_company("acme", {"a.png": RED})
    (acme.image_directory / "broken.png").write_bytes(b"not a picture")
    build = acme.queue_build()
    build.start()
    run_build(build)
    build.refresh_from_db()
    return build


def csv_url(build: IndexBuild) -> str:
    return reverse("admin:tenants_indexbuild_skipped", args=[build.pk])


def test_skipped_files_come_as_csv(admin_client: Client, skipping_build: IndexBuild) -> None:
    response = admin_client.get(csv_url(skipping_build))
    assert response.streaming
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert f"acme-{skipping_build.pk}-skipped.csv" in response["Content-Disposition"]
    rows = list(csv.reader(StringIO(response.getvalue().decode("utf-8-sig"))))
    assert rows[0] == ["path", "reason"]
    assert len(rows) == 1_201
    assert {'quo"te,s.png', "new\nline.png", "file-00000.png"} <= {path for path, _ in rows}


def test_no_spreadsheet_takes_a_skipped_file_for_a_formula(admin_client: Client, skipping_build: IndexBuild) -> None:
    rows = list(csv.reader(StringIO(admin_client.get(csv_url(skipping_build)).getvalue().decode("utf-8-sig"))))
    assert not [cell for row in rows for cell in row if cell.lstrip()[:1] in set("=+-@")]
    assert "'=cmd|' /C calc'!A0.png" in {path for path, _ in rows}


def test_csv_needs_the_right_to_view(colleague: Colleague, skipping_build: IndexBuild) -> None:
    assert colleague(REINDEX).get(csv_url(skipping_build)).status_code == 403
    assert colleague(VIEW).get(csv_url(skipping_build)).status_code == 200
    assert Client().get(csv_url(skipping_build)).status_code == 302
    assert colleague(VIEW).get(reverse("admin:tenants_indexbuild_skipped", args=[4711])).status_code == 404


def test_many_skipped_files_are_not_all_shown(admin_client: Client, skipping_build: IndexBuild) -> None:
    company_page = admin_client.get(url("change", skipping_build.company)).content.decode()
    build_page = admin_client.get(reverse("admin:tenants_indexbuild_change", args=[skipping_build.pk])).content.decode()
    for page in (company_page, build_page):
        assert page.count("-broken") == 50
        assert "The first 50 of 1,200" in page
        assert csv_url(skipping_build) in page


def test_build_page_shows_everything_and_changes_nothing(colleague: Colleague, acme: Company) -> None:
    build = acme.builds.get()
    IndexBuild.objects.filter(pk=build.pk).update(
        images_found=1111,
        images_reused=222,
        images_removed=333,
        images_per_second=4.25,
        error="odd",
        full_reason="new weights",
        units_total=12,
        units_done=3,
    )
    address = reverse("admin:tenants_indexbuild_change", args=[build.pk])
    client = colleague(VIEW)
    page = text(client.get(address).content.decode())
    for shown in ("1,111", "222", "333", "4.2", "odd", "new weights", "fake-weights", "3 of 12 units"):
        assert shown in page
    assert client.post(address, {"status": "failed"}).status_code == 403
    assert client.get(reverse("admin:tenants_indexbuild_changelist")).status_code == 200
    assert colleague(REINDEX).get(address).status_code == 403


def test_all_builds_of_a_company_can_be_listed(admin_client: Client, acme: Company) -> None:
    Company.objects.create(name="globex").queue_build()
    page = reverse("admin:tenants_indexbuild_changelist") + f"?company__id__exact={acme.pk}"
    response = admin_client.get(page)
    assert [build.company for build in response.context["cl"].result_list] == [acme]


def test_a_build_shows_the_files_it_skipped_and_why(admin_client: Client, build: IndexBuild) -> None:
    page = admin_client.get(reverse("admin:tenants_indexbuild_change", args=[build.pk])).content.decode()
    assert "broken.png" in page
    assert "Not a picture of an allowed type" in page


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


def test_a_build_has_one_number_everywhere(admin_client: Client, acme: Company) -> None:
    response = reindex(admin_client, acme)
    build = acme.builds.active().get()
    assert f"Build {build.pk} of acme is queued" in messages(response)
    page = reverse("admin:tenants_indexbuild_change", args=[build.pk])
    assert f'<a href="{page}">{build.pk}</a>' in admin_client.get(BUILDS).content.decode()
    assert f"<h1>Build {build.pk} of acme</h1>" in admin_client.get(page).content.decode()


def test_times_have_a_zone(admin_client: Client, acme: Company) -> None:
    IndexBuild.objects.update(queued_at=datetime(2026, 3, 1, 14, 5, tzinfo=UTC))
    for page in (BUILDS, reverse("admin:tenants_indexbuild_change", args=[acme.builds.get().pk])):
        assert "1 Mar 2026, 14:05 UTC" in admin_client.get(page).content.decode()
