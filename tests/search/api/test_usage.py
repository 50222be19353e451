"""GET /api/usage/<company>: how a company was searched, and who may know."""

from base64 import b64encode
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from tenants.models import Company, DailySearches
from tenants.models.searches import today


@pytest.fixture
def acme(db: None) -> Company:
    return Company.objects.create(name="acme")


def searched(company: Company, *, days_ago: int = 0, key_prefix: str = "", channel: str = "api", **sums: float) -> None:
    day = today() - timedelta(days=days_ago)
    DailySearches.objects.create(company=company, day=day, channel=channel, key_prefix=key_prefix, **sums)


def usage(key: str, company: str = "acme", **parameters: Any) -> Any:
    return Client().get(f"/api/usage/{company}", parameters, headers={"X-API-Key": key})


def key_of(company: Company) -> str:
    return company.issue_key("Shop")[1]


def as_staff(*codenames: str) -> dict[str, str]:
    """Return the headers of a staff user with these permissions."""
    user = User.objects.create_user("ann", password="correct horse", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    return {"Authorization": f"Basic {b64encode(b'ann:correct horse').decode()}"}


def test_each_of_the_last_thirty_days_is_told_oldest_first(acme: Company) -> None:
    searched(acme, searches=2)
    searched(acme, searches=3, days_ago=29)
    searched(acme, searches=5, days_ago=30)
    days = usage(key_of(acme)).json()["days"]
    assert [day["searches"] for day in days] == [3] + 28 * [0] + [2]
    assert days[-1]["day"] == today().isoformat()


def test_a_day_adds_up_channels_and_keys(acme: Company) -> None:
    searched(acme, searches=2, without_result=1, refused=4)
    searched(acme, searches=3, errors=1, channel="page")
    body = usage(key_of(acme), days=1).json()
    assert {name: body["total"][name] for name in ("searches", "without_result", "errors", "refused")} == {
        "searches": 5,
        "without_result": 1,
        "errors": 1,
        "refused": 4,
    }
    assert [(entry["channel"], entry["searches"]) for entry in body["channels"]] == [("api", 2), ("page", 3)]


def test_times_and_scores_are_means_over_the_searches(acme: Company) -> None:
    searched(acme, searches=20, without_result=10, seconds=2.0, scores=8.0, within_50ms=19, within_1000ms=1)
    total = usage(key_of(acme)).json()["total"]
    assert (total["mean_ms"], total["p95_ms"], total["mean_best_score"]) == (100.0, 50, 0.8)


def test_where_more_than_a_twentieth_took_longer_than_is_counted_there_is_no_p95(acme: Company) -> None:
    searched(acme, searches=10, seconds=60.0, within_50ms=9)
    assert usage(key_of(acme)).json()["total"]["p95_ms"] is None


def test_without_searches_there_are_no_means(acme: Company) -> None:
    total = usage(key_of(acme)).json()["total"]
    assert [total[name] for name in ("searches", "mean_ms", "p95_ms", "mean_best_score")] == [0, None, None, None]


@pytest.mark.parametrize("days", ["0", "401", "-1", "many", "", "9" * 2000])
def test_days_that_are_not_kept_are_a_400(acme: Company, days: str) -> None:
    answer = usage(key_of(acme), days=days)
    assert (answer.status_code, answer.json()["code"]) == (400, "days_invalid")
    assert answer.json()["error"] == "days must be a whole number from 1 to 400"


def test_the_holder_of_a_key_sees_the_whole_company_and_of_the_keys_that_one(acme: Company) -> None:
    (mine, text), (other, _) = acme.issue_key("Mine"), acme.issue_key("Other")
    for prefix in ("", mine.prefix, other.prefix):
        searched(acme, searches=1, key_prefix=prefix)
    body = usage(text).json()
    assert body["total"]["searches"] == 3
    assert [(entry["prefix"], entry["name"]) for entry in body["keys"]] == [(mine.prefix, "Mine")]


def test_staff_who_may_view_companies_see_each_key(acme: Company) -> None:
    key, _ = acme.issue_key("Shop")
    for prefix in ("", key.prefix):
        searched(acme, searches=1, key_prefix=prefix)
    body = Client().get("/api/usage/acme", headers=as_staff("view_company")).json()
    assert [(entry["prefix"], entry["name"]) for entry in body["keys"]] == [("", ""), (key.prefix, "Shop")]


def test_a_key_sees_nothing_of_another_company(acme: Company) -> None:
    globex = Company.objects.create(name="globex")
    searched(globex, searches=1)
    assert usage(key_of(acme), "globex").json()["code"] == "company_not_found"
    assert usage(key_of(acme)).json()["total"]["searches"] == 0


def test_strangers_see_nothing_with_keys_off_as_well(acme: Company) -> None:
    assert Client().get("/api/usage/acme").status_code == 401


def test_staff_without_the_permission_see_nothing(acme: Company) -> None:
    assert Client().get("/api/usage/acme", headers=as_staff()).status_code == 403
