"""Who did what, by every door."""

import base64
import logging
import os
import pwd
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.db.models.signals import pre_save
from django.test import Client
from django.urls import reverse

from search.builds import run_build
from search.companies.removal import delete_company
from search.companies.rollback import roll_back
from tenants import audit
from tenants.models import AuditEvent, Company
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED

MakeCompany = Callable[..., Company]
EVENTS = reverse("admin:tenants_auditevent_changelist")


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    company = make_company("acme", {"a.png": RED})
    AuditEvent.objects.all().delete()
    return company


def events() -> list[tuple[str, str, str, str]]:
    """Return all that was noted, oldest first."""
    found = AuditEvent.objects.order_by("id")
    return [(event.actor, event.channel, event.action, event.company) for event in found]


def put(client: Client, headers: dict[str, str]) -> Any:
    body = picture(GREEN).getvalue()
    return client.generic("PUT", "/api/images/acme/New/g.png", body, content_type="image/png", headers=headers)


def write_by_api(client: Client, headers: dict[str, str]) -> None:
    """Do all that can be done, and some that changes nothing."""
    assert put(client, headers).status_code == 201
    assert put(client, headers).status_code == 200  # unchanged
    assert client.delete("/api/images/acme/New/g.png", headers=headers).status_code == 200
    assert client.delete("/api/images/acme/nothing.png", headers=headers).status_code == 404
    build = client.post("/api/reindex/acme", headers=headers).json()["build"]["id"]
    assert client.post(f"/api/builds/{build}/cancel", headers=headers).status_code == 200
    assert client.post(f"/api/builds/{build}/cancel", headers=headers).status_code == 409


WRITTEN = ["picture put", "picture deleted", "build asked for", "build cancelled"]


def test_the_holder_of_a_key_is_named_by_the_key(client: Client, acme: Company) -> None:
    key, text = acme.issue_key("Shop", can_write=True)
    write_by_api(client, {"X-API-Key": text})
    assert events() == [(f"{key.prefix} (Shop)", "key", action, "acme") for action in WRITTEN]
    assert AuditEvent.objects.get(action="picture put").detail == "New/g.png"


def test_a_staff_user_is_named(client: Client, acme: Company) -> None:
    User.objects.create_superuser("bob", password="secret")
    write_by_api(client, {"Authorization": f"Basic {base64.b64encode(b'bob:secret').decode()}"})
    assert events() == [("bob", "basic", action, "acme") for action in WRITTEN]


def test_who_is_refused_leaves_nothing(client: Client, acme: Company) -> None:
    _, reader = acme.issue_key("reader")
    _, stranger = Company.objects.create(name="globex").issue_key("writer", can_write=True)
    for headers in ({}, {"X-API-Key": reader}, {"X-API-Key": stranger}):
        assert put(client, headers).status_code in (400, 401, 403)
        client.delete("/api/images/acme/a.png", headers=headers)
        client.post("/api/reindex/acme", headers=headers)
    assert events() == []


def test_a_company_is_made_changed_and_deleted_in_the_admin(admin_client: Client, db: None) -> None:
    form = {"name": "acme", "active": "on", "image_folder": "", "notes": "", "daily_quota": ""}
    admin_client.post(reverse("admin:tenants_company_add"), form)
    company = Company.objects.get()
    change = reverse("admin:tenants_company_change", args=[company.pk])
    admin_client.post(change, {**form, "requires_api_key": "on", "notes": "owes us money"})
    admin_client.post(reverse("admin:tenants_company_delete", args=[company.pk]), {"post": "yes"})
    actions = ["company made", "company changed", "company deleted"]
    assert events() == [("ann", "admin", action, "acme") for action in actions]
    assert AuditEvent.objects.get(action="company changed").detail == "requires_api_key = True, notes"


def test_many_companies_are_deleted_in_the_admin(admin_client: Client, db: None) -> None:
    chosen = [Company.objects.create(name=name).pk for name in ("acme", "globex")]
    form = {"action": "delete_selected", "_selected_action": chosen, "post": "yes"}
    admin_client.post(reverse("admin:tenants_company_changelist"), form)
    assert not Company.objects.exists()
    assert events() == [("ann", "admin", "company deleted", name) for name in ("acme", "globex")]


def test_builds_pictures_and_roll_backs_in_the_admin(admin_client: Client, acme: Company) -> None:
    def post(what: str, **form: Any) -> None:
        admin_client.post(reverse(f"admin:tenants_company_{what}", args=[acme.pk]), form)

    post("reindex")
    post("cancel")
    post("cancel")  # nothing to cancel
    post("upload", files=[picture(BLUE, "b.png")])
    build = acme.builds.active().get()
    build.start()
    run_build(build)
    post("roll_back", generation="no such")
    page = admin_client.get(reverse("admin:tenants_company_change", args=[acme.pk])).context["generations"]
    old = next(generation["name"] for generation in page if not generation["published"])
    post("roll_back", generation=old)
    actions = ["build asked for", "build cancelled", "pictures uploaded", "build asked for", "index rolled back"]
    assert events() == [("ann", "admin", action, "acme") for action in actions]


