"""What the script of the admin's pages asks for while something runs."""

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from search.admin import overview
from tenants.models import Company, IndexBuild, LiveChange
from tests.conftest import Colleague, paint
from tests.support.admin import fragments, running, url
from tests.support.fakes import GREEN


def test_list_tells_the_script_what_runs(admin_client: Client, acme: Company) -> None:
    globex = Company.objects.create(name="globex")
    build = running(acme, images_found=4, images_embedded=1)
    page = reverse("admin:tenants_company_live_list") + f"?id={acme.pk}&id={globex.pk}"
    answer = admin_client.get(page).json()
    assert answer["active"] == [acme.pk]
    assert answer["states"] == {str(acme.pk): "acme: running", str(globex.pk): "globex: no index yet"}
    assert "25 %" in answer["fragments"][f"{acme.pk}-status"]
    build.cancel()
    answer = admin_client.get(page).json()
    assert answer["active"] == []
    assert "cancelled" in answer["fragments"][f"{acme.pk}-status"]


def test_list_answers_for_nonsense_ids(admin_client: Client, db: None) -> None:
    answer = admin_client.get(reverse("admin:tenants_company_live_list") + "?id=x&id=-1&id=99999&id=" + "9" * 30).json()
    assert answer == {"active": [], "states": {}, "fragments": {}}


def test_pages_hold_what_their_script_shows_when_it_gets_no_answer(admin_client: Client, acme: Company) -> None:
    """The script shows one of these, which are hidden, and polls on after "lost" alone."""
    for page in (reverse("admin:tenants_company_changelist") + "?q=acme", url("change", acme)):
        html = admin_client.get(page).content.decode()
        assert re.findall(r'<p class="notice" data-contact="(\w+)" hidden>', html) == ["lost", "refused", "gone"]
        (login,) = re.findall(r'<a href="([^"]+)">Log in again</a>', html)
        admin_client.logout()
        again = admin_client.get(login)
        assert again.context["next"] == page
        admin_client.force_login(User.objects.get(username="ann"))


@pytest.mark.parametrize("polled", ["one", "list"])
def test_the_script_can_tell_why_it_gets_no_answer(
    admin_client: Client, colleague: Colleague, acme: Company, polled: str
) -> None:
    page = url("live", acme) if polled == "one" else reverse("admin:tenants_company_live_list") + f"?id={acme.pk}"
    json = {"Accept": "application/json"}
    assert admin_client.get(page, headers=json)["Content-Type"] == "application/json"
    assert colleague().get(page, headers=json).status_code == 403
    logged_out = Client().get(page, headers=json)
    assert (logged_out.status_code, logged_out["Location"].startswith("/admin/login/")) == (302, True)
    acme.delete()
    gone = admin_client.get(page, headers=json)
    if polled == "one":
        assert gone.status_code == 404
    else:
        assert gone.json()["active"] == []


def test_build_that_waits_asks_for_a_worker(admin_client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    build = acme.queue_build()
    assert "worker" not in fragments(admin_client, url("live", acme))["overview"]
    IndexBuild.objects.filter(pk=build.pk).update(queued_at=timezone.now() - timedelta(minutes=5))
    assert "is build_worker running?" in fragments(admin_client, url("live", acme))["overview"]


def test_build_without_heartbeat_says_so(admin_client: Client, acme: Company) -> None:
    build = running(acme)
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))
    assert "its worker does not respond" in fragments(admin_client, url("live", acme))["overview"]


def test_live_changes_are_counted(admin_client: Client, acme: Company) -> None:
    LiveChange.objects.create(company=acme, sequence=1, path="c.png", image_id="x")
    assert "plus 1 live change since" in fragments(admin_client, url("live", acme))["overview"]


def test_page_shows_the_pictures_found_on_disk(admin_client: Client, acme: Company) -> None:
    paint(acme.image_directory / "deep/c.png", GREEN)
    assert url("found", acme) in admin_client.get(url("change", acme)).content.decode()
    assert admin_client.get(url("found", acme)).json() == {"text": "3 pictures found"}


def test_counting_ends_at_a_limit(admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "COUNT_LIMIT", 2)
    paint(acme.image_directory / "c.png", GREEN)
    assert admin_client.get(url("found", acme)).json() == {"text": "more than 2 pictures found"}


def test_counting_a_missing_folder_says_so(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    assert "does not exist yet" in admin_client.get(url("found", company)).json()["text"]


def test_counting_stays_in_the_allowed_folders(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex", image_folder="/etc")
    assert "outside the allowed folders" in admin_client.get(url("found", company)).json()["text"]
