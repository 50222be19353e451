"""Another model: the index before is searched on until one of the new model takes its place; and one step back."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client, TestCase

from search import publication, runtime
from search.builds import run_build
from search.companies.consistency import disagreements, older_index
from search.companies.model_change import NoOtherModel, stand, step_back, use_new
from search.companies.removal import delete_company
from search.engine import storage
from search.engine.model.transform import Pixels
from search.engine.vectors import Vectors
from search.pictures import put_image
from search.tasks import carry_out_build, fold_live_changes, look_after_companies
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild, LiveChange
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, WHITE, FakeEmbedder

pytestmark = pytest.mark.django_db

MakeCompany = Callable[..., Company]
Colour = tuple[int, int, int]

WRITER: dict[str, Any] = {}  # headers of requests that write


@pytest.fixture
def old(embedder: FakeEmbedder) -> FakeEmbedder:
    return embedder


@pytest.fixture
def new() -> FakeEmbedder:
    return FakeEmbedder("e" * 64, weights="new-weights", first=500)


@pytest.fixture
def acme(make_company: MakeCompany, old: FakeEmbedder) -> Company:
    return make_company("acme", {"red.png": RED, "blue.png": BLUE})


@pytest.fixture
def changed(acme: Company, old: FakeEmbedder, new: FakeEmbedder) -> Company:
    """Return a company whose index the old model made, where the new one is configured and the old one at hand."""
    runtime.use(new)
    runtime.use_also(old)
    return acme


@pytest.fixture
def manual(settings: Any) -> None:
    settings.MODEL_SWITCH = "manual"


def fresh(company: Company) -> Company:
    return Company.objects.get(pk=company.pk)


@pytest.fixture(autouse=True)
def _key(acme: Company) -> None:
    """Let requests write."""
    _, key = acme.issue_key("tests", can_write=True)
    WRITER["HTTP_X_API_KEY"] = key


def put(path: str, colour: Colour) -> None:
    answer = Client().put(f"/api/images/acme/{path}", picture(colour).getvalue(), content_type="image/png", **WRITER)
    assert answer.status_code in (200, 201), answer.content


def delete(path: str) -> None:
    assert Client().delete(f"/api/images/acme/{path}", **WRITER).status_code in (200, 204)


def found(colour: Colour) -> dict[str, float]:
    """Return what a search finds that looks the same, with the scores, which two models would not give."""
    answer = Client().post("/api/search/acme", {"image": picture(colour), "top_k": 50})
    assert answer.status_code == 200, answer.content
    return {each["fullPath"]: each["score"] for each in answer.json()["results"]}


def same(colour: Colour) -> set[str]:
    return {path for path, score in found(colour).items() if score > 0.999}


def weights() -> str:
    used: str = Client().get("/api/stats/acme").json()["stats"]["index_info"]["weights"]
    return used


def build(company: Company, **wishes: bool) -> IndexBuild:
    queued = fresh(company).queue_build(**wishes)
    carry_out_build.func(queued.pk)
    return done(queued)


def done(queued: IndexBuild) -> IndexBuild:
    build = IndexBuild.objects.get(pk=queued.pk)
    assert build.status == "succeeded", build.error
    return build


def carried_out(queued: IndexBuild) -> IndexBuild:
    carry_out_build.func(queued.pk)
    return done(queued)


def fold(company: Company) -> None:
    carried_out(fresh(company).queue_build(fold=True))


# Until the next build ------------------------------------------------------------------------------------------------


def test_an_index_is_searched_with_the_model_that_made_it(changed: Company) -> None:
    assert same(RED) == {"red.png"}
    assert weights() == "fake-weights"


def test_only_weights_that_are_gone_are_a_503_which_names_them(acme: Company, new: FakeEmbedder) -> None:
    runtime.use(new)
    answer = Client().post("/api/search/acme", {"image": picture(RED)})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_mismatch")
    assert "fake-weights (ffffffffffff)" in answer.json()["error"]
    assert "fake-weights (ffffffffffff)" in stand(acme).missing


def test_pictures_are_put_with_the_model_of_the_index(changed: Company, new: FakeEmbedder) -> None:
    put("green.png", GREEN)
    assert same(GREEN) == {"green.png"}
    fold(changed)
    assert same(GREEN) == {"green.png"}
    assert weights() == "fake-weights"
    assert new.embedded == 0


def test_pictures_put_before_the_first_index_stay_with_their_model(
    old: FakeEmbedder, new: FakeEmbedder, acme: Company
) -> None:
    globex = Company.objects.create(name="globex", public_page=True)
    put_image(globex, "a.png", picture(RED).getvalue(), by=on_command_line())
    runtime.reset()
    runtime.use(new)
    runtime.use_also(old)
    put_image(globex, "b.png", picture(RED).getvalue(), by=on_command_line())
    answer = Client().post("/api/search/globex", {"image": picture(RED)})
    assert [each["score"] > 0.999 for each in answer.json()["results"]] == [True, True]


def test_pictures_put_before_the_first_index_are_embedded_anew_where_their_weights_are_gone(
    new: FakeEmbedder, acme: Company
) -> None:
    globex = Company.objects.create(name="globex", public_page=True)
    put_image(globex, "a.png", picture(RED).getvalue(), by=on_command_line())
    runtime.reset()
    runtime.use(new)
    assert Client().post("/api/search/globex", {"image": picture(RED)}).json()["results"] == []
    fold(globex)
    (only,) = Client().post("/api/search/globex", {"image": picture(RED)}).json()["results"]
    assert only["score"] > 0.999


# The switch ----------------------------------------------------------------------------------------------------------


def test_a_build_with_another_model_takes_the_place_of_the_index(changed: Company) -> None:
    put("green.png", GREEN)
    done = build(changed)
    assert weights() == "new-weights"
    assert same(GREEN) == {"green.png"}
    assert (done.weights, done.weights_before, done.fingerprint) == ("new-weights", "fake-weights", "e" * 64)
    assert (done.overlap, done.overlap_tried) == (1.0, 2)  # of what both have; green.png is live in one of them
    company = fresh(changed)
    assert (company.candidate, company.model_before) == (None, "f" * 64)
    assert disagreements(company) == []
    assert older_index(company) == ""


def test_pictures_put_while_it_builds_are_there_after_the_switch(changed: Company) -> None:
    put("before.png", WHITE)
    queued = changed.queue_build()
    assert queued.start()
    once = iter([1])

    def put_and_delete(_: Any) -> None:
        if next(once, 0):
            put("green.png", GREEN)
            put("red.png", WHITE)
            delete("blue.png")

    run_build(queued, on_progress=put_and_delete)
    assert weights() == "new-weights"
    assert same(GREEN) == {"green.png"}
    assert same(WHITE) == {"before.png", "red.png"}
    assert "blue.png" not in found(BLUE)
    fold(changed)
    assert same(GREEN) == {"green.png"}


def test_a_picture_that_was_embedded_for_the_index_before_is_embedded_anew(changed: Company, old: FakeEmbedder) -> None:
    """The switch comes between the two: after the embedding, before the row."""
    switching = old.embed

    def embed(batch: Sequence[Pixels]) -> Vectors:
        old.embed = switching  # type: ignore[method-assign]
        build(changed)
        return switching(batch)

    old.embed = embed  # type: ignore[method-assign]
    put("green.png", GREEN)
    assert weights() == "new-weights"
    assert same(GREEN) == {"green.png"}


def test_what_cannot_be_read_from_the_folder_is_named(changed: Company) -> None:
    queued = changed.queue_build()
    assert queued.start()
    once = iter([1])

    def put_and_lose(_: Any) -> None:
        if next(once, 0):
            put("green.png", GREEN)
            (changed.image_directory / "green.png").unlink()

    outcome = run_build(queued, on_progress=put_and_lose)
    assert [file.path for file in outcome.skipped_files] == ["green.png"]
    assert "added with another model" in queued.skipped_files.get().reason
    assert same(RED) == {"red.png"}


def test_a_build_that_was_interrupted_goes_on_with_what_was_made(
    changed: Company, manual: None, new: FakeEmbedder
) -> None:
    build(changed)
    assert new.embedded == 2
    again = build(changed)
    assert new.embedded == 2
    assert again.full_reason == ""
    assert again.candidate == fresh(changed).candidate


@pytest.mark.slow
def test_a_dry_run_tells_what_is_left_of_a_change_of_model(
    changed: Company, manual: None, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("build_embeddings", company="acme", dry_run=True)
    assert "2 to process" in capsys.readouterr().out
    build(changed)
    call_command("build_embeddings", company="acme", dry_run=True)
    assert "0 to process, 2 unchanged" in capsys.readouterr().out


# By hand -------------------------------------------------------------------------------------------------------------


def test_a_candidate_waits_until_somebody_uses_it(changed: Company, manual: None) -> None:
    build(changed)
    assert weights() == "fake-weights"
    now = stand(fresh(changed))
    assert now.candidate is not None
    assert now.comparison is not None
    assert (now.comparison.overlap, now.comparison.overlap_tried) == (1.0, 2)
    assert (now.is_current, now.has_new, now.before) == (False, True, None)
    put("green.png", GREEN)
    fold(changed)
    put("white.png", WHITE)
    delete("blue.png")
    assert fresh(changed).candidate == now.candidate.name
    carried_out(use_new(fresh(changed), by=on_command_line()))
    assert weights() == "new-weights"
    assert same(GREEN) == {"green.png"}
    assert same(WHITE) == {"white.png"}
    assert "blue.png" not in found(BLUE)
    now = stand(fresh(changed))
    assert now.before is not None
    assert (now.is_current, now.has_new, now.before.weights) == (True, False, "fake-weights")
    with pytest.raises(NoOtherModel):
        use_new(fresh(changed), by=on_command_line())


def test_builds_go_on_for_searches_while_a_candidate_waits(changed: Company, manual: None) -> None:
    build(changed)
    paint(changed.image_directory / "green.png", GREEN)
    build(changed)
    assert weights() == "fake-weights"
    assert same(GREEN) == {"green.png"}
    carried_out(use_new(fresh(changed), by=on_command_line()))
    assert same(GREEN) == {"green.png"}


@pytest.mark.slow
def test_a_candidate_is_given_up_when_its_model_is_not_configured_any_more(
    changed: Company, manual: None, old: FakeEmbedder
) -> None:
    build(changed)
    candidate = fresh(changed).candidate
    runtime.use(old)
    build(changed)
    assert fresh(changed).candidate is None
    assert candidate not in [each.name for each in publication.generations(fresh(changed))]


@pytest.mark.slow
def test_a_candidate_stays_through_folds_and_settling_and_never_serves_in_place_of_another(
    changed: Company, manual: None, settings: Any
) -> None:
    settings.KEEP_GENERATIONS = 0
    build(changed)
    for number in range(2):
        put(f"{number}.png", (number, 255, 0))
        fold(changed)
    company = fresh(changed)
    assert not LiveChange.objects.exists()  # the candidate keeps none
    names = [each.name for each in publication.generations(company)]
    assert sorted(names) == sorted([str(company.candidate), str(company.generation)])
    publication.index_directory(company).rename(company.embeddings_directory.parent / "gone")
    model = runtime.embedder()
    runtime.reset()  # as in a process that has just begun
    runtime.use(model)
    assert Client().post("/api/search/acme", {"image": picture(RED)}).status_code == 503
    look_after_companies()
    assert fresh(changed).generation == company.generation


@pytest.mark.slow
def test_a_candidate_that_is_gone_is_said_and_made_anew(changed: Company, manual: None) -> None:
    build(changed)
    company = fresh(changed)
    storage.discard(storage.generation_directory(company.embeddings_directory, str(company.candidate)))
    (said,) = disagreements(company)
    assert str(company.candidate) in said
    look_after_companies()
    assert fresh(changed).candidate is None
    carried_out(use_new(fresh(changed), by=on_command_line()))
    assert weights() == "new-weights"


@pytest.mark.slow
def test_a_candidate_goes_with_its_company(changed: Company, manual: None) -> None:
    build(changed)
    company = fresh(changed)
    with TestCase.captureOnCommitCallbacks(execute=True):
        delete_company(company, by=on_command_line())
    assert [each.name for each in storage.generations(company.embeddings_directory, None)] == [company.generation]


@pytest.mark.slow
def test_who_uses_the_new_model_while_a_build_runs_gets_it_afterwards(changed: Company, manual: None) -> None:
    running = changed.queue_build()
    assert running.start()
    asked = iter([1])

    def ask(_: Any) -> None:
        if next(asked, 0):
            use_new(fresh(changed), by=on_command_line())

    run_build(running, on_progress=ask)
    assert weights() == "fake-weights"
    carried_out(changed.builds.active().get())
    assert weights() == "new-weights"


def test_without_the_weights_of_the_model_in_use_nobody_is_asked(
    acme: Company, manual: None, new: FakeEmbedder
) -> None:
    runtime.use(new)
    build(acme)
    assert weights() == "new-weights"


# Back ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_step_back_after_folds_and_further_builds_hides_nothing(
    changed: Company, old: FakeEmbedder, settings: Any
) -> None:
    settings.KEEP_GENERATIONS = 1
    build(changed)
    runtime.use_also(old)
    put("green.png", GREEN)
    fold(changed)
    paint(changed.image_directory / "white.png", WHITE)
    build(changed)
    put("late.png", (9, 9, 9))
    delete("blue.png")
    embedded = old.embedded
    carried_out(step_back(fresh(changed), by=on_command_line()))
    assert weights() == "fake-weights"
    assert old.embedded == embedded + 3  # what the index of that model lacks, not what it has
    assert same(RED) == {"red.png"}
    assert [same(colour) for colour in (GREEN, WHITE, (9, 9, 9))] == [{"green.png"}, {"white.png"}, {"late.png"}]
    assert "blue.png" not in found(BLUE)


@pytest.mark.slow
def test_builds_stay_with_the_model_before_until_somebody_uses_the_new_one(
    changed: Company, old: FakeEmbedder, new: FakeEmbedder
) -> None:
    build(changed)
    runtime.use_also(old)
    carried_out(step_back(fresh(changed), by=on_command_line()))
    paint(changed.image_directory / "green.png", GREEN)
    build(changed)
    assert weights() == "fake-weights"
    now = stand(fresh(changed))
    assert (now.keeps_own, now.is_current, now.has_new, now.before) == (True, True, True, None)
    with pytest.raises(NoOtherModel):
        step_back(fresh(changed), by=on_command_line())
    carried_out(use_new(fresh(changed), by=on_command_line()))
    assert weights() == "new-weights"
    assert same(GREEN) == {"green.png"}
    assert not stand(fresh(changed)).keeps_own


@pytest.mark.slow
def test_a_rollback_to_an_index_of_the_model_before_hides_nothing(changed: Company, old: FakeEmbedder) -> None:
    build(changed)
    runtime.use_also(old)
    put("green.png", GREEN)
    call_command("rollback_index", "acme")
    assert weights() == "fake-weights"
    assert same(GREEN) == {"green.png"}
    build(changed)
    assert weights() == "fake-weights"


@pytest.mark.slow
def test_changes_that_an_index_in_place_of_another_hides_are_embedded_by_a_fold(
    changed: Company, old: FakeEmbedder
) -> None:
    build(changed)
    runtime.use_also(old)
    put("green.png", GREEN)
    company = fresh(changed)
    publication.index_directory(company).rename(company.embeddings_directory.parent / "gone")
    look_after_companies()
    assert weights() == "fake-weights"
    assert same(GREEN) == set()
    fold_live_changes.func(company.pk)
    carried_out(company.builds.active().get())
    assert same(GREEN) == {"green.png"}
