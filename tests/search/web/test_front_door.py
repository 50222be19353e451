"""The page at /, for strangers and for staff."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from search.http.signed_urls import PARAMETER
from tenants.models import Company, Confinement, DailySearches
from tenants.models.searches import today
from tests.conftest import Colleague
from tests.support.admin import text
from tests.support.fakes import BLUE, GREEN, RED

MakeCompany = Callable[..., Company]

PICTURES = {"red.png": RED, "Cold/blue.png": BLUE, "Cold/green.png": GREEN}


@pytest.fixture(autouse=True)
def cache(settings: Any, tmp_path: Path) -> None:
    settings.CACHE_DIR = tmp_path / "cache"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", PICTURES)


@pytest.fixture
def globex(make_company: MakeCompany) -> Company:
    return make_company("globex", {"a.png": RED})


def page(client: Client, query: str = "") -> str:
    response = client.get(f"/{query}")
    assert response.status_code == 200
    return response.content.decode()


def cards(html: str) -> list[str]:
    """Return what each company's card says."""
    return [text(card) for card in re.findall(r'<li class="card.*?</li>', html, re.DOTALL)]


def thumbnails(html: str) -> list[str]:
    return [unescape(url) for url in re.findall(r'<img src="([^"]+)"', html) if PARAMETER in url]


# Strangers ----------------------------------------------------------------------------------------------------------


def test_strangers_learn_what_this_is_and_where_to_go(client: Client, db: None) -> None:
    html = page(client)
    assert "<h1>" in html
    for way in ("/admin/login/?next=/", "/api/docs/"):
        assert f'href="{way}"' in html
    assert "/api/search/YOUR-COMPANY" in text(html)
    assert "X-API-Key" in text(html)


def test_strangers_see_the_names_of_public_companies_alone(
    client: Client, acme: Company, globex: Company, make_company: MakeCompany
) -> None:
    make_company("initech", {"a.png": RED})
    Company.objects.create(name="hollow", public_page=True)  # without an index
    Company.objects.filter(name__in=["globex", "initech"]).update(public_page=True)
    Company.objects.filter(name="initech").update(active=False)
    html = page(client)
    assert [card.split()[0] for card in cards(html)] == ["globex"]
    for hidden in ("acme", "initech", "hollow"):
        assert hidden not in html
    assert 'href="/search/globex/"' in html


def test_strangers_see_pictures_of_a_public_company(client: Client, acme: Company) -> None:
    Company.objects.update(public_page=True)
    urls = thumbnails(page(client))
    assert len(urls) == 3
    assert {client.get(url).status_code for url in urls} == {200}


@pytest.mark.parametrize(
    ("required", "own_key", "works"),
    [("off", False, True), ("off", True, False), ("required", False, False)],
)
def test_the_command_works_as_it_stands_where_no_key_is_needed(
    client: Client, acme: Company, settings: Any, required: str, own_key: bool, works: bool
) -> None:
    Company.objects.update(public_page=True, requires_api_key=own_key)
    settings.API_KEYS = required
    (command,) = re.findall(r"<code>(.*?)</code>", page(client))
    assert unescape(command).endswith("http://testserver/api/search/" + ("acme" if works else "YOUR-COMPANY"))
    assert ("YOUR-KEY" in command) is not works


# Staff --------------------------------------------------------------------------------------------------------------


def test_staff_see_first_what_needs_attention(client: Client, admin_client: Client, acme: Company) -> None:
    build = acme.queue_build()
    assert build.start()
    build.fail("The disk is full")
    html = page(admin_client)
    assert html.index("Needs attention") < html.index("The disk is full") < html.index('id="companies"')
    assert f'href="/admin/tenants/indexbuild/{build.pk}/change/"' in html


def test_staff_see_how_their_companies_are(admin_client: Client, acme: Company, globex: Company) -> None:
    Company.objects.create(name="hollow")
    Company.objects.filter(pk=globex.pk).update(active=False)
    DailySearches.objects.create(company=acme, day=today(), channel="api", searches=1)
    DailySearches.objects.create(company=acme, day=today(), channel="page", searches=2)
    html = page(admin_client)
    said = {card.split()[0]: card for card in cards(html)}
    assert list(said) == ["acme", "globex", "hollow"]
    assert re.search(r"acme ready Pictures 3 Last build .+ UTC Searches today 3 Search", said["acme"])
    assert "inactive" in said["globex"]
    assert "no index yet" in said["hollow"]
    urls = thumbnails(html)
    assert len(urls) == 3
    assert {Client().get(url).status_code for url in urls} == {200}
    assert f'href="/admin/tenants/company/{globex.pk}/change/"' in html


def test_a_running_build_and_a_failed_one_are_told(admin_client: Client, acme: Company) -> None:
    build = acme.queue_build()
    assert "waiting to be built" in cards(page(admin_client))[0]
    assert build.start()
    assert "building, 0 %" in cards(page(admin_client))[0]
    build.fail("The disk is full")
    assert "last build failed" in cards(page(admin_client))[0]


def test_a_damaged_index_spoils_no_other_companys_card(admin_client: Client, acme: Company, globex: Company) -> None:
    for file in acme.embeddings_directory.glob("*.json"):
        file.write_bytes(b"{")
    said = cards(page(admin_client))
    assert "index damaged" in said[0]
    assert "globex ready" in said[1]


def test_staff_see_no_company_that_they_may_not_view(colleague: Colleague, acme: Company, globex: Company) -> None:
    html = page(colleague("change_company"))
    assert cards(html) == []
    assert "There is no company that you may view" in text(html)
    assert "in order" not in text(html)  # which this visitor cannot know
    confined = colleague("view_company", "add_company")
    user = confined.session["_auth_user_id"]
    Confinement.objects.create(user_id=user).companies.add(globex)
    html = page(confined)
    assert [card.split()[0] for card in cards(html)] == ["globex"]
    assert "acme" not in html
    assert ("Add a company" in html, "Add a company" in page(colleague("add_company"))) == (False, True)


def test_many_companies_have_pages(admin_client: Client, db: None) -> None:
    for number in range(30):
        Company.objects.create(name=f"company-{number:02}")
    first, second = cards(page(admin_client)), cards(page(admin_client, "?page=2"))
    assert [len(first), len(second)] == [24, 6]
    assert cards(page(admin_client, "?page=many")) == first
    assert "company-29" in second[-1]


def test_no_cache_keeps_the_page(client: Client, db: None) -> None:
    assert "no-store" in client.get("/")["Cache-Control"]
    assert client.post("/").status_code == 405
