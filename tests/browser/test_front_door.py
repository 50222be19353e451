"""The page at / in a real browser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from tenants.models import Company
from tests.browser.conftest import SignIn
from tests.support.browsing import scrolls_sideways
from tests.support.fakes import BLUE, GREEN, RED


@pytest.fixture(autouse=True)
def company(make_company: Callable[..., Company], settings: Any, tmp_path: Path) -> Company:
    settings.CACHE_DIR = tmp_path / "cache"
    company = make_company("acme", {"red.png": RED, "blue.png": BLUE, "green.png": GREEN, "dark.png": (9, 9, 9)})
    Company.objects.update(public_page=True)
    return company


def pictures_are_shown(page: Page) -> bool:
    page.wait_for_load_state("networkidle")
    widths: list[int] = page.locator(".pictures img").evaluate_all("all => all.map(each => each.naturalWidth)")
    return len(widths) == 4 and all(widths)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1280, "light")])
def test_strangers_and_staff_see_pictures_on_every_screen(page: Page, sign_in: SignIn, width: int, scheme: Any) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto("/")
    assert pictures_are_shown(page)
    assert not scrolls_sideways(page)
    sign_in(User.objects.create_superuser("ann"))
    page.goto("/")
    expect(page.get_by_role("heading", name="Needs attention")).to_be_visible()
    assert pictures_are_shown(page)
    assert not scrolls_sideways(page)


@pytest.mark.slow
def test_the_command_can_be_copied(page: Page, served: str) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == f"curl -F image=@photo.jpg {served}/api/search/acme"


@pytest.mark.slow
def test_the_keyboard_leads_to_the_search_page(page: Page) -> None:
    page.goto("/")
    for _ in range(30):
        page.keyboard.press("Tab")
        focused = page.evaluate("document.activeElement.textContent.trim()")
        if focused == "Try it with acme":
            return
    pytest.fail("the link was not reached")
