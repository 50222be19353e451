"""model_change: which model each company is searched with, and changing that."""

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from search import runtime
from search.engine.model.passport import ModelPassport
from tenants.models import AuditEvent, Company, IndexBuild
from tests.support.fakes import BLUE, RED, FakeEmbedder


@pytest.fixture
def acme(make_company: Any) -> Company:
    return make_company("acme", {"a.png": RED, "b.png": BLUE})


@pytest.fixture
def new_model(acme: Company, embedder: FakeEmbedder) -> FakeEmbedder:
    new = FakeEmbedder()
    new.passport = ModelPassport("new-weights", "e" * 64)
    runtime.use(new)
    runtime.use_also(embedder)
    return new


def model_change(*arguments: str) -> str:
    out = StringIO()
    call_command("model_change", *arguments, stdout=out)
    return out.getvalue()


def test_it_lists_where_each_company_stands(acme: Company, new_model: FakeEmbedder) -> None:
    Company.objects.create(name="newcomer")
    configured, *lines = model_change("--list").splitlines()
    assert configured == "Configured: new-weights (eeeeeeeeeeee)"
    assert [line.split("  ")[0] for line in lines] == ["acme", "newcomer"]
    assert "another model         fake-weights (ffffffffffff)" in lines[0]
    assert "no index yet" in lines[1]
    assert model_change("--list", "newcomer").splitlines() == [configured, lines[1]]


def test_all_that_it_applies_to_are_rebuilt(acme: Company, new_model: FakeEmbedder) -> None:
    Company.objects.create(name="newcomer")
    told = model_change("--rebuild", "--all")
    build = IndexBuild.objects.active().get()
    assert told == f"Build {build.pk} of acme is queued: it makes an index with the new model.\n"
    assert AuditEvent.objects.filter(channel="command", action="build asked for").latest("pk").company == "acme"


@pytest.mark.parametrize("arguments", [[], ["acme", "--all"]])
def test_it_asks_which_companies_are_meant(acme: Company, arguments: list[str]) -> None:
    with pytest.raises(CommandError, match="Which companies"):
        model_change("--use", *arguments)


def test_what_cannot_be_done_is_an_error(acme: Company) -> None:
    with pytest.raises(CommandError, match="Go back to the model before: not done for 1 of 1 companies"):
        model_change("--back", "acme")


def test_there_may_be_nothing_to_do(acme: Company) -> None:
    assert model_change("--use", "--all") == "Use the new model: there is no company to do it for\n"
