"""Making, listing and revoking keys: in the admin, on the command line, and by processes that are killed."""

import re
from datetime import UTC, datetime, time, timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tenants.models import ApiKey, AuditEvent, Company
from tests.conftest import Colleague
from tests.support.processes import KILLED, Site

ADD = reverse("admin:tenants_apikey_add")
LIST = reverse("admin:tenants_apikey_changelist")


@pytest.fixture
def acme(db: None) -> Company:
    return Company.objects.create(name="acme", requires_api_key=True)


def page_of(company: Company) -> str:
    return reverse("admin:tenants_company_change", args=[company.pk])


def opens(text: str, company: Company) -> bool:
    """Tell whether the key is taken: the company has no index, which only those are told who may know of it."""
    return Client().get(f"/api/stats/{company}", headers={"X-API-Key": text}).status_code == 503


def test_the_form_of_a_new_key_has_one_button_and_no_way_to_change_companies(
    admin_client: Client, acme: Company
) -> None:
    page = admin_client.get(f"{ADD}?company={acme.pk}").content.decode()
    assert re.findall(r'<input type="submit"[^>]*name="(\w+)"', page) == ["_save"]
    assert "related-widget-wrapper-link" not in page


def make_in_admin(client: Client, company: Company, **form: Any) -> Any:
    """Return the page that making a key leads to, or the form again."""
    form = {"company": company.pk, "name": "Shop", "expires_0": "", "expires_1": "", **form}
    return client.post(ADD, form, follow=True)


def shown_key(page: bytes) -> str:
    found = re.search(r'id="api-key">([^<]+)<', page.decode())
    assert found
    return found[1]


# In the admin


def test_a_key_made_in_the_admin_is_shown_once_and_opens_its_company(admin_client: Client, acme: Company) -> None:
    response = make_in_admin(admin_client, acme)
    assert "no-store" in response["Cache-Control"]
    text = shown_key(response.content)
    assert opens(text, acme)
    key = ApiKey.objects.get()
    assert (key.name, key.can_write, key.expires, str(key.created_by)) == ("Shop", False, None, "ann")
    key_page = reverse("admin:tenants_apikey_change", args=[key.pk])
    for page in (LIST, key_page, page_of(acme), reverse("admin:tenants_auditevent_changelist"), reverse("admin:index")):
        content = admin_client.get(page).content.decode()
        assert text.partition(".")[2] not in content
    assert key.prefix in admin_client.get(page_of(acme)).content.decode()


def test_reloading_the_page_that_shows_a_key_makes_no_other_and_shows_it_no_more(
    admin_client: Client, acme: Company
) -> None:
    response = make_in_admin(admin_client, acme)
    text = shown_key(response.content)
    ((page, status),) = response.redirect_chain
    assert status == 302
    again = admin_client.get(page)
    assert text.partition(".")[2] not in again.content.decode()
    assert "has been shown and cannot be shown again" in again.content.decode()
    assert ApiKey.objects.count() == 1
    assert admin_client.post(page).status_code == 405


def test_the_page_of_a_new_key_shows_it_to_who_has_made_it_alone(
    admin_client: Client, colleague: Colleague, acme: Company
) -> None:
    form = {"company": acme.pk, "name": "Shop", "expires_0": "", "expires_1": ""}
    made = admin_client.post(ADD, form)
    cookie = made.cookies["made_api_key"]
    assert (cookie["path"], cookie["httponly"], cookie["samesite"]) == (made["Location"], True, "Strict")
    for client in (colleague("add_apikey", "view_apikey"), colleague("view_apikey"), Client()):
        client.cookies["made_api_key"] = cookie.value
        assert 'id="api-key"' not in client.get(made["Location"]).content.decode()
    planted, _ = acme.issue_key("another")
    other_page = reverse("admin:tenants_apikey_made", args=[planted.pk])
    assert 'id="api-key"' not in admin_client.get(other_page).content.decode()


