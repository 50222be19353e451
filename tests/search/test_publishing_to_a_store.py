"""What becomes of a company's index where IMAGESEARCH_STORE is set: real objects, in a server of the test run's own."""

from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from search import belongings, publication, runtime, stores
from search.builds import run_build
from search.companies.adoption import adopt_companies
from search.companies.removal import delete_company
from search.engine import storage
from search.engine.errors import StoreRefused, StoreUnavailable
from search.engine.objects import ObjectStore
from search.engine.storage import remote
from search.pictures import put_image
from search.tasks import look_after_companies
from tenants import audit
from tenants.models import Company, IndexBuild, JobStopped
from tests.conftest import paint, picture
from tests.search.companies.test_adoption import flask
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.object_store import StoreServer

NOBODY = "http://127.0.0.1:9"  # where no store listens
OPERATOR = audit.on_command_line()


@pytest.fixture
def store(settings: Any, store_server: StoreServer, tmp_path: Path) -> ObjectStore:
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = tmp_path / "replica"
    settings.INDEX_DIR.mkdir()
    root = stores.root()
    assert root is not None
    return root


@pytest.fixture
def acme(store: ObjectStore, db: None, embedder: FakeEmbedder) -> Company:
    return Company.objects.create(name="acme")


@pytest.fixture
def all_machines_are_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves is known everywhere at once."""
    monkeypatch.setattr(publication, "_MACHINES_LAG", timedelta(0))


def build(company: Company, name: str, colour: Any) -> str:
    """Return the generation that holds this picture as well."""
    paint(company.image_directory / name, colour)
    call_command("build_embeddings", company=company.name, stdout=StringIO())
    company.refresh_from_db()
    assert company.generation
    return company.generation


def found(name: str = "acme") -> set[str]:
    """Return what a machine finds that has nothing yet."""
    embedder = runtime.embedder()
    runtime.reset()
    runtime.use(embedder)
    answer = Client().post(f"/api/search/{name}", {"image": picture(RED)})
    return {entry["fullPath"] for entry in answer.json()["results"]}


def test_a_build_publishes_into_the_store_and_leaves_no_link(acme: Company, store: ObjectStore) -> None:
    name = build(acme, "red.png", RED)
    (stored,) = remote.look(store.below("acme"))
    assert (stored.name, stored.is_complete) == (name, True)
    assert stored.published_at
    assert not acme.embeddings_directory.is_symlink()
    assert found() == {"red.png"}


def test_earlier_generations_stay_while_machines_may_use_them(acme: Company, store: ObjectStore) -> None:
    names = [build(acme, f"{number}.png", RED) for number in range(2)]
    assert remote.names(store.below("acme")) == names[::-1]


@pytest.mark.slow
@pytest.mark.usefixtures("all_machines_are_quick")
def test_so_many_earlier_generations_stay_in_the_store(acme: Company, store: ObjectStore, settings: Any) -> None:
    settings.KEEP_GENERATIONS = 0
    names = [build(acme, f"{number}.png", RED) for number in range(3)]
    assert remote.names(store.below("acme")) == names[:0:-1]  # one before it, for machines that are late


@pytest.mark.usefixtures("all_machines_are_quick")
def test_a_rollback_is_for_all_machines_and_what_was_given_up_goes_with_the_next_publication(
    acme: Company, store: ObjectStore
) -> None:
    first, second = build(acme, "red.png", RED), build(acme, "blue.png", BLUE)
    call_command("rollback_index", "acme", stdout=StringIO())
    acme.refresh_from_db()
    assert acme.generation == first
    assert found() == {"red.png"}
    assert remote.names(store.below("acme")) == [second, first]

    third = build(acme, "green.png", GREEN)
    assert remote.names(store.below("acme")) == [third, first]


@pytest.mark.slow
def test_a_new_generation_sorts_behind_one_of_a_machine_whose_clock_is_ahead(acme: Company, store: ObjectStore) -> None:
    first = build(acme, "red.png", RED)
    ahead = f"2999{first[4:]}"
    remote.upload(store.below("acme"), storage.generation_directory(acme.embeddings_directory, first), ahead)
    assert build(acme, "blue.png", BLUE) > ahead


@pytest.mark.slow
def test_live_changes_stay_until_every_machine_may_have_the_index_that_holds_them(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(acme, "red.png", RED)
    put_image(acme, "blue.png", picture(BLUE).read(), by=OPERATOR)
    assert acme.live_changes.count() == 1
    build(acme, "green.png", GREEN)
    acme.refresh_from_db()
    assert (acme.live_changes.count(), acme.live_floor) == (1, 0)

    monkeypatch.setattr(publication, "_MACHINES_LAG", timedelta(0))
    build(acme, "other.png", GREEN)  # the one with the change is one behind now
    build(acme, "more.png", GREEN)
    acme.refresh_from_db()
    assert (acme.live_changes.count(), acme.live_floor) == (0, 1)
    assert found() >= {"blue.png"}


@pytest.mark.slow
def test_where_the_store_lost_a_generation_the_newest_above_the_floor_takes_its_place(
    acme: Company, store: ObjectStore
) -> None:
    first, second = build(acme, "red.png", RED), build(acme, "blue.png", BLUE)
    remote.remove(store.below("acme"), second)
    look_after_companies()
    acme.refresh_from_db()
    assert acme.generation == first


def test_a_machine_that_repairs_downloads_nothing(acme: Company, settings: Any, tmp_path: Path) -> None:
    build(acme, "red.png", RED)
    settings.INDEX_DIR = tmp_path / "another machine"
    publication.repair()
    assert list(settings.INDEX_DIR.rglob("faiss_index.bin")) == []


def test_leftovers_of_killed_publishers_and_of_builds_that_are_over_are_collected(
    acme: Company, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = build(acme, "red.png", RED)
    files = storage.generation_directory(acme.embeddings_directory, name)
    remote.upload(store.below("acme"), files, f"2999{name[4:]}")
    active = IndexBuild.objects.create(company=acme)
    over = IndexBuild.objects.get(status=IndexBuild.Status.SUCCEEDED)
    for each in (active, over):
        store.write(f".building/{acme.pk}/{each.pk}/1.unit", b"1")

    publication.collect_leftovers()
    assert len(remote.names(store.below("acme"))) == 2  # somebody may be about to publish it
    monkeypatch.setattr(publication, "_GRACE", timedelta(seconds=-1))
    publication.collect_leftovers()
    assert remote.names(store.below("acme")) == [name]
    assert [each.key for each in store.listing(".building")] == [f".building/{acme.pk}/{active.pk}/1.unit"]


def test_a_company_that_is_deleted_with_its_index_leaves_nothing(
    acme: Company, store: ObjectStore, django_capture_on_commit_callbacks: Any
) -> None:
    build(acme, "red.png", RED)
    with django_capture_on_commit_callbacks(execute=True):
        delete_company(acme, by=OPERATOR, remove_index=True)
    assert [each.key for each in store.listing("acme")] == []


def test_an_index_that_is_kept_comes_back_closed_on_any_machine(
    acme: Company, settings: Any, tmp_path: Path, django_capture_on_commit_callbacks: Any
) -> None:
    name = build(acme, "red.png", RED)
    put_image(acme, "blue.png", picture(BLUE).read(), by=OPERATOR)
    with django_capture_on_commit_callbacks(execute=True):
        delete_company(acme, by=OPERATOR)
    settings.INDEX_DIR = tmp_path / "another machine"

    (adopted,) = adopt_companies(by=OPERATOR)
    assert (adopted.generation, adopted.active, adopted.live_changes.count()) == (name, False, 1)
    assert adopt_companies(by=OPERATOR) == []


@pytest.mark.slow
def test_a_company_moves_from_one_store_to_another_as_an_archive(
    acme: Company, store_server: StoreServer, settings: Any, tmp_path: Path
) -> None:
    build(acme, "red.png", RED)
    call_command("export_company", "acme", to=tmp_path / "acme.tar", stdout=StringIO())
    settings.STORE = store_server.make_bucket()
    call_command("import_company", "globex", str(tmp_path / "acme.tar"), stdout=StringIO())
    assert found("globex") == {"red.png"}


@pytest.mark.slow
def test_what_protects_a_company_and_its_duplicates_lie_in_the_store(
    acme: Company, store: ObjectStore, django_capture_on_commit_callbacks: Any
) -> None:
    build(acme, "red.png", RED)
    paint(acme.image_directory / "copy.png", RED)
    build(acme, "blue.png", BLUE)
    acme.requires_api_key = True
    with django_capture_on_commit_callbacks(execute=True):
        acme.save()
    call_command("duplicates", company="acme", look=True, stdout=StringIO())

    card = belongings.read_company_card(acme)
    assert card is not None
    assert card["requires_api_key"] is True
    pairs = belongings.read_duplicates(acme)
    assert pairs is not None
    assert pairs.ended
    assert {each.key for each in store.children("acme")[1]} == {"acme/company.json", "acme/.duplicates"}


@pytest.mark.slow
def test_a_build_waits_for_a_store_that_is_away_and_the_old_index_serves(acme: Company, settings: Any) -> None:
    first = build(acme, "red.png", RED)
    endpoint, settings.STORE_ENDPOINT = settings.STORE_ENDPOINT, NOBODY
    paint(acme.image_directory / "blue.png", BLUE)
    queued = acme.queue_build()
    assert queued.start()
    with pytest.raises(JobStopped, match="goes on in a moment: The store"):
        run_build(queued)
    queued.refresh_from_db()
    assert (queued.status, queued.attempts) == (IndexBuild.Status.QUEUED, 0)

    with pytest.raises(StoreUnavailable, match="cannot be used"):
        publication.generations(acme)
    acme.refresh_from_db()
    assert acme.generation == first
    assert found() == {"red.png"}

    settings.STORE_ENDPOINT = endpoint
    assert queued.start()
    run_build(queued)
    assert found() == {"red.png", "blue.png"}


def test_a_build_fails_where_the_store_refuses_because_waiting_does_not_help(acme: Company, settings: Any) -> None:
    settings.STORE = "s3://no-such-bucket/indexes"
    paint(acme.image_directory / "red.png", RED)
    queued = acme.queue_build()
    assert queued.start()

    with pytest.raises(StoreRefused):
        run_build(queued)

    queued.refresh_from_db()
    assert queued.status == IndexBuild.Status.FAILED
    assert "s3://no-such-bucket" in queued.error


@pytest.mark.slow
def test_an_index_of_another_model_waits_in_the_store_and_is_used_from_another_machine(
    acme: Company, embedder: FakeEmbedder, store: ObjectStore, settings: Any, tmp_path: Path
) -> None:
    settings.MODEL_SWITCH = "manual"
    first = build(acme, "red.png", RED)
    runtime.use(FakeEmbedder("e" * 64, weights="new-weights", first=500))
    runtime.use_also(embedder)
    assert build(acme, "blue.png", BLUE) != first  # with the old model
    served, candidate = acme.generation, acme.candidate
    assert candidate in remote.names(store.below("acme"))
    assert remote.served_last(store.below("acme")) == served

    settings.INDEX_DIR = tmp_path / "another machine"
    publication.use_candidate(acme, made_from=served)
    acme.refresh_from_db()
    assert (acme.generation, acme.candidate) == (candidate, None)
    assert found() == {"red.png", "blue.png"}


# upload_indexes -------------------------------------------------------------------------------------------------------


def test_indexes_in_a_folder_are_taken_into_the_store_as_they_are(
    db: None, embedder: FakeEmbedder, settings: Any, store_server: StoreServer, tmp_path: Path
) -> None:
    acme, globex = Company.objects.create(name="acme"), Company.objects.create(name="globex")
    names = [build(acme, "red.png", RED), build(acme, "blue.png", BLUE)]
    flask(globex.embeddings_directory)
    before = sorted(path for path in settings.EMBEDDINGS_DIR.rglob("*"))
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = tmp_path / "replica"

    for _ in range(2):  # again: nothing is left to do
        call_command("upload_indexes", stdout=StringIO())
        root = stores.root()
        assert root is not None
        assert remote.names(root.below("acme")) == names[::-1]
        assert remote.served_last(root.below("acme")) == names[1]
        globex.refresh_from_db()
        assert remote.names(root.below("globex")) == [globex.generation]
    assert found() == {"red.png", "blue.png"}
    assert found("globex") == {"red.png", "sub/blue.png"}
    assert sorted(path for path in settings.EMBEDDINGS_DIR.rglob("*")) == before


def test_an_index_that_is_damaged_is_not_taken_into_the_store(
    db: None, embedder: FakeEmbedder, settings: Any, store_server: StoreServer, tmp_path: Path
) -> None:
    acme = Company.objects.create(name="acme")
    name = build(acme, "red.png", RED)
    (acme.embeddings_directory / "metadata.json").write_bytes(b"damaged")
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = tmp_path / "replica"

    said = StringIO()
    with pytest.raises(CommandError, match="could not be uploaded"):
        call_command("upload_indexes", stdout=StringIO(), stderr=said)
    assert f"{name}: metadata.json has changed" in said.getvalue()


def test_a_damaged_directory_of_the_flask_service_does_not_keep_others_from_the_store(
    db: None, embedder: FakeEmbedder, settings: Any, store_server: StoreServer, tmp_path: Path
) -> None:
    acme, globex = Company.objects.create(name="acme"), Company.objects.create(name="globex")
    for company in (acme, globex):
        flask(company.embeddings_directory)
    (acme.embeddings_directory / "metadata.json").write_bytes(b"damaged")
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = tmp_path / "replica"

    said = StringIO()
    with pytest.raises(CommandError, match="could not be uploaded"):
        call_command("upload_indexes", stdout=StringIO(), stderr=said)
    assert "acme: " in said.getvalue()
    assert "metadata.json" in said.getvalue()
    assert found("globex") == {"red.png", "sub/blue.png"}
    acme.refresh_from_db()
    assert acme.generation is None


def test_without_a_store_nothing_is_uploaded(db: None) -> None:
    with pytest.raises(CommandError, match="IMAGESEARCH_STORE is not set"):
        call_command("upload_indexes")