def test_keys_made_and_revoked_are_noted_without_their_secret(admin_client: Client, acme: Company) -> None:
    form = {"company": acme.pk, "name": "Shop", "can_write": "on", "expires_0": "", "expires_1": ""}
    admin_client.post(reverse("admin:tenants_apikey_add"), form)
    key = acme.api_keys.get()
    admin_client.post(reverse("admin:tenants_apikey_revoke", args=[key.pk]))
    admin_client.post(reverse("admin:tenants_apikey_revoke", args=[key.pk]))  # it is revoked already
    assert events() == [("ann", "admin", action, "acme") for action in ("key made", "key revoked")]
    details = [event.detail for event in AuditEvent.objects.order_by("id")]
    assert details == [f"{key.prefix} (Shop), may write", f"{key.prefix} (Shop)"]


def test_commands_are_noted_with_the_systems_user(acme: Company) -> None:
    me = pwd.getpwuid(os.getuid()).pw_name
    call_command("create_api_key", company="acme", name="Shop")
    call_command("revoke_api_key", acme.api_keys.get().prefix)
    call_command("build_embeddings", company="acme", full=True)
    call_command("rollback_index", "acme")
    call_command("build_embeddings", company="acme", enqueue=True)
    call_command("build_embeddings", company="globex", create=True)
    call_command("build_embeddings", company="globex", enqueue=True)
    actions = ["key made", "key revoked", "build asked for", "index rolled back", "build asked for"]
    new = [("company made", "globex"), ("build asked for", "globex")]
    assert events() == [(me, "command", *what) for what in [*((action, "acme") for action in actions), *new]]


def test_each_build_asked_for_is_noted_with_what_it_does(client: Client, admin_client: Client, acme: Company) -> None:
    """Whoever asks, and through whichever channel, is noted in the same words."""
    _, text = acme.issue_key("Shop", can_write=True)
    client.post("/api/reindex/acme", {"checksum": True}, headers={"X-API-Key": text})
    call_command("build_embeddings", company="acme", enqueue=True, full=True)
    build = acme.builds.active().get()
    assert build.start()
    admin_client.post(reverse("admin:tenants_company_reindex", args=[acme.pk]))
    call_command("build_embeddings", company="acme", enqueue=True, allow_empty=True)
    assert [event.detail for event in AuditEvent.objects.order_by("id")] == [
        f"build {build.pk}: changed pictures only, contents compared",
        f"build {build.pk}: all pictures, contents compared",
        f"after build {build.pk}: changed pictures only",
        f"after build {build.pk}: changed pictures only, even if there are none",
    ]


def test_what_the_service_does_by_itself_is_not_noted(acme: Company) -> None:
    build = acme.queue_build(fold=True)
    assert build.start()
    acme.queue_build(by=audit.on_command_line())
    build.succeed()
    assert acme.builds.active().exists()
    assert [action for _, _, action, _ in events()] == ["build asked for"]  # not for the one that follows


@contextmanager
def unwritable_audit() -> Iterator[None]:
    def refuse(**_: Any) -> None:
        raise OSError("the audit cannot be written")

    pre_save.connect(refuse, sender=AuditEvent)
    try:
        yield
    finally:
        pre_save.disconnect(refuse, sender=AuditEvent)


def test_nothing_is_done_that_cannot_be_noted(acme: Company) -> None:
    (key, _), by = acme.issue_key("Shop"), audit.on_command_line()
    paint(acme.image_directory / "b.png", BLUE)
    call_command("build_embeddings", company="acme")
    acme.refresh_from_db()
    build, generation = acme.queue_build(), acme.generation
    deeds: list[Callable[[], Any]] = [
        lambda: acme.queue_build(full=True, by=by),
        lambda: build.cancel(by=by),
        lambda: acme.issue_key("Other", by=by),
        lambda: key.revoke(by=by),
        lambda: roll_back(acme, cancel_build=True, by=by),
        lambda: Company(name="globex").add(by=by),
        lambda: delete_company(acme, by=by),
    ]
    for deed in deeds:
        with unwritable_audit(), pytest.raises(OSError, match="the audit cannot be written"):
            deed()
    build.refresh_from_db()
    acme.refresh_from_db()
    assert (build.status, build.full, acme.generation) == ("queued", False, generation)
    assert [(each.pk, each.state) for each in acme.api_keys.all()] == [(key.pk, "valid")]
    assert not Company.objects.filter(name="globex").exists()


