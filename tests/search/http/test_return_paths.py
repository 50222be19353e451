from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client

from tenants.models import Company
from tests.support.admin import url

pytestmark = pytest.mark.django_db


def after_login(client: Client, action: str, referer: str) -> str:
    """Return where the login leads that a form without a session is sent to."""
    location = urlsplit(client.post(action, headers={"Referer": referer})["Location"])
    assert location.path == "/admin/login/"
    return parse_qs(location.query)["next"][0]


def test_login_leads_back_to_the_page_of_the_form(client: Client) -> None:
    acme = Company.objects.create(name="acme")
    page = f"{url('pictures', acme)}?folder=Warm"
    assert after_login(client, url("delete_pictures", acme), f"http://testserver{page}") == page


@pytest.mark.parametrize("referer", ["", "http://elsewhere.example/admin/", "http://testserver.evil.example/"])
def test_login_leads_to_no_other_server(client: Client, referer: str) -> None:
    action = url("reindex", Company.objects.create(name="acme"))
    assert after_login(client, action, referer) == action
