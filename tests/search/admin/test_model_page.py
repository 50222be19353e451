"""The admin's page of models: who stands where, and having companies rebuilt, switched and taken back."""

import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from search import runtime
from search.engine.model.passport import ModelPassport
from search.tasks import carry_out_build
from tenants.models import AuditEvent, Company, Confinement, IndexBuild
from tests.conftest import Colleague
from tests.support.admin import REINDEX, VIEW, logged, messages, running, text, url
from tests.support.fakes import BLUE, RED, FakeEmbedder

PAGE, LIVE = (reverse(f"admin:tenants_company_{name}") for name in ("model", "model_live"))
NEW = ModelPassport("new-weights", "e" * 64)


def for_all(action: str) -> str:
    return reverse(f"admin:tenants_company_model_{action}")


def for_one(action: str, company: Company) -> str:
    return url(f"model_{action}_one", company)


@pytest.fixture
def new_model(acme: Company, embedder: FakeEmbedder) -> FakeEmbedder:
    """Another model is configured than the one that made the index of acme, which is at hand."""
    new = FakeEmbedder()
    new.passport = NEW
    runtime.use(new)
    runtime.use_also(embedder)
    return new


@pytest.fixture
def by_hand(settings: Any) -> None:
    settings.MODEL_SWITCH = "manual"


def carry_out_all() -> None:
    for build in IndexBuild.objects.active():
        carry_out_build.func(build.pk)


def confirm(client: Client, page: str) -> Any:
    """Press a button, then the one of the page that asks; return what that leads to."""
    asked = client.post(page)
    assert asked.status_code == 200, messages(client.get(PAGE))
    form = dict(re.findall(r'name="(companies|confirmed)" value="([^"]*)"', asked.content.decode()))
    return client.post(page, form, follow=True)


def row(client: Client, company: str) -> str:
    page = client.get(PAGE).content.decode()
    lines = re.findall(r"<tr>.*?</tr>", page, re.DOTALL)
    return text(next(line for line in lines if f">{company}</a>" in line))


def weights_of(company: Company) -> str:
    weights: str = Client().get(f"/api/stats/{company}").json()["stats"]["index_info"]["weights"]
    return weights


def test_a_company_of_the_configured_model_is_up_to_date_and_there_is_nothing_to_do(
    admin_client: Client, acme: Company
) -> None:
    Company.objects.create(name="newcomer")
    page = admin_client.get(PAGE).content.decode()
    assert row(admin_client, "acme").startswith("acme fake-weights ffffffffffff up to date")
    assert "no index yet" in row(admin_client, "newcomer")
    assert "Companies that use it 1 of 1" in text(page)
    assert "<button" not in page.split('id="content"')[1]


def test_a_company_of_another_model_is_rebuilt_in_the_background_and_moves_by_itself(
    admin_client: Client, acme: Company, new_model: FakeEmbedder
) -> None:
    assert "another model" in row(admin_client, "acme")
    asked = text(admin_client.post(for_all("rebuild")).content.decode())
    assert "Rebuild with the new model: acme?" in asked
    assert "then they use it" in asked
    assert not acme.builds.active().exists()
    told = confirm(admin_client, for_all("rebuild"))
    build = acme.builds.active().get()
    assert messages(told) == f"Build {build.pk} of acme is queued: it makes an index with the new model."
    assert build.requested_by == User.objects.get(username="ann")
    assert "queued" in row(admin_client, "acme")
    carry_out_all()
    assert "up to date" in row(admin_client, "acme")
    assert weights_of(acme) == "new-weights"


def test_only_companies_that_were_shown_are_changed(
    admin_client: Client, acme: Company, new_model: FakeEmbedder, make_company: Any, embedder: FakeEmbedder
) -> None:
    runtime.use(embedder)
    globex = make_company("globex", {"a.png": RED})
    runtime.use(new_model)
    form = {"confirmed": "1", "companies": str(acme.pk)}
    admin_client.post(for_all("rebuild"), form)
    assert (acme.builds.active().count(), globex.builds.active().count()) == (1, 0)


