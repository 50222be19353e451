"""The searches of the last thirty days on a company's page."""

import re
from datetime import timedelta

from django.test import Client

from tenants.models import Company, DailySearches
from tenants.models.searches import today
from tests.support.admin import text, url


def searched(company: Company, *, days_ago: int = 0, channel: str = "api", **sums: float) -> None:
    DailySearches.objects.create(company=company, day=today() - timedelta(days=days_ago), channel=channel, **sums)


def section(client: Client, company: Company) -> str:
    page = client.get(url("change", company)).content.decode()
    found = re.search(r"<section><h2>Searches</h2>(.*?)</section>", page, re.DOTALL)
    assert found
    return found[1]


def heights(html: str, kind: str) -> list[float]:
    return [float(height) for height in re.findall(rf'class="is-{kind}"[^>]* height="([0-9.]+)"', html)]


def test_each_day_is_a_bar_as_high_as_it_has_searches(admin_client: Client, acme: Company) -> None:
    searched(acme, searches=10)
    searched(acme, searches=4, without_result=1, errors=1, refused=2, days_ago=29)
    searched(acme, searches=1000, days_ago=30)
    html = section(admin_client, acme)
    assert html.count("<g>") == 30
    assert heights(html, "found") == [30.0, 100.0]
    assert (heights(html, "nothing"), heights(html, "failed")) == ([10.0], [30.0])


def test_bars_have_a_title_and_a_table_for_those_who_do_not_see_them(admin_client: Client, acme: Company) -> None:
    searched(acme, searches=1234, seconds=61.7, within_50ms=1234, scores=617.0)
    html = section(admin_client, acme)
    assert 'role="img" aria-labelledby="usage-title usage-description"' in html
    assert "1,234 searches on the last 30 days" in html
    newest = text(html.partition("<tbody>")[2].partition("</tr>")[0])
    assert newest == f"{today()} 1,234 0 0 0 50 50 0.50"
    assert "style=" not in html


def test_without_a_search_there_are_no_bars(admin_client: Client, acme: Company) -> None:
    assert text(section(admin_client, acme)) == "No searches on the last 30 days."


def test_refused_searches_alone_are_shown(admin_client: Client, acme: Company) -> None:
    searched(acme, refused=3)
    html = section(admin_client, acme)
    assert heights(html, "failed") == [100.0]
    assert "Best score, on average -" in text(html)


def test_another_companys_searches_are_not_shown(admin_client: Client, acme: Company) -> None:
    searched(Company.objects.create(name="globex"), searches=5)
    assert "No searches" in section(admin_client, acme)