def test_each_is_a_line_of_the_log_once_it_is_done(
    acme: Company, caplog: pytest.LogCaptureFixture, django_capture_on_commit_callbacks: Any
) -> None:
    with caplog.at_level(logging.INFO, "audit"):
        with django_capture_on_commit_callbacks() as callbacks:
            audit.record(audit.Actor("ann", audit.Channel.ADMIN), audit.Action.KEY_MADE, acme, "ab12 (Shop)")
        assert not caplog.records
        for callback in callbacks:
            callback()
    (line,) = caplog.records
    assert (line.name, line.getMessage()) == ("audit", "ann (admin): API key created, company acme: ab12 (Shop)")
    assert (line.__dict__["actor"], line.__dict__["company"]) == ("ann", "acme")


def test_the_audit_outlives_companies_and_users(admin_client: Client, acme: Company) -> None:
    audit.record(audit.Actor("bob", audit.Channel.BASIC), audit.Action.PICTURE_PUT, acme, "a.png")
    acme.delete()
    User.objects.exclude(username="ann").delete()
    page = admin_client.get(EVENTS).content.decode()
    assert "bob" in page
    assert "picture uploaded" in page


def test_the_admin_shows_the_audit_by_company_and_changes_nothing(admin_client: Client, db: None) -> None:
    for company in ("acme", "globex"):
        audit.record(audit.Actor("bob", audit.Channel.BASIC), audit.Action.PICTURE_PUT, company, f"{company}.png")
    page = admin_client.get(EVENTS, {"company": "acme"}).content.decode()
    assert "acme.png" in page
    assert "globex.png" not in page
    event = AuditEvent.objects.all()[0]
    for what in ("change", "delete"):
        address = reverse(f"admin:tenants_auditevent_{what}", args=[event.pk])
        assert admin_client.post(address, {"post": "yes", "actor": "me"}).status_code == 403
    assert admin_client.post(reverse("admin:tenants_auditevent_add"), {"actor": "me"}).status_code == 403
    admin_client.post(EVENTS, {"action": "delete_selected", "_selected_action": [event.pk], "post": "yes"})
    assert AuditEvent.objects.count() == 2
    assert {each.actor for each in AuditEvent.objects.all()} == {"bob"}


def audit_of(client: Client, company: Company) -> Any:
    """Return the page of the audit that the company's page leads to."""
    page = client.get(reverse("admin:tenants_company_change", args=[company.pk])).content.decode()
    link = re.search(rf'href="({re.escape(EVENTS)}\?[^"]+)"', page)
    assert link
    return client.get(link[1])


@pytest.mark.django_db(transaction=True)
def test_a_company_made_anew_shows_nothing_of_the_first_ones_audit(admin_client: Client, acme: Company) -> None:
    audit.record(audit.Actor("bob", audit.Channel.BASIC), audit.Action.PICTURE_PUT, acme, "secret.png")
    delete = reverse("admin:tenants_company_delete", args=[acme.pk])
    admin_client.post(delete, {"post": "yes", "remove_index": "1", "remove_pictures": "1"})
    form = {"name": "acme", "active": "on", "image_folder": "", "notes": "", "daily_quota": ""}
    admin_client.post(reverse("admin:tenants_company_add"), form)
    page = audit_of(admin_client, Company.objects.get(name="acme"))
    assert [event.action for event in page.context["cl"].result_list] == ["company made"]
    assert "secret.png" not in page.content.decode()
    first = admin_client.get(EVENTS, {"company_key": acme.pk})
    shown = [event.detail for event in first.context["cl"].result_list]
    assert sorted(shown) == ["", "index removed from disk", "pictures removed from disk", "secret.png"]
    assert "acme (deleted)" in first.content.decode()


@pytest.mark.parametrize("key", ["0", "-1", "x", "9" * 30, "\u0665", ""])
def test_an_unknown_companys_audit_is_empty(admin_client: Client, db: None, key: str) -> None:
    audit.record(audit.Actor("bob", audit.Channel.BASIC), audit.Action.COMPANY_DELETED, "acme")
    assert not admin_client.get(EVENTS, {"company_key": key}).context["cl"].result_list


def test_who_may_not_see_the_audit_is_not_led_to_it(colleague: Any, acme: Company) -> None:
    page = colleague("view_company").get(reverse("admin:tenants_company_change", args=[acme.pk])).content.decode()
    assert EVENTS not in page


def test_the_audit_is_shown_in_todays_words_and_stored_in_those_that_others_read(
    admin_client: Client, acme: Company
) -> None:
    acme.queue_build(by=audit.on_command_line())
    assert "build requested" in admin_client.get(EVENTS).content.decode()
    assert events()[0][2] == "build asked for"


def test_the_audit_is_seen_by_permission(db: None) -> None:
    user = User.objects.create_user("colleague", is_staff=True)
    client = Client()
    client.force_login(user)
    assert client.get(EVENTS).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename="view_auditevent"))
    assert client.get(EVENTS).status_code == 200
