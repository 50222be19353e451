"""What people read where a page is not there, not theirs, or fails: words, and a way back."""

import pytest
from django.contrib.auth.models import User
from django.test import Client, RequestFactory

from search.http.errors import server_error
from tests.support.admin import text

pytestmark = pytest.mark.django_db


def test_staff_without_the_permission_read_whom_to_ask(client: Client) -> None:
    client.force_login(User.objects.create_user("ann", is_staff=True))
    answer = client.get("/admin/tenants/company/add/")
    assert answer.status_code == 403
    assert "Ask an administrator" in text(answer.content.decode())
    assert 'href="/"' in answer.content.decode()


def test_form_of_a_page_that_was_open_for_too_long_says_what_to_do() -> None:
    answer = Client(enforce_csrf_checks=True).post("/admin/login/", {"username": "ann", "password": "x"})
    assert answer.status_code == 403
    assert "load the page again" in text(answer.content.decode())


def test_page_that_is_not_there_is_escaped(client: Client) -> None:
    answer = client.get("/<b>nowhere/")
    assert answer.status_code == 404
    assert "There is no page /&lt;b&gt;nowhere/" in answer.content.decode()


def test_page_that_fails_says_what_to_do(rf: RequestFactory) -> None:
    answer = server_error(rf.get("/"))
    assert answer.status_code == 500
    assert "Try again in a moment" in text(answer.content.decode())