def test_the_text_of_a_key_lies_nowhere_afterwards(
    admin_client: Client, acme: Company, caplog: pytest.LogCaptureFixture, django_capture_on_commit_callbacks: Any
) -> None:
    with caplog.at_level("DEBUG"), django_capture_on_commit_callbacks(execute=True):
        response = make_in_admin(admin_client, acme)
    text = shown_key(response.content)
    secret = text.partition(".")[2]
    assert opens(text, acme)
    for table in connection.introspection.table_names():
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            assert secret not in str(cursor.fetchall()), table
    assert all(secret not in str(session.get_decoded()) for session in Session.objects.all())
    assert secret not in str(admin_client.cookies)
    assert secret not in caplog.text
    assert text.partition(".")[0] in caplog.text


def test_a_key_expires_and_writes_as_the_form_says(admin_client: Client, acme: Company) -> None:
    make_in_admin(admin_client, acme, expires_0="2027-01-31", expires_1="00:00:00", can_write="on")
    key = ApiKey.objects.get()
    assert (key.expires, key.can_write) == (datetime(2027, 1, 31, tzinfo=UTC), True)


def test_a_date_without_a_time_counts_to_its_end(admin_client: Client, acme: Company) -> None:
    today = timezone.now().date()
    make_in_admin(admin_client, acme, expires_0=str(today))
    key = ApiKey.objects.get()
    assert key.expires == datetime.combine(today + timedelta(days=1), time(), UTC)
    assert key.state == "valid"


@pytest.mark.parametrize(
    ("day", "moment", "said"),
    [
        ("2020-01-31", "", "in the past"),
        ("2020-01-31", "12:00", "in the past"),
        ("9999-12-31", "", "too far away"),
        ("soon", "", "Enter a valid date"),
        ("", "12:00", "Enter a valid date"),
    ],
)
def test_no_key_is_made_that_would_never_work(
    admin_client: Client, acme: Company, day: str, moment: str, said: str
) -> None:
    page = make_in_admin(admin_client, acme, expires_0=day, expires_1=moment).content.decode()
    assert said in page
    assert not ApiKey.objects.exists()


def test_a_key_is_changed_and_deleted_by_nobody(admin_client: Client, acme: Company) -> None:
    key, text = acme.issue_key("Shop")
    change = reverse("admin:tenants_apikey_change", args=[key.pk])
    assert admin_client.post(change, {"company": acme.pk, "name": "Other"}).status_code == 403
    assert admin_client.post(reverse("admin:tenants_apikey_delete", args=[key.pk]), {"post": "yes"}).status_code == 403
    assert opens(text, acme)


def test_the_companys_page_makes_and_revokes_its_keys(admin_client: Client, acme: Company) -> None:
    key, text = acme.issue_key("Shop")
    page = admin_client.get(page_of(acme)).content.decode()
    revoke = reverse("admin:tenants_apikey_revoke", args=[key.pk])
    assert f"{ADD}?company={acme.pk}" in page
    assert revoke in page
    assert admin_client.get(revoke).status_code == 405
    page = admin_client.post(revoke, follow=True).content.decode()
    assert "was revoked" in page
    assert revoke not in page
    assert not opens(text, acme)


def test_many_keys_are_revoked_at_once(admin_client: Client, acme: Company) -> None:
    made = [acme.issue_key(name) for name in ("a", "b", "c")]
    chosen = [key.pk for key, _ in made[:2]]
    admin_client.post(LIST, {"action": "revoke", "_selected_action": chosen})
    assert [opens(text, acme) for _, text in made] == [False, False, True]


def test_keys_are_seen_made_and_revoked_by_permission(colleague: Colleague, acme: Company) -> None:
    key, text = acme.issue_key("Shop")
    client = colleague("view_company", "change_company")
    assert key.prefix not in client.get(page_of(acme)).content.decode()
    assert client.get(LIST).status_code == 403
    assert make_in_admin(client, acme).status_code == 403
    assert client.post(reverse("admin:tenants_apikey_revoke", args=[key.pk])).status_code == 403
    assert opens(text, acme)
    assert ApiKey.objects.count() == 1


def test_deleting_a_company_takes_its_keys_and_says_so(admin_client: Client, acme: Company) -> None:
    _, text = acme.issue_key("Shop")
    delete = reverse("admin:tenants_company_delete", args=[acme.pk])
    assert "API keys: 1" in admin_client.get(delete).content.decode()
    admin_client.post(delete, {"post": "yes"})
    assert not ApiKey.objects.exists()
    assert not opens(text, acme)


