from django.contrib.auth.models import User
from playwright.sync_api import Page, expect

from tests.browser.conftest import SignIn


def test_staff_see_their_name_after_signing_in(page: Page):
    User.objects.create_superuser("ann", password="correct horse")
    page.goto("/admin/")
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Welcome")).to_contain_text("ann", ignore_case=True)


def test_session_of_a_test_is_the_browsers(page: Page, sign_in: SignIn):
    sign_in(User.objects.create_superuser("ann"))
    page.goto("/admin/")
    expect(page.get_by_text("Welcome")).to_be_visible()
