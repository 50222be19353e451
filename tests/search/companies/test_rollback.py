"""Going back one index: the command, the admin's action, and what happens to live changes and builds."""

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from search import publication
from search.engine import storage
from search.pictures import delete_image, put_image
from search.tasks import carry_out_build, look_after_companies
from tenants.audit import on_command_line
from tenants.models import AuditEvent, Company, IndexBuild
from tests.conftest import Colleague, paint, picture
from tests.search.management.test_check_index import make_flask_company
from tests.support.damage import flip_a_byte
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.permissions import bound_by_permissions

COMPANIES = reverse("admin:tenants_company_changelist")


@pytest.fixture
def acme(make_company: Callable[..., Company]) -> Company:
    """Has an index of 1.png, and another of 1.png and 2.png after it."""
    company = make_company("acme", {"1.png": RED})
    add(company, "2.png")
    return company


def add(company: Company, path: str) -> None:
    paint(company.image_directory / path, BLUE)
    call_command("build_embeddings", company=company.name, stdout=StringIO())


def found(company: Company) -> set[str]:
    response = Client().post(f"/api/search/{company.name}", {"image": picture(RED), "top_k": 50})
    return {entry["fullPath"] for entry in response.json()["results"]}


def roll_back(company: str = "acme", **options: Any) -> str:
    out = StringIO()
    call_command("rollback_index", company, stdout=out, **options)
    return out.getvalue()


def test_one_step_back_is_seen_by_the_next_search(acme: Company) -> None:
    assert found(acme) == {"1.png", "2.png"}
    assert re.search(r"acme now uses the index of \d+ \w{3} \d\d:\d\d UTC \(1 picture\)", roll_back())
    assert found(acme) == {"1.png"}
    assert AuditEvent.objects.filter(company="acme", action="index rolled back", channel="command").count() == 1


def test_a_second_step_goes_further_back_and_a_third_is_refused(acme: Company) -> None:
    add(acme, "3.png")
    roll_back()
    roll_back()
    assert found(acme) == {"1.png"}
    with pytest.raises(CommandError, match="acme has no earlier index"):
        roll_back()
    assert found(acme) == {"1.png"}


@pytest.mark.parametrize(
    ("name", "said"), [("nobody", "nobody does not exist"), ("flask", "no earlier"), ("new", "no ear")]
)
def test_where_there_is_nothing_to_go_back_to_it_says_so(db: None, name: str, said: str) -> None:
    make_flask_company()
    Company.objects.create(name="new")
    with pytest.raises(CommandError, match=said):
        roll_back(name)


def test_the_build_after_a_step_back_leads_forward_and_the_next_step_back_not_to_what_was_left(acme: Company) -> None:
    (acme.image_directory / "2.png").unlink()
    roll_back()
    add(acme, "3.png")
    assert found(acme) == {"1.png", "3.png"}
    roll_back()
    assert found(acme) == {"1.png"}
    assert len(publication.generations(acme)) == 2


def test_ids_of_pictures_are_the_same_after_a_step_back_and_a_build(acme: Company) -> None:
    before = {record.path: record.id for record in storage.load(acme.embeddings_directory).records}
    roll_back()
    call_command("build_embeddings", company="acme", stdout=StringIO())
    assert {record.path: record.id for record in storage.load(acme.embeddings_directory).records} == before


def test_pictures_put_and_deleted_since_stay_so(acme: Company) -> None:
    put_image(acme, "put.png", picture(GREEN).getvalue(), by=on_command_line())
    delete_image(acme, "1.png", by=on_command_line())
    call_command("build_embeddings", company="acme", stdout=StringIO())
    put_image(acme, "later.png", picture(GREEN).getvalue(), by=on_command_line())
    roll_back()
    assert found(acme) == {"2.png", "put.png", "later.png"}
    build = acme.queue_build(fold=True)
    carry_out_build.func(build.pk)
    assert found(acme) == {"2.png", "put.png", "later.png"}
    assert len(storage.load(acme.embeddings_directory)) == 3


def test_a_damaged_index_is_not_gone_back_to(acme: Company) -> None:
    oldest = publication.generations(acme)[-1].name
    directory = acme.embeddings_directory.parent / ".generations" / "acme" / oldest
    flip_a_byte(directory / "embeddings.npy", 300)
    with pytest.raises(CommandError, match=r"is damaged: embeddings.npy"):
        roll_back()
    assert found(acme) == {"1.png", "2.png"}


def test_a_damaged_index_is_gone_back_from(acme: Company) -> None:
    (acme.embeddings_directory / "faiss_index.bin").write_bytes(b"nothing")
    roll_back()
    assert found(acme) == {"1.png"}


def test_an_active_build_is_not_cancelled_unasked(acme: Company) -> None:
    build = acme.queue_build()
    with pytest.raises(CommandError, match="would replace the index"):
        roll_back()
    assert found(acme) == {"1.png", "2.png"}
    roll_back(cancel_build=True)
    build.refresh_from_db()
    assert (build.status, found(acme)) == ("cancelled", {"1.png"})


def test_a_build_that_runs_does_not_publish_over_the_step_back(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step back comes at the last moment before the build's publication."""
    paint(acme.image_directory / "3.png", GREEN)
    build, publish = acme.queue_build(), publication.publish

    def roll_back_first(company: Company, draft: storage.Draft, **options: Any) -> str:
        roll_back(cancel_build=True)
        return publish(company, draft, **options)

    monkeypatch.setattr(publication, "publish", roll_back_first)
    carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert (build.status, found(acme)) == (IndexBuild.Status.CANCELLED, {"1.png"})


# The admin's action


def act(client: Client, *companies: Company, **form: str) -> Any:
    form |= {"action": "roll_back", "_selected_action": [str(company.pk) for company in companies]}  # type: ignore[dict-item]
    return client.post(COMPANIES, form, follow=True)


def test_the_action_asks_before_it_rolls_back(acme: Company, colleague: Colleague) -> None:
    globex = Company.objects.create(name="globex")
    client = colleague("view_company", "reindex_company")
    build = acme.queue_build()
    page = act(client, acme, globex).content.decode()
    assert "Yes, roll back" in page
    assert found(acme) == {"1.png", "2.png"}
    response = act(client, acme, globex, confirmed="1")
    told = " ".join(str(message) for message in response.context["messages"])
    assert "acme now uses the index of" in told
    assert "globex was not rolled back. globex has no earlier index" in told
    build.refresh_from_db()
    assert (build.status, found(acme)) == ("cancelled", {"1.png"})
    assert AuditEvent.objects.get(action="index rolled back").actor == "colleague-0"
    assert LogEntry.objects.get().get_change_message().startswith("Rolled the index back to ")


def test_the_action_needs_the_permission_to_reindex(acme: Company, colleague: Colleague) -> None:
    act(colleague("view_company", "change_company"), acme, confirmed="1")
    assert found(acme) == {"1.png", "2.png"}


def test_a_link_that_cannot_follow_takes_nothing_back(
    acme: Company, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The row has moved; the link, which people look at, follows when a worker starts."""
    settings.EMBEDDINGS_DIR.chmod(0o555)
    try:
        with bound_by_permissions():
            assert "acme now uses" in roll_back()
    finally:
        settings.EMBEDDINGS_DIR.chmod(0o755)
    assert "The new index of acme serves, but what was left to do on the disk failed" in caplog.text
    assert found(acme) == {"1.png"}
    look_after_companies()
    assert acme.embeddings_directory.resolve().name == Company.objects.get().generation