@pytest.mark.parametrize("companies", ["", "x", "-1,,99999999999999999999999", "0"])
def test_nonsense_changes_nothing(admin_client: Client, acme: Company, new_model: FakeEmbedder, companies: str) -> None:
    told = admin_client.post(for_all("rebuild"), {"confirmed": "1", "companies": companies}, follow=True)
    assert messages(told) == "Rebuild with the new model: there is nothing to do any more."
    assert not IndexBuild.objects.active().exists()


def test_what_was_done_meanwhile_is_not_done_again(admin_client: Client, acme: Company) -> None:
    for action in ("rebuild", "use", "back"):
        told = admin_client.post(for_one(action, acme), {"confirmed": "1"}, follow=True)
        assert "there is nothing to do any more." in messages(told)
    assert not acme.builds.active().exists()


def test_weights_that_are_missing_are_named(admin_client: Client, acme: Company, new_model: FakeEmbedder) -> None:
    runtime.reset()
    runtime.use(new_model)
    for page in (PAGE, url("change", acme)):
        assert "fake-weights (ffffffffffff), which are not on this machine" in text(
            admin_client.get(page).content.decode()
        )
    assert "Rebuild with the new model" in row(admin_client, "acme")


def test_the_script_is_told_how_the_rows_stand(admin_client: Client, acme: Company, new_model: FakeEmbedder) -> None:
    running(acme, images_found=4, images_embedded=1)
    answer = admin_client.get(f"{LIVE}?id={acme.pk}&id=x&id=99").json()
    assert answer["active"] == [acme.pk]
    assert answer["states"] == {str(acme.pk): "acme: running"}
    assert "25 %" in answer["fragments"][f"{acme.pk}-state"]
    assert "summary" not in answer["fragments"]  # of all companies: it changes when a build ends
    acme.builds.active().get().cancel()
    answer = admin_client.get(f"{LIVE}?id={acme.pk}").json()
    assert "Configured model new-weights" in text(answer["fragments"]["summary"])


def test_a_company_that_is_built_now_is_not_asked_for_again(
    admin_client: Client, acme: Company, new_model: FakeEmbedder
) -> None:
    running(acme)
    assert "Rebuild" not in text(admin_client.get(PAGE).content.decode())
    told = admin_client.post(for_all("rebuild"), follow=True)
    assert "there is nothing to do any more" in messages(told)


def test_who_may_only_view_sees_no_button_and_changes_nothing(
    colleague: Colleague, acme: Company, new_model: FakeEmbedder
) -> None:
    viewer, nobody = colleague(VIEW), colleague(REINDEX)
    assert "another model" in row(viewer, "acme")
    assert "Rebuild with" not in text(viewer.get(PAGE).content.decode())
    for client in (viewer, nobody, Client()):
        for page in (for_all("rebuild"), for_one("rebuild", acme)):
            assert client.post(page, {"confirmed": "1", "companies": str(acme.pk)}).status_code in (302, 403)
    assert [client.get(page).status_code for client in (nobody, Client()) for page in (PAGE, LIVE)] == [
        403,
        403,
        302,
        302,
    ]
    assert not acme.builds.active().exists()


def test_every_change_is_posted_with_a_token(acme: Company, new_model: FakeEmbedder) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(User.objects.create_superuser("boss"))
    for action in ("rebuild", "use", "back"):
        for page in (for_all(action), for_one(action, acme)):
            assert client.get(page).status_code == 405
            assert client.post(page, {"confirmed": "1", "companies": str(acme.pk)}).status_code == 403


def test_the_confined_see_and_change_only_theirs(
    colleague: Colleague, acme: Company, new_model: FakeEmbedder, make_company: Any, embedder: FakeEmbedder
) -> None:
    runtime.use(embedder)
    globex = make_company("globex", {"a.png": RED})
    runtime.use(new_model)
    client = colleague(VIEW, REINDEX)
    Confinement.objects.create(user=User.objects.get(is_staff=True)).companies.set([acme])
    seen = [client.get(page).content.decode() for page in (PAGE, f"{LIVE}?id={globex.pk}")]
    seen.append(client.post(for_all("rebuild")).content.decode())
    assert not any("globex" in page for page in seen)
    assert "Companies that use it 0 of 1" in text(seen[0])
    client.post(for_all("rebuild"), {"confirmed": "1", "companies": f"{acme.pk},{globex.pk}"})
    assert client.post(for_one("rebuild", globex), {"confirmed": "1"}).status_code == 404
    assert (acme.builds.active().count(), globex.builds.active().count()) == (1, 0)