# On the command line


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


def test_a_key_made_by_command_is_printed_alone_and_once(acme: Company) -> None:
    text = run("create_api_key", "--company=acme", "--name=Shop", "--expires=2027-01-31").strip()
    assert opens(text, acme)
    key = ApiKey.objects.get()
    assert (key.name, key.can_write, key.expires) == ("Shop", False, datetime(2027, 2, 1, tzinfo=UTC))
    assert text.partition(".")[2] not in run("api_keys")


def test_a_list_without_keys_says_so(acme: Company) -> None:
    Company.objects.create(name="globex").issue_key("Elsewhere")
    assert "no API keys of acme" in run("api_keys", "--company=acme")


def test_keys_are_listed_and_revoked_by_command(acme: Company) -> None:
    other = Company.objects.create(name="globex")
    other.issue_key("Elsewhere")
    text = run("create_api_key", "--company=acme", "--name=Shop", "--write").strip()
    prefix = text.partition(".")[0]
    assert re.match(
        rf"{prefix}  acme +valid +write +expires never +used never +Shop\n$", run("api_keys", "--company=acme")
    )
    assert "Elsewhere" in run("api_keys")
    assert "was revoked" in run("revoke_api_key", prefix)
    assert not opens(text, acme)
    assert "revoked" in run("api_keys", "--company=acme")
    with pytest.raises(CommandError, match="was already revoked"):
        run("revoke_api_key", prefix)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["create_api_key", "--company=acme", "--name="], "cannot be blank"),
        (["create_api_key", "--company=acme", f"--name={'x' * 101}"], "at most 100"),
        (["create_api_key", "--company=acme", "--name=x", "--expires=2020-01-31"], "2020-01-31 is in the past"),
        (["create_api_key", "--company=acme", "--name=x", "--expires=soon"], "'soon' is not a day such as 2027-01-31"),
        (["create_api_key", "--company=acme", "--name=x", "--expires=9999-12-31"], "the last day"),
        (["revoke_api_key", "0123"], "No API key has the prefix 0123"),
    ],
)
def test_commands_say_what_is_wrong(acme: Company, arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)
    assert not ApiKey.objects.exists()


def test_an_instance_of_before_it_was_revoked_does_not_bring_a_key_back(acme: Company) -> None:
    key, text = acme.issue_key("Shop")
    assert ApiKey.objects.get(pk=key.pk).revoke()
    key.expires = None
    with pytest.raises(TypeError, match="is changed by its own methods"):
        key.save()
    assert not opens(text, acme)


def test_a_key_expires_by_the_databases_clock(acme: Company) -> None:
    now = timezone.now()
    _, late = acme.issue_key("late", expires=now + timedelta(hours=1))
    _, past = acme.issue_key("past", expires=now - timedelta(seconds=1))
    assert (opens(late, acme), opens(past, acme)) == (True, False)
    assert sorted(key.state for key in ApiKey.objects.all()) == ["expired", "valid"]


@pytest.mark.parametrize(
    ("step", "kept"),
    [
        ("tenants.models:ApiKey.save", 0),
        ("tenants.models:AuditEvent.save", 0),
        ("django.db.transaction:Atomic.__exit__", 1),
    ],
)
def test_a_command_that_is_killed_leaves_a_whole_key_or_none(site: Site, step: str, kept: int) -> None:
    acme = Company.objects.create(name="acme")
    assert site.manage("create_api_key", "--company=acme", "--name=Shop", die_after=step).wait() == KILLED
    keys = [f"{key.prefix} {key.digest} {key.name}" for key in ApiKey.objects.all()]
    assert len(keys) == kept
    assert all(re.fullmatch(r"[0-9a-f]{12} [0-9a-f]{64} Shop", key) for key in keys)
    assert AuditEvent.objects.filter(action=AuditEvent.Action.KEY_MADE).count() == kept
    last = site.manage("create_api_key", "--company=acme", "--name=last")
    assert last.wait() == 0
    found = ApiKey.objects.find(last.output.splitlines()[-1])
    assert found
    assert (found.name, found.company) == ("last", acme)
