"""What carries builds out: run_build, the task of the workers, and the commands' options."""

import os
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import transaction
from django_tasks_db.models import DBTaskResult

from search import builds, heartbeat
from search.builds import run_build
from search.engine import storage
from search.engine.errors import NothingToIndex
from search.tasks import carry_out_build, look_after_companies
from tenants.models import Company, IndexBuild, JobCancelled, LeaseLost
from tests.conftest import paint
from tests.engine.build.test_builder import LONG_AGO, assert_same_index, colour_of
from tests.support.fakes import BLUE, RED, FakeEmbedder

Status = IndexBuild.Status


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder) -> Company:
    company = Company.objects.create(name="acme")
    for number in range(10):
        put(company, f"{number}.bmp", colour_of(number))
    return company


def put(company: Company, path: str, colour: tuple[int, int, int]) -> None:
    os.utime(paint(company.image_directory / path, colour), ns=(LONG_AGO, LONG_AGO))


def carry_out(build: IndexBuild) -> IndexBuild:
    carry_out_build.func(build.pk)
    build.refresh_from_db()
    return build


def command(*arguments: str, company: str = "acme") -> str:
    out = StringIO()
    call_command("build_embeddings", f"--company={company}", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def waiting_tasks() -> list[tuple[str, list[Any]]]:
    return [(task.task_path, task.args_kwargs["args"]) for task in DBTaskResult.objects.ready()]


# Outcomes -----------------------------------------------------------------------------------------------------------


def test_the_counts_of_a_build_are_in_its_row(acme: Company) -> None:
    carry_out(acme.queue_build())
    put(acme, "new.bmp", RED)
    (acme.image_directory / "0.bmp").unlink()
    (acme.image_directory / "broken.png").write_text("no picture")
    build = carry_out(acme.queue_build())
    assert (build.status, build.error, build.full_reason) == (Status.SUCCEEDED, "", "")
    assert (build.images_found, build.images_embedded, build.images_reused) == (11, 1, 9)
    assert (build.images_removed, build.images_skipped, build.total_images) == (1, 1, 10)
    assert (build.weights, build.seconds_left, build.percent) == ("fake-weights", None, 100)
    assert [(file.path, file.reason) for file in build.skipped_files.all()] == [
        ("broken.png", "Not a picture of an allowed type")
    ]


def test_a_full_build_says_why_it_was(acme: Company) -> None:
    assert carry_out(acme.queue_build()).full_reason == "First build"
    assert carry_out(acme.queue_build(full=True)).full_reason == "Full build requested"


def test_a_failure_is_recorded_and_the_index_before_serves(acme: Company) -> None:
    carry_out(acme.queue_build())
    shutil.rmtree(acme.image_directory)
    build = acme.queue_build()
    with pytest.raises(NothingToIndex):
        carry_out(build)
    build.refresh_from_db()
    assert build.status == Status.FAILED
    assert "cannot be read: No such file or directory" in build.error
    assert len(storage.load(acme.embeddings_directory)) == 10


def test_an_empty_folder_fails_and_tells_the_way_out(acme: Company) -> None:
    carry_out(acme.queue_build())
    for file in acme.image_directory.iterdir():
        file.unlink()
    build = acme.queue_build()
    with pytest.raises(NothingToIndex):
        carry_out(build)
    build.refresh_from_db()
    assert "--allow-empty" in build.error
    assert carry_out(acme.queue_build(allow_empty=True)).total_images == 0


def test_a_folder_outside_the_allowed_ones_fails_in_words(acme: Company, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(acme.image_directory)
    acme.image_directory.symlink_to(tmp_path / "elsewhere")
    build = acme.queue_build()
    with pytest.raises(Exception, match="allowed folders"):
        carry_out(build)
    build.refresh_from_db()
    assert build.error.startswith(f"{tmp_path / 'elsewhere'} is outside the allowed folders")


@pytest.mark.parametrize("stop", ["cancel", "take over"])
def test_a_build_that_is_lost_right_before_its_publication_publishes_nothing(
    acme: Company, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    build = acme.queue_build()
    build.start()
    finish_files = storage.IndexWriter._finish_files

    def lose(*arguments: Any, **options: Any) -> None:
        finish_files(*arguments, **options)
        if stop == "cancel":
            IndexBuild.objects.get(pk=build.pk).cancel()
        else:
            IndexBuild.objects.filter(pk=build.pk).update(lease="another worker's")

    monkeypatch.setattr(storage.IndexWriter, "_finish_files", lose)
    with pytest.raises(JobCancelled if stop == "cancel" else LeaseLost):
        run_build(build)
    assert not storage.has_index(acme.embeddings_directory)
    build.refresh_from_db()
    assert (build.status, build.error) == (Status.CANCELLED if stop == "cancel" else Status.RUNNING, "")


def test_a_build_killed_after_its_publication_is_completed_by_the_next_worker(
    acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = acme.queue_build()
    build.start()

    def killed(*_: Any, **options: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(IndexBuild, "succeed", killed)
        patch.setattr(IndexBuild, "fail", lambda build, error: None)
        with pytest.raises(SystemExit):
            run_build(build)
    version = storage.version(acme.embeddings_directory)
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at="2000-01-01T00:00Z")
    carry_out(build)
    assert (build.status, build.total_images, build.images_reused) == (Status.SUCCEEDED, 10, 10)
    assert storage.version(acme.embeddings_directory) == version


def test_progress_is_written_while_a_build_runs(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_BEAT_SECONDS", 0)
    build = acme.queue_build()
    build.start()
    seen = []

    def watch(progress: Any) -> None:
        stored = IndexBuild.objects.get(pk=build.pk)
        seen.append((stored.images_found, stored.images_embedded))

    run_build(build, options=builds.build_options(build, batch_size=2), on_progress=watch)
    assert (10, 2) in seen
    assert (10, 8) in seen


# Tasks --------------------------------------------------------------------------------------------------------------


def test_queueing_a_build_hands_it_to_the_workers_once(acme: Company) -> None:
    build = acme.queue_build()
    acme.queue_build()
    assert waiting_tasks() == [("search.tasks.carry_out_build", [build.pk])]


def test_a_build_that_is_rolled_back_leaves_no_task(acme: Company) -> None:
    with transaction.atomic():
        acme.queue_build()
        transaction.set_rollback(True)
    assert (IndexBuild.objects.count(), waiting_tasks()) == (0, [])


def test_a_build_that_is_handed_back_is_given_to_the_workers_again(acme: Company) -> None:
    build = acme.queue_build()
    DBTaskResult.objects.all().delete()
    build.start()
    build.hand_back()
    assert waiting_tasks() == [("search.tasks.carry_out_build", [build.pk])]


def test_somebody_looks_after_a_build_while_it_is_carried_out(
    acme: Company, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.BUILD_LEASE_SECONDS = 60
    build = acme.queue_build()
    DBTaskResult.objects.all().delete()
    seen: list[int] = []
    monkeypatch.setattr("search.tasks.run_build", lambda build: seen.append(DBTaskResult.objects.count()))
    carry_out(build)
    assert seen == [1]
    assert waiting_tasks() == []  # not yet: after a lease


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_a_task_whose_build_is_over_does_nothing(acme: Company, status: str) -> None:
    build = IndexBuild.objects.create(company=acme, status=status)
    carry_out(build)
    assert (build.status, DBTaskResult.objects.count()) == (status, 0)


def test_a_task_whose_build_was_deleted_does_nothing(acme: Company) -> None:
    carry_out_build.func(12345)
    assert DBTaskResult.objects.count() == 0


def test_a_worker_that_starts_takes_up_what_a_crash_left(acme: Company) -> None:
    globex, initech = Company.objects.create(name="globex"), Company.objects.create(name="initech")
    queued, running, over = acme.queue_build(), globex.queue_build(), initech.queue_build()
    running.start()
    over.cancel()
    DBTaskResult.objects.all().delete()
    look_after_companies()
    assert sorted(arguments for _, arguments in waiting_tasks()) == [[queued.pk], [running.pk]]


# Commands -----------------------------------------------------------------------------------------------------------


def test_enqueue_leaves_the_build_to_the_worker(acme: Company, embedder: FakeEmbedder) -> None:
    out = command("--enqueue", "--full", "--checksum", "--allow-empty")
    build = acme.builds.get()
    assert (build.status, build.full, build.checksum, build.allow_empty) == (Status.QUEUED, True, True, True)
    assert f"Build {build.pk} of acme is queued" in out
    assert (embedder.embedded, waiting_tasks()) == (0, [("search.tasks.carry_out_build", [build.pk])])


def test_enqueue_twice_names_the_same_build(acme: Company) -> None:
    assert command("--enqueue") == command("--enqueue")


def test_dry_run_tells_counts_and_writes_nothing(acme: Company, tmp_path: Path) -> None:
    command()
    put(acme, "new.bmp", RED)
    (acme.image_directory / "0.bmp").unlink()
    rows, files = IndexBuild.objects.count(), sorted(tmp_path.rglob("*"))
    out = command("--dry-run")
    assert "10 pictures found: 1 to process, 9 unchanged, 1 removed, 0 to skip" in out
    assert "Estimated time: " in out
    assert (IndexBuild.objects.count(), sorted(tmp_path.rglob("*"))) == (rows, files)


def test_dry_run_of_an_unknown_company_creates_none(acme: Company, settings: Any) -> None:
    paint(settings.MEDIA_ROOT / "globex" / "a.bmp", BLUE)
    assert "1 pictures found: 1 to process" in command("--dry-run", company="globex")
    assert not Company.objects.filter(name="globex").exists()


def test_dry_run_of_a_missing_folder_fails(acme: Company) -> None:
    with pytest.raises(CommandError, match="Company globex does not exist"):
        command("--dry-run", company="globex")
    shutil.rmtree(acme.image_directory)
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        command("--dry-run")


def test_unchanged_pictures_are_kept_and_said_so(acme: Company) -> None:
    command()
    assert "0 processed, 10 unchanged, 0 removed, 0 skipped; no changes" in command()


def test_full_embeds_everything_and_says_so(acme: Company, embedder: FakeEmbedder) -> None:
    command()
    out = command("--full")
    assert "Full build requested: all pictures were processed" in out
    assert embedder.embedded == 20
    assert acme.builds.latest("id").full


def test_checksum_finds_what_size_and_time_hide(acme: Company) -> None:
    command()
    put(acme, "0.bmp", BLUE)
    assert "no changes" in command()
    assert "1 processed, 9 unchanged" in command("--checksum")


def test_allow_empty_empties_an_index(acme: Company) -> None:
    command()
    for file in acme.image_directory.iterdir():
        file.unlink()
    with pytest.raises(CommandError, match="--allow-empty"):
        command()
    assert len(storage.load(acme.embeddings_directory)) == 10
    assert "Indexed 0 of 0 pictures" in command("--allow-empty")
    assert len(storage.load(acme.embeddings_directory)) == 0


def test_the_number_of_workers_changes_nothing(acme: Company, tmp_path: Path) -> None:
    indexes = []
    for workers in (1, 4):
        target = tmp_path / str(workers) / "acme"
        command(f"--output_dir={target}", f"--workers={workers}", "--batch_size=3")
        indexes.append(storage.load(target))
    assert_same_index(*indexes)


def test_a_waiting_full_build_stays_full_when_the_command_carries_it_out(acme: Company, embedder: FakeEmbedder) -> None:
    command()
    build = acme.queue_build(full=True)
    command()
    build.refresh_from_db()
    assert (build.status, build.full, embedder.embedded) == (Status.SUCCEEDED, True, 20)


def test_a_waiting_fold_becomes_the_build_of_the_command(acme: Company) -> None:
    build = acme.queue_build(fold=True)
    command()
    build.refresh_from_db()
    assert (build.status, build.fold, build.images_embedded) == (Status.SUCCEEDED, False, 10)


def test_a_build_that_lost_its_processes_is_given_up_and_done_anew(acme: Company) -> None:
    lost = acme.queue_build()
    IndexBuild.objects.filter(pk=lost.pk).update(
        status=Status.RUNNING, attempts=3, heartbeat_at="2000-01-01T00:00Z", lease="gone"
    )
    command()
    lost.refresh_from_db()
    assert lost.status == Status.FAILED
    assert acme.builds.latest("id").status == Status.SUCCEEDED


def listed(*arguments: str) -> list[str]:
    out = StringIO()
    call_command("builds", *arguments, stdout=out)
    return out.getvalue().splitlines()


def test_a_list_without_builds_says_so(db: None) -> None:
    assert listed() == ["No build is queued or running: --all lists earlier ones"]
    assert listed("--all") == ["There are no builds"]


def test_builds_lists_what_is_queued_and_running(acme: Company) -> None:
    command()
    globex = Company.objects.create(name="globex")
    build, queued = acme.queue_build(), globex.queue_build()
    build.start()
    build.beat(images_found=100, images_embedded=25, images_per_second=5.0, seconds_left=75.0)
    running_line = next(line for line in listed() if line.split()[:3] == [str(build.pk), "acme", "running"])
    assert "25/100 (25 %)  5.0 pictures/s  01:15 left" in running_line
    build.beat(units_total=20_000, units_done=12, units_running=64)
    assert "(25 %)  12 of 20,000 units, 64 in progress  5.0 pictures/s" in "".join(listed())
    assert any(line.split()[:3] == [str(queued.pk), "globex", "queued"] for line in listed())
    assert len(listed()) == 2


def test_builds_lists_the_finished_ones_when_asked(acme: Company) -> None:
    command()
    failed = acme.queue_build()
    failed.start()
    failed.fail("the disk is full")
    assert "No build" in listed()[0]
    newest, oldest = listed("--all")
    assert newest.endswith("the disk is full")
    assert "succeeded" in oldest
