"""The admin's list of companies, as an operator sees it."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from search.engine import storage
from tenants.models import Company, IndexBuild
from tests.support.admin import BUILDS, COMPANIES, running, text, url
from tests.support.fakes import BLUE, RED

MakeCompany = Callable[..., Company]


def row(client: Client, company: str) -> str:
    """Return what the line of a company in the list says, as text."""
    page = client.get(COMPANIES).content.decode()
    line = next(line for line in re.findall(r"<tr>.*?</tr>", page, re.DOTALL) if f">{company}</a>" in line)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", line)).split())


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


def test_running_build_shows_percent_and_time_left(admin_client: Client, acme: Company) -> None:
    running(acme, images_found=200, images_embedded=50, seconds_left=90.0)
    page = admin_client.get(COMPANIES).content.decode()
    assert re.search(r'<progress max="100" value="25"', page)
    assert "25 %, 01:30 left" in text(page)


def test_list_has_the_cells_that_the_script_replaces(admin_client: Client, acme: Company) -> None:
    page = admin_client.get(COMPANIES).content.decode()
    for cell in ("status", "pictures", "last_build", "size"):
        assert f'data-fragment="{acme.pk}-{cell}"' in page
    assert "search/admin.js" in page


def test_list_shows_the_size_on_disk(admin_client: Client, acme: Company) -> None:
    size = storage.size_on_disk(acme.embeddings_directory)
    assert size > 2 * 960 * 4
    cell = f"{size / 1024:.1f} KB"
    assert cell in text(admin_client.get(COMPANIES).content.decode())


def test_damaged_index_is_said_to_be_damaged(admin_client: Client, acme: Company) -> None:
    (acme.embeddings_directory / "index_info.json").write_text("{")
    assert "index damaged index_info.json" in text(admin_client.get(COMPANIES).content.decode())
    assert admin_client.get(url("change", acme)).status_code == 200


def test_files_that_vanish_while_they_are_measured_break_no_page(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(directory: Path) -> int:
        raise FileNotFoundError(directory)

    monkeypatch.setattr(storage, "size_on_disk", vanish)
    assert admin_client.get(COMPANIES).status_code == 200


def test_list_takes_a_fixed_number_of_queries(
    admin_client: Client, db: None, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        IndexBuild.objects.create(company=Company.objects.create(name=f"company-{number}"), status="succeeded")
    with django_assert_max_num_queries(12):
        admin_client.get(COMPANIES)


def test_list_takes_as_many_queries_for_many_companies(admin_client: Client, db: None) -> None:
    def add(count: int) -> None:
        for _ in range(count):
            company = Company.objects.create(name=f"company-{Company.objects.count()}")
            for _ in range(3):
                IndexBuild.objects.create(company=company, status="succeeded")

    def queries() -> int:
        with CaptureQueriesContext(connection) as counted:
            admin_client.get(COMPANIES)
        return len(counted)

    add(2)
    queries()  # warm
    few = queries()
    add(20)
    assert queries() == few


def test_only_the_last_build_of_each_company_is_read(admin_client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    for status in ("failed", "succeeded", "cancelled"):
        IndexBuild.objects.create(company=acme, status=status)
    found = admin_client.get(COMPANIES).context["cl"].result_list[0]
    assert [build.status for build in found.last_builds] == ["cancelled"]


def test_home_page_begins_with_the_companies_and_leaves_out_what_is_the_services_own(
    admin_client: Client, db: None
) -> None:
    page = text(admin_client.get(reverse("admin:index")).content.decode())
    assert page.index("Companies") < page.index("Users and groups")
    assert "Task" not in page


def test_list_and_page_lead_to_the_search_page_of_an_active_company(admin_client: Client, acme: Company) -> None:
    link = f'href="{reverse("search-page", args=["acme"])}"'
    for page in (COMPANIES, url("change", acme)):
        assert link in admin_client.get(page).content.decode()
    Company.objects.update(active=False)
    for page in (COMPANIES, url("change", acme)):
        assert link not in admin_client.get(page).content.decode()


def test_the_number_of_pictures_leads_to_them(admin_client: Client, acme: Company) -> None:
    assert f'href="{url("pictures", acme)}"' in admin_client.get(COMPANIES).content.decode()