@pytest.mark.slow
def test_many_companies_are_shown_page_by_page(admin_client: Client, db: None) -> None:
    Company.objects.bulk_create(Company(name=f"company-{number:02}") for number in range(51))
    first, second = (text(admin_client.get(f"{PAGE}?page={number}").content.decode()) for number in (1, 2))
    assert "Page 1 of 2" in first
    assert ("company-50" in first, "company-50" in second) == (False, True)


def test_by_hand_it_waits_with_what_changes_until_somebody_uses_it(
    admin_client: Client, acme: Company, new_model: FakeEmbedder, by_hand: None
) -> None:
    confirm(admin_client, for_one("rebuild", acme))
    carry_out_all()
    waits = row(admin_client, "acme")
    assert "new model waits New: new-weights, 2 pictures" in waits
    assert "100 % of the first ten results stay the same." in waits
    assert weights_of(acme) == "fake-weights"
    confirm(admin_client, for_one("use", acme))
    carry_out_all()
    assert weights_of(acme) == "new-weights"
    assert "up to date" in row(admin_client, "acme")


@pytest.mark.slow
def test_one_step_back_and_forward_again(admin_client: Client, acme: Company, new_model: FakeEmbedder) -> None:
    confirm(admin_client, for_one("rebuild", acme))
    carry_out_all()
    confirm(admin_client, for_one("back", acme))
    carry_out_all()
    assert weights_of(acme) == "fake-weights"
    assert "keeps its own model" in row(admin_client, "acme")
    assert "Use the new model" in row(admin_client, "acme")
    confirm(admin_client, for_one("use", acme))
    carry_out_all()
    assert weights_of(acme) == "new-weights"


@pytest.mark.slow
def test_each_step_is_audited_and_logged(admin_client: Client, acme: Company, new_model: FakeEmbedder) -> None:
    for action in ("rebuild", "back", "use"):
        confirm(admin_client, for_one(action, acme))
        carry_out_all()
    audited = AuditEvent.objects.filter(actor="ann", company="acme").order_by("pk")
    assert [event.action for event in audited] == ["build asked for", *["model chosen", "build asked for"] * 2]
    assert [line.split(": ")[1] for line in logged()] == [
        "it makes an index with the new model.",
        "searches use the model before after it.",
        "searches use the new model after it.",
    ]


@pytest.mark.slow
def test_all_leaves_out_who_went_back(
    admin_client: Client, acme: Company, new_model: FakeEmbedder, make_company: Any, embedder: FakeEmbedder
) -> None:
    runtime.use(embedder)
    make_company("globex", {"a.png": RED, "b.png": BLUE})
    runtime.use(new_model)
    confirm(admin_client, for_all("rebuild"))
    carry_out_all()
    confirm(admin_client, for_one("back", acme))
    carry_out_all()
    page = text(admin_client.get(PAGE).content.decode())
    assert "Use the new model: " not in page
    assert "Go back to the model before: 1 company..." in page


def test_a_companys_page_says_where_it_stands_and_offers_the_same(
    admin_client: Client, acme: Company, new_model: FakeEmbedder, by_hand: None
) -> None:
    def section() -> str:
        return text(admin_client.get(url("live", acme)).json()["fragments"]["model"])

    assert "another model" in section()
    assert "Next build new-weights" in section()
    confirm(admin_client, for_one("rebuild", acme))
    carry_out_all()
    assert "100 % of the first ten results stay the same." in section()
    assert "Use the new model..." in section()
    versions = text(admin_client.get(url("live", acme)).json()["fragments"]["generations"])
    assert "new model waits new-weights" in versions
    assert "Use this one" not in versions  # its live changes are embedded first: a build does that
