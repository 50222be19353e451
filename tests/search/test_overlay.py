"""Live changes over an index, while builds publish and processes come and go."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from search import overlay, publication, runtime
from search.companies.adoption import adopt_companies
from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt, PublishRefused
from search.engine.index.index import ImageIndex
from search.pictures import delete_image, put_image
from search.tasks import carry_out_build
from tenants.audit import on_command_line
from tenants.models import Company, LiveChange
from tests.conftest import picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]
PATIENCE = 30


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED, "blue.png": BLUE})


def row(company: Company) -> Company:
    """Return the company as a request has just read it."""
    return Company.objects.get(pk=company.pk)


def put(company: Company, path: str, colour: Any) -> str:
    return put_image(row(company), path, picture(colour).getvalue(), by=on_command_line())[0].id


def delete(company: Company, path: str) -> None:
    assert delete_image(row(company), path, by=on_command_line()) is not None


def paths(index: ImageIndex) -> set[str]:
    return {record.path for record in index.page(0, 1000)[0]}


def found(company: Company) -> set[str]:
    return paths(overlay.live_index(row(company)))


def build(company: Company) -> None:
    carry_out_build.func(company.queue_build().pk)


def test_a_build_between_reading_the_row_and_the_changes_brings_nothing_back(acme: Company, settings: Any) -> None:
    settings.KEEP_GENERATIONS = 0
    delete(acme, "red.png")
    searching = row(acme)
    build(acme)
    assert not LiveChange.objects.exists()  # settled: no index that is kept lacks it
    assert paths(overlay.live_index(searching)) == {"blue.png"}


def test_a_picture_deleted_while_a_process_has_an_older_overlay_stays_gone(acme: Company, settings: Any) -> None:
    settings.KEEP_GENERATIONS = 0
    put(acme, "green.png", GREEN)
    assert found(acme) == {"red.png", "blue.png", "green.png"}
    delete(acme, "red.png")
    searching = row(acme)
    build(acme)
    assert paths(overlay.live_index(searching)) == {"blue.png", "green.png"}


def test_the_catching_up_of_one_company_makes_no_other_wait(
    acme: Company, make_company: MakeCompany, monkeypatch: pytest.MonkeyPatch
) -> None:
    globex = make_company("globex", {"green.png": GREEN})
    put(acme, "one.png", RED)
    put(globex, "two.png", RED)
    rows = {company.name: row(company) for company in (acme, globex)}
    changes = {name: list(each.live_changes.all()) for name, each in rows.items()}
    begun, go_on, really = threading.Event(), threading.Event(), ImageIndex.with_changes

    def held(index: ImageIndex, live: Any) -> ImageIndex:
        if any(change.record.path == "one.png" for change in live):
            begun.set()
            assert go_on.wait(PATIENCE)
        return really(index, live)

    monkeypatch.setattr(ImageIndex, "with_changes", held)
    monkeypatch.setattr(overlay, "_changes", lambda company, sequence: (changes[company.name], 0))
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(overlay.live_index, rows["acme"])
        assert begun.wait(PATIENCE)
        assert paths(overlay.live_index(rows["globex"])) == {"green.png", "two.png"}
        assert not slow.done()
        go_on.set()
        assert "one.png" in paths(slow.result(PATIENCE))
    connection.close()


# Rows and disks that do not fit


def new_process(embedder: FakeEmbedder) -> None:
    runtime.reset()
    runtime.use(embedder)


def test_changes_count_on_from_what_an_index_holds_that_is_ahead_of_its_row(
    acme: Company, embedder: FakeEmbedder
) -> None:
    for number in range(3):
        put(acme, f"{number}.png", (number, 255, 0))
    build(acme)
    Company.objects.update(live_sequence=0, live_floor=0)  # a database restored from before
    LiveChange.objects.all().delete()
    new_process(embedder)
    put(acme, "later.png", GREEN)
    delete(acme, "red.png")
    assert found(acme) == {"blue.png", "0.png", "1.png", "2.png", "later.png"}
    build(acme)
    assert found(acme) == {"blue.png", "0.png", "1.png", "2.png", "later.png"}


def test_a_generation_that_is_gone_is_replaced_by_the_newest_whole_one(
    acme: Company, embedder: FakeEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    (acme.image_directory / "red.png").unlink()
    build(acme)
    lost = publication.index_directory(row(acme))
    lost.rename(lost.with_name(".elsewhere"))
    new_process(embedder)
    assert found(acme) == {"red.png", "blue.png"}
    assert f"{lost.name} of acme is gone from the disk" in caplog.text
    assert row(acme).generation == lost.name  # a search writes nothing
    lost.with_name(".elsewhere").rename(lost)
    assert found(acme) == {"blue.png"}


def test_a_worker_writes_to_the_row_what_takes_the_place_of_a_lost_generation(acme: Company) -> None:
    build(acme)
    put(acme, "green.png", GREEN)
    build(acme)
    storage.discard(publication.index_directory(row(acme)))
    publication.repair()
    assert (row(acme).generation, found(acme)) == (
        storage.linked_generation(acme.embeddings_directory),
        {"red.png", "blue.png", "green.png"},
    )


def test_no_index_below_the_floor_takes_the_place_of_a_lost_one(acme: Company, embedder: FakeEmbedder) -> None:
    first = row(acme).generation
    delete(acme, "red.png")
    build(acme)
    lost = publication.index_directory(row(acme))
    Company.objects.update(live_floor=1)
    LiveChange.objects.all().delete()
    storage.discard(lost)
    new_process(embedder)
    with pytest.raises(IndexNotBuilt, match="none is left that could take its place"):
        overlay.live_index(row(acme))
    Company.objects.update(generation=first)
    with pytest.raises(IndexCorrupt, match="older than changes that are gone"):
        overlay.live_index(row(acme))
    build(acme)
    assert found(acme) == {"blue.png"}


def test_the_row_wins_over_the_link(acme: Company, embedder: FakeEmbedder) -> None:
    first = row(acme).generation
    assert first is not None
    (acme.image_directory / "red.png").unlink()
    build(acme)
    storage.link(acme.embeddings_directory, first)
    new_process(embedder)
    assert found(acme) == {"blue.png"}
    publication.repair()
    assert storage.linked_generation(acme.embeddings_directory) == row(acme).generation


def test_a_directory_put_beside_the_row_serves_when_it_is_adopted(acme: Company, make_company: MakeCompany) -> None:
    globex = make_company("globex", {"green.png": GREEN})
    acme.embeddings_directory.unlink()
    other = publication.index_directory(row(globex))
    acme.embeddings_directory.mkdir()
    for name in ("faiss_index.bin", "embeddings.npy", "metadata.json"):
        (acme.embeddings_directory / name).write_bytes((other / name).read_bytes())
    assert found(acme) == {"red.png", "blue.png"}
    build(acme)
    assert (found(acme), storage.is_plain(acme.embeddings_directory)) == ({"red.png", "blue.png"}, True)
    put(acme, "later.png", RED)
    adopt_companies(["acme"])
    assert (found(acme), row(acme).generation) == ({"green.png", "later.png"}, None)
    build(acme)
    assert found(acme) == {"red.png", "blue.png", "later.png"}


def test_a_company_without_its_directory_is_not_listed(acme: Company, client: Any) -> None:
    assert client.get("/api/companies").json()["total"] == 1
    acme.embeddings_directory.unlink()
    assert client.get("/api/companies").json()["total"] == 0


def test_two_publications_from_the_same_index_do_not_both_win(acme: Company) -> None:
    made_from = row(acme).generation
    with storage.Draft(acme.embeddings_directory) as draft:
        for file in publication.index_directory(row(acme)).iterdir():
            (draft.path / file.name).write_bytes(file.read_bytes())
        (acme.image_directory / "red.png").unlink()
        build(acme)
        with pytest.raises(PublishRefused, match="meanwhile"):
            publication.publish(row(acme), draft, made_from=made_from)
    assert found(acme) == {"blue.png"}
    call_command("check_index", "acme")
    assert len(publication.generations(row(acme))) == 2


def test_an_older_database_restored_under_a_running_process_shows_new_changes(acme: Company) -> None:
    for number in range(4):
        put(acme, f"{number}.png", (number, 255, 0))
    kept = list(LiveChange.objects.all())
    put(acme, "lost.png", GREEN)
    delete(acme, "blue.png")
    assert found(acme) == {"red.png", "0.png", "1.png", "2.png", "3.png", "lost.png"}
    LiveChange.objects.all().delete()
    LiveChange.objects.bulk_create(kept)
    Company.objects.update(live_sequence=4)
    put(acme, "after.png", GREEN)
    delete(acme, "red.png")
    assert {"after.png", "red.png"} & found(acme) == {"after.png"}


def test_a_row_whose_changes_are_gone_and_whose_index_is_missing_is_refused_and_not_waited_for(acme: Company) -> None:
    Company.objects.update(generation=None, live_sequence=6, live_floor=6)
    acme.embeddings_directory.unlink()
    with pytest.raises(IndexCorrupt, match="older than changes that are gone"):
        overlay.live_index(row(acme))
