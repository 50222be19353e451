"""The API's documentation, as a newcomer tries it in a browser."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tenants.models import Company
from tests.conftest import picture
from tests.support.browsing import scrolls_sideways
from tests.support.fakes import BLUE, RED

MakeCompany = Callable[..., Company]


@pytest.mark.slow
def test_a_newcomer_searches_from_the_documentation_on_a_phone(page: Page, make_company: MakeCompany) -> None:
    make_company("demo", {"red.png": RED, "blue.png": BLUE})
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto("/api/docs/")
    expect(page.get_by_text("under Authorize that is ApiKeyAuth")).to_be_visible()
    first = page.locator(".opblock").first
    expect(first).to_contain_text("Return the company's pictures most similar to the image")
    assert not scrolls_sideways(page)
    first.locator(".opblock-summary-control").click()
    expect(first.get_by_placeholder("company")).to_have_value("demo")
    photo = {"name": "photo.png", "mimeType": "image/png", "buffer": picture(RED).getvalue()}
    first.locator("input[type=file]").set_input_files([photo])  # type: ignore[list-item]
    assert not scrolls_sideways(page)
    first.get_by_role("button", name="Execute").click()
    expect(first.locator(".live-responses-table .response .microlight").first).to_contain_text('"total_results": 2')


def test_the_documentation_leads_back(page: Page, transactional_db: None) -> None:
    page.goto("/api/docs/")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator(".opblock").first).to_be_visible()
    page.get_by_role("link", name="Start page").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Find the pictures")
