"""manage.py duplicates."""

import csv
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tenants.models import AuditEvent, Company, DuplicateSearch
from tests.support.duplicates import company_of, drawn, look
from tests.support.fakes import BLUE, RED, FakeEmbedder


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder) -> Company:
    red = drawn(RED)
    return company_of("acme", {"a.png": red, "=b.png": red, "c.png": drawn(RED, size=90), "d.png": drawn(BLUE)})


def run(**options: Any) -> str:
    out = StringIO()
    call_command("duplicates", company="acme", stdout=out, stderr=StringIO(), **options)
    return out.getvalue()


def test_until_somebody_has_looked_there_is_nothing_to_list(acme: Company) -> None:
    with pytest.raises(CommandError, match="Nobody has looked for duplicates of 'acme' yet"):
        run()


def test_it_looks_itself_where_that_is_asked_for(acme: Company) -> None:
    lines = run(look=True).splitlines()
    assert (len(lines), lines[-1]) == (4, "1 group")
    assert DuplicateSearch.objects.get().status == DuplicateSearch.Status.SUCCEEDED
    assert AuditEvent.objects.filter(action="duplicates asked for", channel="command").exists()
    assert run().splitlines() == lines


def test_only_the_levels_asked_for_are_listed(acme: Company) -> None:
    look(acme)
    first, second, total = run(level=["exact"]).splitlines()
    assert {first, second.split()[-1]} == {"a.png", "=b.png"}
    assert total == "1 group"


def test_a_spreadsheet_takes_no_name_for_a_formula(acme: Company) -> None:
    look(acme)
    rows = list(csv.DictReader(StringIO(run(csv=True))))
    assert {row["path"] for row in rows} == {"a.png", "'=b.png", "c.png"}
    assert {row["group"] for row in rows} == {"1"}
    assert [rows[0]["level"], rows[0]["score"]] == ["exact", "1.0"]


def test_a_search_that_runs_elsewhere_is_left_to_it(acme: Company) -> None:
    assert DuplicateSearch.objects.ask(acme).start()
    with pytest.raises(CommandError, match="is running already"):
        run(look=True)


def test_quickly_no_edited_copies_are_looked_for(acme: Company) -> None:
    run(look=True, quick=True)
    assert not DuplicateSearch.objects.get().edited


def test_a_company_without_an_index_is_named(db: None) -> None:
    Company.objects.create(name="acme")
    with pytest.raises(CommandError, match="acme has no index yet"):
        run(look=True)
