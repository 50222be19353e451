"""Who may see and do what on the admin's pages of companies."""

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from tenants.models import Company
from tests.conftest import Colleague, picture
from tests.support.admin import BUILDS, CHANGE, COMPANIES, REINDEX, VIEW, reindex, url
from tests.support.fakes import RED

PAGES = ["reindex", "cancel", "roll_back", "upload"]


def test_strangers_see_nothing(client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    for page in (COMPANIES, BUILDS):
        assert client.get(page).status_code == 302
    reindex(client, acme)
    assert not acme.builds.exists()


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


def test_actions_are_offered_to_those_who_may(colleague: Colleague, acme: Company) -> None:
    assert "Rebuild everything" in colleague(VIEW, REINDEX).get(COMPANIES).content.decode()
    assert "Rebuild everything" not in colleague(VIEW, CHANGE).get(COMPANIES).content.decode()


@pytest.mark.parametrize(
    ("permissions", "reindex", "upload_form", "save"),
    [
        ((VIEW,), False, False, False),
        ((VIEW, REINDEX), True, False, False),
        ((VIEW, CHANGE), False, True, True),
        ((VIEW, CHANGE, REINDEX), True, True, True),
    ],
)
def test_buttons_are_shown_to_those_who_may(
    colleague: Colleague,
    two_generations: Company,
    permissions: tuple[str, ...],
    reindex: bool,
    upload_form: bool,
    save: bool,
) -> None:
    page = colleague(*permissions).get(url("change", two_generations)).content.decode()
    assert ("Reindex changed" in page) is reindex
    assert ("Rebuild all" in page) is reindex
    assert ("Roll back</button>" in page) is reindex
    assert ('type="file"' in page) is upload_form
    assert ('name="_save"' in page) is save


@pytest.mark.parametrize("page", ["reindex", "cancel", "roll_back", "upload"])
def test_what_changes_something_is_posted_with_a_token(acme: Company, page: str) -> None:
    user = User.objects.create_superuser("admin")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get(url(page, acme)).status_code == 405
    assert client.post(url(page, acme), {"files": picture(RED)}).status_code == 403
    assert not acme.builds.active().exists()


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ((), set()),
        ((VIEW,), set()),
        ((VIEW, CHANGE), {"upload"}),
        ((CHANGE,), {"upload"}),
        ((VIEW, REINDEX), {"reindex", "cancel", "roll_back"}),
        ((REINDEX,), set()),
        ((VIEW, CHANGE, REINDEX), {*PAGES}),
        (("view_indexbuild",), set()),
    ],
)
def test_each_post_needs_its_permission(
    colleague: Colleague, acme: Company, permissions: tuple[str, ...], allowed: set[str]
) -> None:
    client = colleague(*permissions)
    answers = {page: client.post(url(page, acme)).status_code for page in PAGES}
    assert answers == {page: 302 if page in allowed else 403 for page in PAGES}


@pytest.mark.parametrize("page", ["live", "found"])
def test_what_the_script_asks_needs_the_right_to_view(colleague: Colleague, acme: Company, page: str) -> None:
    assert colleague(REINDEX).get(url(page, acme)).status_code == 403
    assert colleague(VIEW).get(url(page, acme)).status_code == 200
    assert Client().get(url(page, acme)).status_code == 302


def test_the_list_of_what_runs_needs_the_right_to_view(colleague: Colleague, acme: Company) -> None:
    page = reverse("admin:tenants_company_live_list")
    assert colleague(REINDEX).get(page).status_code == 403
    assert colleague(VIEW).get(page).status_code == 200
    assert Client().get(page).status_code == 302


@pytest.mark.parametrize("page", [*PAGES, "live", "found", "change", "delete"])
def test_unknown_company_breaks_nothing(admin_client: Client, db: None, page: str) -> None:
    address = reverse(f"admin:tenants_company_{page}", args=[4711])
    method = admin_client.post if page in PAGES else admin_client.get
    assert method(address).status_code in (302, 404)
