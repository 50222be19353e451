"""Builds that are cut into units, in this process; test_unit_workers.py has many processes share them."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from django_tasks_db.models import DBTaskResult

from search import runtime, unit_work
from search.builds import run_build
from search.companies.removal import delete_company
from search.engine import storage
from search.engine.build.builder import BuildOptions, BuildProgress, build_index
from search.engine.build.units import FolderPlace, UnitResult
from search.engine.errors import UnitFailed
from search.engine.index.index import ImageIndex
from search.engine.model.transform import Pixels
from search.engine.objects import ObjectStore, open_store
from search.engine.storage.layout import home, workspaces
from search.engine.vectors import Vectors
from search.stopping import StopRequested
from search.tasks import carry_out_build, help_with_builds, look_after_companies
from search.units import drop_places, make, place_of
from tenants.audit import on_command_line
from tenants.models import BuildUnit, Company, IndexBuild, JobCancelled
from tests.engine.build.test_builder import LONG_AGO, assert_same_index, colour_of
from tests.search.test_builds import carry_out, put, waiting_tasks
from tests.support.fakes import BLUE, FakeEmbedder
from tests.support.object_store import StoreServer

Status = IndexBuild.Status


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder, settings: Any) -> Iterator[Company]:
    settings.UNIT_PICTURES = embedder.pictures_a_run = 4
    company = Company.objects.create(name="acme")
    for number in range(16):
        put(company, f"{number:02}.bmp", colour_of(number))
    yield company
    unit_work._left.clear()


def in_one_piece(company: Company, tmp_path: Path) -> ImageIndex:
    target = tmp_path / "one piece" / company.name
    build_index(company.image_directory, target, embedder=FakeEmbedder(), options=BuildOptions(max_pixels=1_000_000))
    return storage.load(target)


def build_while(company: Company, act: Callable[[], object], *, units: int = 4) -> IndexBuild:
    """Build the company's index; act is called once, while the publisher embeds a unit and so many are left."""
    build = company.queue_build()
    assert build.start()
    calls = iter([act])

    def once(progress: BuildProgress) -> None:
        left = [unit.status for unit in build.units.all()]
        if Status.RUNNING in left and len(left) == units:
            next(calls, lambda: None)()

    try:
        run_build(build, on_progress=once)
    finally:
        assert next(calls, None) is None, "the publisher has embedded no unit"
    build.refresh_from_db()
    return build


def help_once() -> None:
    """Embed a unit as a worker does that others wait for."""
    unit_work.embed_units(others_wait=lambda: True, call_for_help=lambda: None)


def left_in_the_place(company: Company) -> list[str]:
    found = (directory for directory in workspaces(company.embeddings_directory) if "units" in directory.name)
    return sorted(file.name for directory in found for file in directory.iterdir())


def test_a_build_that_nobody_helps_embeds_all_its_units(acme: Company, tmp_path: Path) -> None:
    (acme.image_directory / "broken.png").touch()
    build = carry_out(acme.queue_build())
    assert (build.status, build.error) == (Status.SUCCEEDED, "")
    assert (build.images_found, build.images_embedded, build.images_skipped) == (17, 16, 1)
    assert (build.units_total, build.units_done, build.units_running) == (5, 5, 0)
    assert_same_index(storage.load(acme.embeddings_directory), in_one_piece(acme, tmp_path))
    assert not BuildUnit.objects.exists()
    assert not left_in_the_place(acme)


def test_a_build_of_no_more_pictures_than_a_unit_is_not_cut(acme: Company) -> None:
    for number in range(4, 16):
        (acme.image_directory / f"{number:02}.bmp").unlink()
    build = carry_out(acme.queue_build())
    assert (build.status, build.units_total) == (Status.SUCCEEDED, 0)
    assert ("search.tasks.help_with_builds", []) not in waiting_tasks()


def test_a_helper_embeds_a_unit_of_the_build(acme: Company, embedder: FakeEmbedder, tmp_path: Path) -> None:
    helped = []

    def act() -> None:
        help_once()
        helped.append(BuildUnit.objects.get(status=Status.SUCCEEDED).embedded)

    build = build_while(acme, act)
    assert helped == [4]
    assert embedder.embedded == 16
    assert (build.status, build.images_embedded) == (Status.SUCCEEDED, 16)
    assert_same_index(storage.load(acme.embeddings_directory), in_one_piece(acme, tmp_path))


