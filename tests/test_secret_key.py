"""Machines that share a database share SECRET_KEY: whoever has another one does not start."""

import re
import secrets
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import connection

from search.secret_key import require_common_secret_key as start
from tenants.models import SecretKeyDigest

pytestmark = pytest.mark.django_db

OLD, NEW = "the old one", "the new one"


@pytest.fixture
def machine(settings: Any) -> Any:
    """Return what makes this process a machine with a key: machine(OLD, fallbacks=(NEW,))."""

    def become(key: str, fallbacks: tuple[str, ...] = (), *, read_only: bool = False) -> None:
        settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS, settings.READ_ONLY = key, list(fallbacks), read_only

    return become


def test_a_machine_with_another_key_does_not_start_and_is_told_what_to_do(machine: Any) -> None:
    machine(OLD)
    start()
    start()
    machine(NEW)
    with pytest.raises(ImproperlyConfigured, match=r"Set it to theirs .* SECRET_KEY_FALLBACKS\. .* accept_secret_key"):
        start()


def test_a_read_only_machine_is_compared_and_decides_nothing(machine: Any) -> None:
    machine(NEW, read_only=True)
    start()
    machine(OLD)
    start()
    machine(NEW, read_only=True)
    with pytest.raises(ImproperlyConfigured):
        start()


def test_a_key_is_changed_machine_by_machine(machine: Any) -> None:
    first, second, third = (OLD, (NEW,)), (NEW, (OLD,)), (NEW, ())
    machine(OLD)
    start()
    # Each line: what the two machines have; any of them may start again at any time.
    for states in [(first, (OLD, ())), (first, first), (second, first), (second, second), (third, second)]:
        for key, fallbacks in (*states, *reversed(states)):
            machine(key, fallbacks)
            start()
    machine(*third)
    start()
    machine(OLD)
    with pytest.raises(ImproperlyConfigured):
        start()


def test_who_has_lost_the_earlier_key_goes_on_by_saying_so(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machine(OLD)
    start()
    machine(NEW)
    call_command("accept_secret_key")
    start()
    assert "API keys made with the earlier one are refused: make them anew (0 in all)" in capsys.readouterr().out
    machine(OLD)
    with pytest.raises(ImproperlyConfigured):
        start()


@pytest.mark.parametrize("digest", ["", "damaged"])
def test_a_damaged_digest_is_no_keys_and_has_the_same_way_out(machine: Any, digest: str) -> None:
    machine(OLD)
    start()
    SecretKeyDigest.objects.update(digest=digest)
    with pytest.raises(ImproperlyConfigured, match="accept_secret_key"):
        start()
    call_command("accept_secret_key")
    start()


def test_no_api_key_is_made_that_the_servers_would_refuse(make_company: Any, machine: Any) -> None:
    make_company("acme", {"red.png": (200, 0, 0)})
    machine(OLD)
    start()
    machine(NEW)
    with pytest.raises(CommandError, match="SECRET_KEY is not that of the other machines"):
        call_command("create_api_key", company="acme", name="shop")


def test_what_is_kept_tells_nothing_of_the_key_and_is_another_in_each_database(machine: Any) -> None:
    key = secrets.token_hex(8)
    machine(key)
    start()
    first = SecretKeyDigest.objects.get().digest
    SecretKeyDigest.objects.all().delete()
    start()
    second = SecretKeyDigest.objects.get().digest
    assert first != second
    assert re.fullmatch(r"[0-9a-f]{32}\$[0-9a-f]{64}", first)
    assert key not in first


@pytest.mark.django_db(transaction=True)
def test_a_database_that_was_not_migrated_stops_no_start(machine: Any, caplog: pytest.LogCaptureFixture) -> None:
    with connection.schema_editor() as schema:
        schema.delete_model(SecretKeyDigest)
    try:
        start()
    finally:
        with connection.schema_editor() as schema:
            schema.create_model(SecretKeyDigest)
    assert "SECRET_KEY is not compared" in caplog.text
