"""When live changes become part of an index."""

from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone
from django_tasks_db.models import DBTaskResult

from search import publication
from search.engine.errors import IndexCorrupt
from search.engine.pictures.hashes import perceptual_hash
from search.overlay import live_index
from search.pictures import delete_image, put_image
from search.tasks import carry_out_build, fold_due, fold_live_changes, look_after_companies
from tenants.audit import on_command_line
from tenants.models import Company, IndexBuild, LiveChange
from tests.conftest import picture
from tests.support.drawing import scene
from tests.support.fakes import GREEN, RED

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"red.png": RED})


def put(company: Company, path: str = "green.png", colour: Any = GREEN) -> None:
    put_image(Company.objects.get(pk=company.pk), path, picture(colour).getvalue(), by=on_command_line())


def waiting() -> int:
    return DBTaskResult.objects.filter(task_path="search.tasks.fold_live_changes", status="READY").count()


def grow_old(company: Company, **age: int) -> None:
    LiveChange.objects.filter(company=company).update(changed_at=timezone.now() - timedelta(**age))


def fold_now(company: Company) -> IndexBuild | None:
    """Do what the waiting task does when its time has come; return the build that it has queued."""
    fold_live_changes.func(company.pk)
    return company.builds.active().first()


def test_a_fold_knows_what_the_pictures_put_look_like(acme: Company, settings: Any) -> None:
    content = BytesIO()
    scene(1).save(content, "PNG")
    put_image(Company.objects.get(), "scene.png", content.getvalue(), by=on_command_line())
    put(acme, "blank.png")
    grow_old(acme, seconds=settings.FOLD_SECONDS + 1)
    build = fold_now(acme)
    assert build is not None
    carry_out_build.func(build.pk)
    index = live_index(Company.objects.get())
    assert index.hashes is not None
    found = dict(zip([record.path for record in index.records], index.hashes.tolist(), strict=True))
    assert found == {"blank.png": 0, "red.png": 0, "scene.png": perceptual_hash(scene(1))}


def test_one_task_waits_however_many_pictures_are_put(acme: Company) -> None:
    for number in range(5):
        put(acme, f"{number}.png", (number, 255, 0))
    assert waiting() == 1
    assert fold_now(acme) is None


def test_changes_of_a_small_index_are_folded_after_a_while(acme: Company, settings: Any) -> None:
    put(acme)
    grow_old(acme, seconds=settings.FOLD_SECONDS + 1)
    build = fold_now(acme)
    assert build is not None
    carry_out_build.func(build.pk)
    assert not publication.missing_changes(Company.objects.get()).exists()


def test_a_picture_put_before_an_ordinary_build_needs_no_fold(acme: Company) -> None:
    put(acme)
    call_command("build_embeddings", company="acme")
    grow_old(acme, days=2)
    assert LiveChange.objects.exists()  # earlier indexes, which may be gone back to, lack it
    assert fold_now(acme) is None


def test_after_a_fold_that_failed_another_is_planned(acme: Company, settings: Any) -> None:
    put(acme)
    grow_old(acme, days=2)
    build = fold_now(acme)
    assert build is not None
    damaged = publication.index_directory(Company.objects.get()) / "signatures.npy"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + b"x")
    before = waiting()
    with pytest.raises(IndexCorrupt, match=r"signatures\.npy"):
        carry_out_build.func(build.pk)
    damaged.write_bytes(content)
    assert (acme.builds.active().exists(), waiting()) == (False, before + 1)  # later: at once it would only fail again
    IndexBuild.objects.update(finished_at=timezone.now() - timedelta(seconds=settings.FOLD_SECONDS))
    again = fold_now(acme)
    assert again is not None
    carry_out_build.func(again.pk)
    assert not publication.missing_changes(Company.objects.get()).exists()


def test_a_task_lost_with_its_worker_is_replaced(acme: Company) -> None:
    put(acme)
    DBTaskResult.objects.all().delete()
    Company.objects.update(fold_planned_at=timezone.now() - timedelta(hours=1))
    look_after_companies()
    assert waiting() == 1


def test_changes_that_come_while_a_build_runs_are_planned_for_when_it_ends(acme: Company) -> None:
    build = acme.queue_build()
    assert build.start()
    put(acme)
    grow_old(acme, days=2)
    assert fold_now(acme) == build
    assert waiting() >= 1


def test_a_deletion_is_folded_as_well(acme: Company) -> None:
    put(acme)
    delete_image(Company.objects.get(), "red.png", by=on_command_line())
    grow_old(acme, days=2)
    build = fold_now(acme)
    assert build is not None
    carry_out_build.func(build.pk)
    assert publication.count_pictures(Company.objects.get()) == 1


@pytest.mark.parametrize(
    ("changes", "pictures", "due"),
    [
        (1, 1, timedelta(minutes=10)),
        (1, 1_000, timedelta(minutes=10)),
        (1, 2_000, timedelta(days=1)),
        (1, 1_000_000, timedelta(days=1)),
        (999, 1_000_000, timedelta(days=1)),
        (1_000, 1_000_000, timedelta(minutes=10)),
        (5_000, 1_000_000, timedelta(0)),
        (999, 10, timedelta(minutes=10)),
        (1_000, 10, timedelta(0)),
    ],
)
def test_the_fewer_changes_for_the_size_of_the_index_the_longer_they_wait(
    changes: int, pictures: int, due: timedelta
) -> None:
    assert fold_due(changes, pictures=pictures) == due