def test_a_build_asks_for_one_worker_and_who_comes_for_the_next(acme: Company) -> None:
    asked = []

    def act() -> None:
        DBTaskResult.objects.filter(priority=0).delete()  # to which it would give way
        asked.append(waiting_tasks().count(("search.tasks.help_with_builds", [])))
        help_with_builds.func()
        asked.append(BuildUnit.objects.filter(status=Status.SUCCEEDED).count())

    build_while(acme, act)
    assert asked == [1, 3]
    assert waiting_tasks().count(("search.tasks.help_with_builds", [])) == 1


@pytest.mark.slow
def test_a_worker_asked_for_help_when_all_is_done_has_nothing_to_do(acme: Company) -> None:
    carry_out(acme.queue_build())
    help_with_builds.func()
    assert not BuildUnit.objects.exists()


@pytest.mark.slow
def test_a_damaged_result_is_made_again(acme: Company, embedder: FakeEmbedder, tmp_path: Path) -> None:
    def act() -> None:
        help_once()
        (result,) = [name for name in left_in_the_place(acme) if name.endswith(".result")]
        (directory,) = [each for each in workspaces(acme.embeddings_directory) if "units" in each.name]
        file = directory / result
        file.write_bytes(file.read_bytes()[:-1] + b"?")

    assert build_while(acme, act).status == Status.SUCCEEDED
    assert embedder.embedded == 20
    assert_same_index(storage.load(acme.embeddings_directory), in_one_piece(acme, tmp_path))


