"""What is done to an index in the admin: reindex, cancel, roll back."""

import pytest
from django.contrib.auth.models import User
from django.test import Client

from search import publication
from tenants.models import Company, IndexBuild
from tests.conftest import picture
from tests.support.admin import (
    COMPANIES,
    fragments,
    logged,
    messages,
    reindex,
    running,
    search_names,
    text,
    upload,
    url,
)
from tests.support.fakes import RED


def test_reindex_queues_a_build_of_each_chosen_company(admin_client: Client, db: None) -> None:
    acme, globex, other = (Company.objects.create(name=name) for name in ("acme", "globex", "other"))
    response = reindex(admin_client, acme, globex)
    assert "acme" in messages(response)
    assert "globex" in messages(response)
    assert [company.builds.count() for company in (acme, globex, other)] == [1, 1, 0]
    assert acme.builds.get().status == IndexBuild.Status.QUEUED


def test_reindex_asked_twice_keeps_the_one_build(admin_client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    reindex(admin_client, acme)
    build = acme.builds.get()
    response = reindex(admin_client, acme)
    assert acme.builds.get() == build
    assert str(build.pk) in messages(response)


@pytest.mark.parametrize(("action", "full"), [("reindex", False), ("rebuild", True)])
def test_action_queues_builds(admin_client: Client, acme: Company, action: str, full: bool) -> None:
    response = admin_client.post(COMPANIES, {"action": action, "_selected_action": [acme.pk]}, follow=True)
    build = acme.builds.active().get()
    assert build.full is full
    assert build.requested_by == User.objects.get(username="ann")
    assert f"Build {build.pk} of acme is queued" in messages(response)
    assert f"Queued build {build.pk}" in logged()[-1]


@pytest.mark.parametrize(
    ("action", "full", "what"), [("reindex", False, "changed pictures only"), ("rebuild", True, "all pictures")]
)
def test_action_tells_which_build_follows_a_running_one(
    admin_client: Client, acme: Company, action: str, full: bool, what: str
) -> None:
    build = running(acme)
    response = admin_client.post(COMPANIES, {"action": action, "_selected_action": [acme.pk]}, follow=True)
    assert messages(response) == f"Build {build.pk} of acme is running; another build follows it: {what}."
    assert acme.builds.active().get() == build
    build.succeed()
    following = acme.builds.active().get()
    assert following != build
    assert following.full is full


def test_a_rebuild_asked_for_before_is_what_follows_a_running_build(admin_client: Client, acme: Company) -> None:
    running(acme)
    admin_client.post(url("reindex", acme), {"full": "1"})
    assert "another build follows it: all pictures." in messages(reindex(admin_client, acme))


@pytest.mark.parametrize(("form", "full"), [({}, False), ({"full": "1"}, True)])
def test_buttons_queue_a_build(admin_client: Client, acme: Company, form: dict[str, str], full: bool) -> None:
    response = admin_client.post(url("reindex", acme), form, follow=True)
    assert acme.builds.active().get().full is full
    assert "is queued" in messages(response)


def test_a_running_build_offers_to_be_cancelled(admin_client: Client, acme: Company) -> None:
    assert "Reindex changed Rebuild all" in fragments(admin_client, url("live", acme))["actions"]
    build = running(acme)
    assert fragments(admin_client, url("live", acme))["actions"] == "Cancel build"
    response = admin_client.post(url("cancel", acme), follow=True)
    build.refresh_from_db()
    assert build.status == IndexBuild.Status.CANCELLED
    assert f"Build {build.pk} of acme was cancelled" in messages(response)
    assert logged() == [f"Cancelled build {build.pk}."]


def test_cancelling_says_that_the_build_to_follow_is_cancelled_as_well(admin_client: Client, acme: Company) -> None:
    build = running(acme)
    reindex(admin_client, acme)
    assert "Another build follows it: changed pictures only." in fragments(admin_client, url("live", acme))["overview"]
    assert "The follow-up build is cancelled as well." in admin_client.get(url("change", acme)).content.decode()
    response = admin_client.post(url("cancel", acme), follow=True)
    assert messages(response) == f"Build {build.pk} of acme was cancelled, including its follow-up."
    cancelled = "Cancelled together with the build that was to follow: changed pictures only."
    assert cancelled in fragments(admin_client, url("live", acme))["overview"]


def test_cancelling_nothing_says_so(admin_client: Client, acme: Company) -> None:
    assert "No build of acme" in messages(admin_client.post(url("cancel", acme), follow=True))
    assert logged() == []


def test_rolling_back_is_seen_by_the_next_search(admin_client: Client, two_generations: Company) -> None:
    acme = two_generations
    assert search_names(acme) == {"a.png", "b.png", "c.png"}
    newest, oldest = publication.generations(acme)
    assert "in use" in fragments(admin_client, url("live", acme))["generations"].partition(newest.name)[0]
    response = admin_client.post(url("roll_back", acme), {"generation": oldest.name}, follow=True)
    assert "acme now uses the index of " in messages(response)
    assert search_names(acme) == {"a.png", "b.png"}
    assert logged() == [f"Rolled the index back to {oldest.name}."]
    assert "Pictures in the index 2" in fragments(admin_client, url("live", acme))["overview"]


@pytest.mark.parametrize("generation", ["", "gone", "../../acme", "/etc", ".building"])
def test_no_other_directory_can_be_rolled_back_to(
    admin_client: Client, two_generations: Company, generation: str
) -> None:
    before = two_generations.embeddings_directory.readlink()
    response = admin_client.post(url("roll_back", two_generations), {"generation": generation}, follow=True)
    assert "was not rolled back" in messages(response)
    assert two_generations.embeddings_directory.readlink() == before
    assert logged() == []


def test_history_of_a_company_tells_who_did_what(admin_client: Client, two_generations: Company) -> None:
    acme = two_generations
    oldest = publication.generations(acme)[-1]
    admin_client.post(url("roll_back", acme), {"generation": oldest.name})
    upload(admin_client, acme, picture(RED, "x.png"))
    admin_client.post(url("cancel", acme))
    page = text(admin_client.get(url("history", acme)).content.decode())
    for deed in (f"Rolled the index back to {oldest.name}", "Uploaded 1 picture.", "Queued build", "Cancelled build"):
        assert deed in page
