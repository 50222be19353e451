"""The admin's pages as people see them, on a laptop and on a phone."""

from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.urls import reverse
from playwright.sync_api import Dialog, Page, expect

from search import runtime
from search.engine.model.passport import ModelPassport
from search.tasks import carry_out_build
from tenants.audit import Actor, Channel
from tenants.models import Company
from tests.browser.conftest import SignIn
from tests.conftest import picture
from tests.support.admin import BUILDS, COMPANIES, url
from tests.support.browsing import scrolls_sideways
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]

KEYS, AUDIT = reverse("admin:tenants_apikey_changelist"), reverse("admin:tenants_auditevent_changelist")
MODEL = reverse("admin:tenants_company_model")
TABLE_IS_CUT_OFF = "document.querySelector('.results').scrollWidth > document.querySelector('.results').clientWidth"


@pytest.fixture
def acme(make_company: MakeCompany, sign_in: SignIn) -> Company:
    """A company of which every list has something to say, and a superuser who looks."""
    boss = User.objects.create_superuser("boss")
    by = Actor("boss", Channel.ADMIN, boss)
    acme = make_company("acme-of-north-east", {"a.png": RED, "b.png": BLUE})
    (acme.image_directory / "broken.png").write_bytes(b"no picture")
    acme.issue_key("Import of the warehouse management system", can_write=True, by=by)
    build = acme.queue_build(by=by)
    build.start()
    build.fail("The image folder cannot be read: No such file or directory")
    sign_in(boss)
    return acme


@pytest.mark.slow
def test_no_column_of_a_list_is_cut_off_on_a_laptop(page: Page, acme: Company) -> None:
    cut_off = []
    for page_url in (COMPANIES, BUILDS, KEYS, AUDIT):
        page.goto(page_url)
        expect(page.locator("#result_list tbody tr").first).to_be_visible()
        cut_off += [page_url] if page.evaluate(TABLE_IS_CUT_OFF) else []
    assert cut_off == []


@pytest.mark.slow
def test_a_row_of_a_list_is_a_card_of_named_values_on_a_phone(page: Page, acme: Company) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(BUILDS)
    assert not page.evaluate(TABLE_IS_CUT_OFF)
    found = page.locator("#result_list .field-images_found").last
    assert found.evaluate("cell => getComputedStyle(cell, '::before').content") == '"Found"'
    expect(found).to_have_text("2")


@pytest.mark.slow
def test_a_list_is_filtered_from_a_menu_above_it(page: Page, acme: Company) -> None:
    page.goto(BUILDS)
    page.get_by_text("Status: All").click()
    page.get_by_role("link", name="Failed").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    expect(page.get_by_text("Status: Failed")).to_be_visible()
    page.get_by_role("link", name="Clear filters").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(2)


def test_reindexing_says_first_which_unsaved_settings_it_loses(page: Page, acme: Company) -> None:
    asked: list[str] = []

    def answer(dialog: Dialog) -> None:
        asked.append(dialog.message)
        (dialog.dismiss if len(asked) == 1 else dialog.accept)()

    page.on("dialog", answer)
    page.goto(url("change", acme))
    page.get_by_label("Notes").fill("calls on Mondays")
    page.get_by_label("Daily quota").fill("700")
    page.get_by_role("button", name="Reindex changed").click()
    expect(page.get_by_label("Notes")).to_have_value("calls on Mondays")
    assert asked == ["Not saved yet, and lost if you go on: Daily quota, Notes. Go on?"]
    page.get_by_role("button", name="Reindex changed").click()
    expect(page.get_by_text("is queued: changed pictures only")).to_be_visible()
    page.get_by_label("Notes").fill("calls on Tuesdays")
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(f"**{COMPANIES}")
    assert (len(asked), Company.objects.get().notes) == (2, "calls on Tuesdays")


@pytest.mark.slow
def test_an_upload_keeps_unsaved_settings(page: Page, acme: Company) -> None:
    page.goto(url("change", acme))
    page.get_by_label("Notes").fill("calls on Mondays")
    photo = {"name": "c.png", "mimeType": "image/png", "buffer": picture(GREEN).getvalue()}
    page.locator("#upload-files").set_input_files([photo])  # type: ignore[list-item]
    page.get_by_role("button", name="Upload").click()
    expect(page.locator(".upload-outcome")).to_contain_text("1 picture stored")
    expect(page.get_by_label("Notes")).to_have_value("calls on Mondays")


@pytest.mark.slow
def test_a_company_that_is_rebuilt_with_a_new_model_is_followed_without_a_reload(
    page: Page, acme: Company, embedder: FakeEmbedder
) -> None:
    new = FakeEmbedder()
    new.passport = ModelPassport("new-weights", "e" * 64)
    runtime.use(new)
    runtime.use_also(embedder)
    page.goto(MODEL)
    row = page.locator("#result_list tbody tr")
    expect(row).to_contain_text("another model")
    row.get_by_role("button", name="Rebuild with the new model").click()
    page.get_by_role("button", name="Rebuild with the new model").click()
    expect(row).to_contain_text("queued")
    page.evaluate("window.isAsItWas = true")
    carry_out_build.func(acme.builds.active().get().pk)
    expect(row).to_contain_text("new-weights")
    expect(row).to_contain_text("up to date")
    expect(page.get_by_text("1 of 1")).to_be_visible()
    assert page.evaluate("window.isAsItWas")


@pytest.mark.slow
def test_no_page_scrolls_sideways_on_a_phone(page: Page, acme: Company) -> None:
    build, key = acme.builds.first(), acme.api_keys.first()
    pages = [
        reverse("admin:index"),
        COMPANIES,
        BUILDS,
        KEYS,
        AUDIT,
        reverse("admin:tenants_company_add"),
        url("change", acme),
        url("delete", acme),
        MODEL,
        reverse("admin:tenants_indexbuild_change", args=[build.pk]),
        reverse("admin:tenants_apikey_change", args=[key.pk]),
        reverse("admin:tenants_apikey_add"),
    ]
    page.set_viewport_size({"width": 400, "height": 800})
    wide = []
    for page_url in pages:
        page.goto(page_url)
        wide += [page_url] if scrolls_sideways(page) else []
    assert wide == []
