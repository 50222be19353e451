"""A real browser before a server of this process: pages are seen here as people see them."""

import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.support.browsing import Watch
from tests.support.waiting import eventually

SignIn = Callable[[User], None]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's own Chromium, one for the tests of a file; its absence fails them."""
    path = shutil.which("chromium-headless-shell")
    assert path, "apt-get install chromium-headless-shell"
    # Playwright runs an event loop in this thread, where Django would refuse the tests' own queries.
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def served(live_server: Any) -> Iterator[str]:
    """The address of a server that shares the test's database and directories."""
    yield live_server.url
    # The browser is gone; what it asked for last may still read the tables that are emptied next.
    eventually(lambda: not any("process_request" in each.name for each in threading.enumerate()), "the server rests")


@pytest.fixture
def context(chromium: Browser, served: str) -> Iterator[BrowserContext]:
    """A browser's window without a past; paths such as /search/acme/ are of the server."""
    context = chromium.new_context(base_url=served, viewport={"width": 1280, "height": 900})
    context.set_default_timeout(10_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, served: str) -> Iterator[Page]:
    """A page; the test fails if it logs an error or asks another server for anything."""
    page = context.new_page()
    watch = Watch(page, served)
    yield page
    assert not watch.complaints


@pytest.fixture
def sign_in(context: BrowserContext, served: str) -> SignIn:
    """Return what makes a user the one who looks: sign_in(user)."""

    def sign_in(user: User) -> None:
        client = Client()
        client.force_login(user)
        context.add_cookies([{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": served}])

    return sign_in