@pytest.mark.slow
def test_a_worker_whose_libraries_differ_leaves_the_units_to_others(
    acme: Company, embedder: FakeEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    def act() -> None:
        other = FakeEmbedder()
        other.libraries = {"fake": "2"}
        runtime.use(other)
        try:
            unit_work.embed_units(others_wait=lambda: False, call_for_help=lambda: None)
        finally:
            runtime.use(embedder)
        assert not BuildUnit.objects.filter(status=Status.SUCCEEDED).exists()
        assert BuildUnit.objects.filter(status=Status.QUEUED, attempts=0).count() == 3

    assert build_while(acme, act).status == Status.SUCCEEDED
    assert "leaves the units of build" in caplog.text


class _Unwritable(FolderPlace):
    def write(self, name: str, content: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(
    "see", [lambda place: FolderPlace(place.directory / "not shared"), lambda place: _Unwritable(place.directory)]
)
def test_a_worker_that_cannot_use_the_units_files_takes_none_of_their_attempts(
    acme: Company, monkeypatch: pytest.MonkeyPatch, see: Callable[[FolderPlace], FolderPlace]
) -> None:
    def act() -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(unit_work, "place_of", lambda build: see(place_of(build)))
            for _ in range(3):
                unit_work.embed_units(others_wait=lambda: False, call_for_help=lambda: None)
                unit_work._left.clear()
        assert BuildUnit.objects.filter(status=Status.QUEUED, attempts=0).count() == 3
        assert "not shared" not in left_in_the_place(acme)

    assert build_while(acme, act).status == Status.SUCCEEDED


def test_a_unit_whose_pictures_are_all_gone_does_not_fail_the_build(acme: Company) -> None:
    def act() -> None:
        for number in range(8, 12):
            (acme.image_directory / f"{number:02}.bmp").unlink()

    build = build_while(acme, act)
    assert (build.status, build.images_embedded, build.images_skipped) == (Status.SUCCEEDED, 12, 4)
    assert build.skipped_files.count() == 4


class _Refusing(FakeEmbedder):
    """Cannot embed a blue picture."""

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        if any(pixels.tolist() == [0, 0, 1] for pixels in batch):
            raise RuntimeError("no blue ones")
        return super().embed(batch)


def test_a_unit_that_fails_three_times_fails_the_build_with_its_reason(acme: Company) -> None:
    put(acme, "blue.bmp", BLUE)
    refusing = _Refusing()
    refusing.pictures_a_run = 4
    runtime.use(refusing)
    build = acme.queue_build()
    assert build.start()
    with pytest.raises(UnitFailed, match="failed 3 times, the last time: no blue ones"):
        run_build(build)
    build.refresh_from_db()
    assert build.status == Status.FAILED
    assert build.error == "A part of the build, of 1 pictures, failed 3 times, the last time: no blue ones"
    assert not BuildUnit.objects.exists()
    assert not left_in_the_place(acme)


def test_what_a_cancelled_build_has_taken_in_is_not_embedded_again(acme: Company, embedder: FakeEmbedder) -> None:
    with pytest.raises(JobCancelled):
        build_while(acme, lambda: IndexBuild.objects.get().cancel(), units=3)
    assert not left_in_the_place(acme)
    before = embedder.embedded
    assert carry_out(acme.queue_build()).status == Status.SUCCEEDED
    assert embedder.embedded == before + 12


def test_a_build_that_learns_late_that_it_was_cancelled_leaves_the_units_of_the_next(acme: Company) -> None:
    def act() -> None:
        IndexBuild.objects.get().cancel()
        place_of(acme.queue_build()).write("next.unit", b"")

    with pytest.raises(JobCancelled):
        build_while(acme, act)
    assert left_in_the_place(acme) == ["next.unit"]


def test_a_build_that_is_cancelled_while_nobody_publishes_it_leaves_nothing(acme: Company) -> None:
    def act() -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        build_while(acme, act)
    assert left_in_the_place(acme)
    build = IndexBuild.objects.get()
    build.cancel()
    carry_out_build.func(build.pk)
    assert not left_in_the_place(acme)


def test_a_picture_that_was_replaced_since_a_stopped_publishers_helper_embedded_it_is_embedded_again(
    acme: Company, tmp_path: Path
) -> None:
    def act() -> None:
        help_once()
        raise StopRequested

    with pytest.raises(StopRequested):
        build_while(acme, act)
    assert BuildUnit.objects.get(status=Status.SUCCEEDED).number == 1
    put(acme, "05.bmp", BLUE)
    os.utime(acme.image_directory / "05.bmp", ns=(LONG_AGO + 1, LONG_AGO + 1))
    assert carry_out(IndexBuild.objects.get()).status == Status.SUCCEEDED
    assert_same_index(storage.load(acme.embeddings_directory), in_one_piece(acme, tmp_path))


def test_units_that_no_build_needs_any_more_are_gone_after_a_workers_start(acme: Company) -> None:
    build = acme.queue_build()
    BuildUnit.objects.offer(build, {"left": 4}, fingerprint="f")
    IndexBuild.objects.update(status=Status.SUCCEEDED)  # by a release that knew no units
    look_after_companies()
    assert not BuildUnit.objects.exists()


@pytest.mark.slow
def test_a_late_result_leaves_nothing_of_a_company_that_is_gone(acme: Company) -> None:
    def act() -> None:
        unit = BuildUnit.objects.claim()
        assert unit is not None
        place = place_of(unit.build)

        def embed() -> UnitResult:
            acme.delete()
            storage.erase(acme.embeddings_directory)
            place.write("late.result", b"")
            return UnitResult("late.result", "0", 4, 0)

        make(unit, place, embed)

    with pytest.raises(JobCancelled):
        build_while(acme, act)
    assert not home(acme.embeddings_directory).exists()


# With a store --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(store_server: StoreServer, settings: Any) -> ObjectStore:
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    return open_store(settings.STORE, settings.STORE_ENDPOINT)


def in_store(store: ObjectStore) -> list[str]:
    return [entry.key for entry in store.listing(".building")]


def test_units_lie_in_the_store_and_those_of_builds_before_are_removed(store: ObjectStore, acme: Company) -> None:
    earlier = IndexBuild.objects.create(company=acme, status=Status.FAILED)
    build = acme.queue_build()
    for each in (earlier, build):
        place_of(each).write("a.unit", b"1")
    assert place_of(build).read("a.unit") == b"1"
    drop_places(acme, before=build.pk)
    assert in_store(store) == [f".building/{acme.pk}/{build.pk}/a.unit"]
    assert not left_in_the_place(acme)


def test_units_in_the_store_go_with_their_company(
    store: ObjectStore, acme: Company, django_capture_on_commit_callbacks: Any
) -> None:
    place_of(acme.queue_build()).write("a.unit", b"1")
    with django_capture_on_commit_callbacks(execute=True):
        delete_company(acme, by=on_command_line())
    assert in_store(store) == []
