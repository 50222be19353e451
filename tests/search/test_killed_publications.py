"""Publications by processes that are killed between their steps, and what the next worker makes of it."""

import logging
from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client

from search import runtime
from search.companies.consistency import disagreements
from search.tasks import look_after_companies
from tenants.models import Company
from tests.conftest import paint, picture
from tests.search.companies.test_adoption import flask
from tests.search.test_build_workers import let_lease_expire
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.processes import KILLED, Site

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

OLD, NEW = {"red.png", "sub/blue.png"}, {"red.png", "sub/blue.png", "green.png"}

ROW = "search.publication:_switch"
STEPS = [
    pytest.param("search.engine.storage.writing:Draft.complete", id="complete"),
    pytest.param("search.engine.storage:prepare_link", id="link prepared", marks=pytest.mark.slow),
    pytest.param(ROW, id="row"),
    pytest.param("search.engine.storage:link", id="link", marks=pytest.mark.slow),
    pytest.param("search.publication:write_protection", id="protection", marks=pytest.mark.slow),
]


def nothing() -> Company:
    company = Company.objects.create(name="acme")
    for name, colour in {"red.png": RED, "sub/blue.png": BLUE}.items():
        paint(company.image_directory / name, colour)
    return company


def plain_directory() -> Company:
    company = nothing()
    flask(company.embeddings_directory)
    return company


def generation_of_ours() -> Company:
    company = nothing()
    build()
    company.refresh_from_db()
    return company


BEFORE = [nothing, plain_directory, generation_of_ours]


def found() -> set[str]:
    """Return what a process that has just begun finds; nothing where there is no index yet."""
    embedder = runtime.embedder()
    runtime.reset()
    runtime.use(embedder)
    answer = Client(raise_request_exception=False).post("/api/search/acme", {"image": picture(RED)})
    if answer.status_code == 503:
        assert "has no index yet" in answer.json()["error"]
        return set()
    return {entry["fullPath"] for entry in answer.json()["results"]}


def kill_a_build(site: Site, company: Company, step: str) -> None:
    paint(company.image_directory / "green.png", GREEN)
    killed = site.manage("build_embeddings", "--company=acme", die_after=step)
    assert killed.wait() == KILLED, killed.output
    let_lease_expire(company.builds.active().get())


def build() -> None:
    call_command("build_embeddings", company="acme", stdout=StringIO())


def require_agreement() -> None:
    """See that the link leads to what the row names."""
    company = Company.objects.get()
    assert disagreements(company) == []
    if company.generation:
        assert company.embeddings_directory.resolve().name == company.generation


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("before", BEFORE)
def test_a_publication_that_is_killed_leaves_a_whole_index_and_the_next_worker_brings_all_in_line(
    site: Site, embedder: FakeEmbedder, before: Callable[[], Company], step: str
) -> None:
    company = before()
    old, generation = found(), company.generation
    kill_a_build(site, company, step)
    company.refresh_from_db()
    seen = found()
    assert seen in ([NEW] if company.generation != generation else [old, NEW])
    look_after_companies()
    require_agreement()
    assert found() == seen
    build()
    assert found() == NEW
    assert disagreements(Company.objects.get()) == []
    if old:
        call_command("rollback_index", "acme", stdout=StringIO())
        assert found() == old  # and not to what was never published


@pytest.mark.parametrize("before", [plain_directory, generation_of_ours])
def test_the_next_build_finishes_a_publication_that_was_cut_short(
    site: Site, embedder: FakeEmbedder, before: Callable[[], Company]
) -> None:
    company = before()
    kill_a_build(site, company, ROW)
    (said,) = disagreements(Company.objects.get())
    assert "was cut short" in said or "but the index that is used is" in said
    paint(company.image_directory / "green.png", BLUE)
    build()
    require_agreement()
    assert found() == NEW
    call_command("rollback_index", "acme", stdout=StringIO())
    call_command("rollback_index", "acme", stdout=StringIO())
    assert found() == OLD  # the plain directory has become the oldest version


def test_a_rollback_that_is_killed_after_the_row_is_completed_by_the_next_worker(
    site: Site, embedder: FakeEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    company = generation_of_ours()
    paint(company.image_directory / "green.png", GREEN)
    build()
    killed = site.manage("rollback_index", "acme", die_after=ROW)
    assert killed.wait() == KILLED
    assert found() == OLD
    with caplog.at_level(logging.WARNING):
        look_after_companies()
    assert "The link of acme leads to" in caplog.text
    require_agreement()
    assert found() == OLD


CHANGES_OF_MODEL = [
    pytest.param("search.engine.storage.writing:Draft.complete", True, id="candidate complete", marks=pytest.mark.slow),
    pytest.param("search.publication:name_candidate", True, id="candidate named"),
    pytest.param("search.builds:_compare", True, id="compared", marks=pytest.mark.slow),
    pytest.param("search.engine.storage:prepare_link", True, id="link prepared", marks=pytest.mark.slow),
    pytest.param(ROW, False, id="row"),
    pytest.param("search.engine.storage:link", False, id="link", marks=pytest.mark.slow),
    pytest.param("search.engine.storage:prune", False, id="pruned", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("step", "old_serves"), CHANGES_OF_MODEL)
def test_a_change_of_model_that_is_killed_leaves_one_that_is_searched_and_goes_on_where_it_was(
    site: Site, step: str, old_serves: bool
) -> None:
    old, new = FakeEmbedder("e" * 64, weights="old", first=500), FakeEmbedder()
    runtime.use(old)
    company = generation_of_ours()
    kill_a_build(site, company, step)
    runtime.use(new)
    runtime.use_also(old)
    seen = Client().post("/api/search/acme", {"image": picture(RED)}).json()["results"]
    assert {entry["fullPath"] for entry in seen} == (OLD if old_serves else NEW)
    assert seen[0]["score"] > 0.999
    look_after_companies()
    require_agreement()
    embedded = new.embedded
    build()
    require_agreement()
    assert new.embedded == embedded
    company.refresh_from_db()
    assert (company.candidate, company.model_before) == (None, "e" * 64)
    seen = Client().post("/api/search/acme", {"image": picture(RED)}).json()["results"]
    assert {entry["fullPath"] for entry in seen} == NEW
