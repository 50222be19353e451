import json
import os
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from django.core.management import CommandError, call_command

from search import runtime
from search.engine import storage
from tenants.models import Company, IndexBuild
from tests.conftest import paint
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import flask_directory, some_vectors
from tests.support.processes import copy_sqlite

PROJECT = Path(__file__).resolve().parents[3]
COLOURS = {
    "Warm/Red one.png": RED,
    "Warm/orange.png": (255, 128, 0),
    "blue.png": BLUE,
    "caf\u00e9/gr\u00fcn \U0001f600.bmp": GREEN,
    "UPPER.PNG": (9, 9, 9),
}

pytestmark = pytest.mark.django_db


def build(**options: Any) -> str:
    out = StringIO()
    call_command("build_embeddings", stdout=out, **options)
    return out.getvalue()


def paint_all(folder: Path, colours: dict[str, tuple[int, int, int]] = COLOURS) -> Path:
    for path, colour in colours.items():
        paint(folder / path, colour)
    return folder


def ids(directory: Path) -> dict[str, str]:
    return {entry["fullPath"]: entry["id"] for entry in json.loads((directory / "metadata.json").read_text())}


def require_own_vectors(directory: Path, colours: dict[str, tuple[int, int, int]] = COLOURS) -> None:
    """Fail unless every picture of the index, as FAISS reads it, has the vector of its own colour."""
    embedder = FakeEmbedder()
    vectors = faiss.read_index(str(directory / "faiss_index.bin"))
    entries = json.loads((directory / "metadata.json").read_text())
    assert len(entries) == vectors.ntotal
    for row, entry in enumerate(entries):
        expected = embedder.embed([np.float32(colours[entry["fullPath"]]) / 255])[0]
        np.testing.assert_allclose(vectors.reconstruct(row), expected, atol=1e-6)


@pytest.fixture
def acme(embedder: FakeEmbedder) -> Company:
    company = Company.objects.create(name="acme")
    paint_all(company.image_directory)
    return company


# Which folder, which index ------------------------------------------------------------------------------------------


def test_company_is_built_from_its_own_folder(acme: Company) -> None:
    assert "Indexed 5 of 5 pictures" in build(company="acme")
    require_own_vectors(acme.embeddings_directory)
    assert set(ids(acme.embeddings_directory)) == set(COLOURS)


def test_company_that_does_not_exist_is_created_and_said_so(embedder: FakeEmbedder, settings: Any) -> None:
    paint_all(settings.MEDIA_ROOT / "globex")
    assert "Created company globex" in build(company="globex")
    company = Company.objects.get()
    assert (company.name, company.active) == ("globex", True)
    assert "Created" not in build(company="globex")
    require_own_vectors(settings.EMBEDDINGS_DIR / "globex")


@pytest.mark.parametrize(
    "options",
    [{}, {"enqueue": True}, {"dry_run": True}, {"output_dir": Path("out")}, {"input_dir": Path("nowhere")}],
    ids=lambda options: next(iter(options), "build"),
)
def test_a_mistyped_name_creates_nothing_and_is_told_the_nearest(
    acme: Company, settings: Any, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CommandError, match=r"Company acmee does not exist\. Did you mean acme\?"):
        build(company="acmee", **options)
    assert list(Company.objects.all()) == [acme]
    assert not IndexBuild.objects.exists()
    assert not (settings.MEDIA_ROOT / "acmee").exists()
    assert "Traceback" not in caplog.text


def test_a_company_without_pictures_is_created_where_that_is_asked_for(embedder: FakeEmbedder, settings: Any) -> None:
    with pytest.raises(CommandError, match=r"put its pictures into .*/globex, or use --create"):
        build(company="globex")
    said = build(company="globex", create=True)
    assert f"Created company globex with the image folder {settings.MEDIA_ROOT / 'globex'}" in said
    assert not IndexBuild.objects.exists()
    paint_all(settings.MEDIA_ROOT / "globex")
    assert "Indexed 5 of 5" in build(company="globex")


@pytest.mark.parametrize("name", ["../etc", "a b", ".hidden", "", "caf\u00e9", "x" * 65])
def test_name_that_no_company_can_have_is_refused(embedder: FakeEmbedder, tmp_path: Path, name: str) -> None:
    paint_all(tmp_path / "pictures")
    with pytest.raises(CommandError):
        build(company=name, input_dir=tmp_path / "pictures")
    assert not Company.objects.exists()


@pytest.fixture
def earlier(acme: Company) -> dict[str, str]:
    """An index of a company that is gone; return its ids, which another program gave."""
    flask_directory(acme.embeddings_directory, some_vectors(len(COLOURS)), sorted(COLOURS))
    build(company="acme")
    before = ids(acme.embeddings_directory)
    Company.objects.all().delete()
    return before


def test_a_new_company_whose_directory_holds_an_index_is_refused_until_it_is_said_what_becomes_of_it(
    earlier: dict[str, str], settings: Any
) -> None:
    with pytest.raises(CommandError, match="give --earlier-index use, or --earlier-index remove"):
        build(company="acme")
    with pytest.raises(CommandError, match="--earlier-index: invalid"):
        call_command("build_embeddings", "--company=acme", "--earlier-index=keep")
    assert not Company.objects.exists()
    assert ids(settings.EMBEDDINGS_DIR / "acme") == earlier


def test_an_earlier_index_that_is_used_keeps_its_vectors_and_ids(
    earlier: dict[str, str], embedder: FakeEmbedder
) -> None:
    embedded = embedder.embedded
    said = build(company="acme", earlier_index="use")
    assert "0 processed, 5 unchanged" in said
    assert embedder.embedded == embedded
    acme = Company.objects.get()
    assert ids(acme.embeddings_directory) == earlier
    assert acme.active  # as company.json says


def test_an_earlier_index_that_is_removed_leaves_no_vector_and_no_id(
    earlier: dict[str, str], embedder: FakeEmbedder
) -> None:
    embedded = embedder.embedded
    build(company="acme", earlier_index="remove")
    assert embedder.embedded == embedded + len(COLOURS)
    acme = Company.objects.get()
    assert len(list((acme.embeddings_directory.parent / ".generations/acme").glob("2*"))) == 1
    assert (acme.embeddings_directory / "given_ids.json").read_text() == "{}"


def test_an_earlier_index_that_was_closed_stays_closed_and_the_command_says_so(
    earlier: dict[str, str], settings: Any
) -> None:
    (settings.EMBEDDINGS_DIR / ".generations/acme/company.json").unlink()
    assert "acme is inactive" in build(company="acme", earlier_index="use")
    assert not Company.objects.get().active


def test_what_becomes_of_an_earlier_index_is_of_no_matter_to_a_company_that_exists(acme: Company) -> None:
    build(company="acme")
    build(company="acme", earlier_index="remove")
    assert "5 unchanged" in build(company="acme")


def test_input_dir_is_read_instead_of_the_company_folder(acme: Company, tmp_path: Path) -> None:
    paint_all(tmp_path / "elsewhere", {"one.png": RED})
    build(company="acme", input_dir=tmp_path / "elsewhere")
    assert set(ids(acme.embeddings_directory)) == {"one.png"}


def test_allowed_input_dir_becomes_the_folder_of_a_new_company(
    embedder: FakeEmbedder, tmp_path: Path, settings: Any
) -> None:
    settings.IMAGE_ROOTS = [tmp_path]
    paint_all(tmp_path / "elsewhere")
    assert str(tmp_path / "elsewhere") in build(company="globex", input_dir=tmp_path / "elsewhere")
    assert Company.objects.get().image_directory == tmp_path / "elsewhere"


def test_input_dir_outside_the_allowed_folders_is_indexed_but_not_kept(
    embedder: FakeEmbedder, tmp_path: Path, settings: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    paint_all(tmp_path / "elsewhere")
    build(company="globex", input_dir=tmp_path / "elsewhere")
    assert "IMAGESEARCH_IMAGE_ROOTS" in capsys.readouterr().err
    assert Company.objects.get().image_directory == settings.MEDIA_ROOT / "globex"
    require_own_vectors(settings.EMBEDDINGS_DIR / "globex")


def test_output_dir_needs_no_company(embedder: FakeEmbedder, tmp_path: Path) -> None:
    paint_all(tmp_path / "pictures")
    assert "Indexed 5 of 5" in build(input_dir=tmp_path / "pictures", output_dir=tmp_path / "deep" / "index")
    require_own_vectors(tmp_path / "deep" / "index")
    assert not Company.objects.exists()


def test_output_dir_overrides_the_company_index(acme: Company, tmp_path: Path) -> None:
    build(company="acme", output_dir=tmp_path / "index")
    require_own_vectors(tmp_path / "index")
    assert not storage.has_index(acme.embeddings_directory)


@pytest.mark.parametrize("inside", ["", "new"])
def test_output_dir_that_is_a_published_index_is_left_alone(acme: Company, inside: str) -> None:
    build(company="acme")
    published = acme.embeddings_directory.resolve()
    before = sorted(published.iterdir())
    with pytest.raises(CommandError, match="never changes"):
        build(input_dir=acme.image_directory, output_dir=published / inside)
    assert sorted(published.iterdir()) == before
    assert not published.is_symlink()


def test_output_dir_full_of_other_things_is_left_alone(acme: Company, tmp_path: Path) -> None:
    paint(tmp_path / "photos" / "wedding.png", RED)
    with pytest.raises(CommandError, match=r"wedding\.png"):
        build(company="acme", output_dir=tmp_path / "photos")
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["wedding.png"]


@pytest.mark.parametrize("options", [{}, {"input_dir": "x"}, {"output_dir": "x"}])
def test_command_without_a_target_or_a_source_says_what_to_give(options: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match="--company"):
        build(**{name: Path(value) for name, value in options.items()})


@pytest.mark.parametrize("size", ["0", "-1", "many", "1.5"])
def test_batch_size_must_be_at_least_one(acme: Company, size: str) -> None:
    with pytest.raises(CommandError, match="batch_size"):
        call_command("build_embeddings", "--company", "acme", "--batch_size", size)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_batch_size_changes_nothing_in_the_index(acme: Company, tmp_path: Path, size: int) -> None:
    build(company="acme")
    build(company="acme", output_dir=tmp_path / "acme", batch_size=size)
    for name in ("faiss_index.bin", "embeddings.npy", "metadata.json"):
        assert (tmp_path / "acme" / name).read_bytes() == (acme.embeddings_directory / name).read_bytes()


# Broken pictures ----------------------------------------------------------------------------------------------------


def break_some(folder: Path) -> set[str]:
    """Put unreadable files before, among and behind the good ones; return their paths."""
    good = (folder / "blue.png").read_bytes()
    broken = {
        "AAA.png": b"",
        "Warm/Red oof.png": good[: len(good) // 2],
        "Warm/really a gif.png": b"GIF89a" + bytes(40),
        "blue2.png": b"no picture at all",
        "zzz.jpg": good,
    }
    for path, content in broken.items():
        (folder / path).write_bytes(content)
    return set(broken)


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_broken_pictures_are_skipped_counted_and_listed(acme: Company, batch_size: int) -> None:
    broken = break_some(acme.image_directory)
    out = build(company="acme", batch_size=batch_size)
    assert "Indexed 5 of 10 pictures" in out
    assert "5 skipped" in out
    reasons = dict(line.removeprefix("skipped ").split(": ", 1) for line in out.splitlines() if "skipped " in line[:8])
    assert set(reasons) == broken
    assert all(reasons.values())
    assert "empty" in reasons["AAA.png"]
    row = acme.builds.get()
    assert (row.status, row.images_found, row.images_skipped, row.total_images) == ("succeeded", 10, 5, 5)
    assert {skipped.path for skipped in row.skipped_files.all()} == broken


@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_broken_pictures_never_shift_anothers_vector(acme: Company, batch_size: int) -> None:
    break_some(acme.image_directory)
    build(company="acme", batch_size=batch_size)
    require_own_vectors(acme.embeddings_directory)


def test_other_files_are_no_pictures(acme: Company) -> None:
    for name in ("notes.txt", "Thumbs.db", "picture.svg", ".hidden.png", "png"):
        (acme.image_directory / name).write_bytes(b"x")
    assert "Indexed 5 of 5 pictures" in build(company="acme")


def test_folder_of_broken_pictures_fails_and_the_old_index_serves_on(acme: Company) -> None:
    build(company="acme")
    for picture in acme.image_directory.rglob("*.*"):
        picture.write_bytes(b"broken")
    with pytest.raises(CommandError, match="None of the 5 pictures"):
        build(company="acme")
    require_own_vectors(acme.embeddings_directory)
    assert acme.builds.first().status == IndexBuild.Status.FAILED


@pytest.mark.parametrize("name", ["faiss_index.bin", "metadata.json", "index_info.json"])
def test_damaged_index_is_mended_by_a_build(acme: Company, name: str) -> None:
    flask_directory(acme.embeddings_directory, some_vectors(1), ["blue.png"])
    (acme.embeddings_directory / name).write_bytes(b"")
    assert "Indexed 5 of 5" in build(company="acme")
    assert acme.builds.get().status == IndexBuild.Status.SUCCEEDED
    require_own_vectors(acme.embeddings_directory)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_folder_without_pictures_fails_by_its_name(
    embedder: FakeEmbedder, settings: Any, make: Callable[[Path], None]
) -> None:
    folder = Company.objects.create(name="globex").image_directory
    make(folder)
    with pytest.raises(CommandError, match=f"image folder {folder}"):
        build(company="globex")
    assert Company.objects.get().builds.get().status == IndexBuild.Status.FAILED
    assert not storage.has_index(settings.EMBEDDINGS_DIR / "globex")


def test_build_without_weights_fails_before_touching_anything(acme: Company, settings: Any) -> None:
    runtime.reset()
    settings.WEIGHTS, settings.DEVICE = "/nowhere/weights.pth", "cpu"
    with pytest.raises(CommandError, match=r"/nowhere/weights\.pth"):
        build(company="acme")
    assert list(settings.EMBEDDINGS_DIR.iterdir()) == []
    assert "/nowhere/weights.pth" in acme.builds.get().error


# Ids ----------------------------------------------------------------------------------------------------------------


def test_ids_stay_over_rebuilds(acme: Company) -> None:
    build(company="acme")
    first = ids(acme.embeddings_directory)
    assert len(set(first.values())) == 5
    paint(acme.image_directory / "0 new.png", (1, 2, 3))
    (acme.image_directory / "blue.png").unlink()
    paint(acme.image_directory / "Warm/orange.png", GREEN)
    build(company="acme")
    second = ids(acme.embeddings_directory)
    assert set(second) == {*COLOURS, "0 new.png"} - {"blue.png"}
    assert {path: second[path] for path in first if path != "blue.png"} == {
        path: id_ for path, id_ in first.items() if path != "blue.png"
    }


def test_picture_that_comes_back_has_its_id_again(acme: Company) -> None:
    build(company="acme")
    first = ids(acme.embeddings_directory)
    (acme.image_directory / "blue.png").unlink()
    build(company="acme")
    paint(acme.image_directory / "blue.png", BLUE)
    build(company="acme")
    assert ids(acme.embeddings_directory) == first


def test_lost_index_comes_back_with_the_same_ids(acme: Company) -> None:
    build(company="acme")
    first = ids(acme.embeddings_directory)
    storage.remove(acme.embeddings_directory)
    build(company="acme")
    assert ids(acme.embeddings_directory) == first


def test_companies_do_not_share_ids(acme: Company, settings: Any) -> None:
    paint_all(settings.MEDIA_ROOT / "globex")
    build(company="acme")
    build(company="globex")
    mine, theirs = (set(ids(settings.EMBEDDINGS_DIR / name).values()) for name in ("acme", "globex"))
    assert not mine & theirs


# One at a time ------------------------------------------------------------------------------------------------------


def test_second_build_while_one_is_running_is_refused(acme: Company) -> None:
    running = acme.queue_build()
    assert running.start()
    with pytest.raises(CommandError, match="already running"):
        build(company="acme")
    running.refresh_from_db()
    assert running.status == IndexBuild.Status.RUNNING
    assert not storage.has_index(acme.embeddings_directory)


def test_queued_build_is_carried_out_by_the_command(acme: Company) -> None:
    queued = acme.queue_build()
    build(company="acme")
    assert [row.pk for row in acme.builds.all()] == [queued.pk]
    queued.refresh_from_db()
    assert queued.status == IndexBuild.Status.SUCCEEDED


def test_running_build_of_another_company_is_no_hindrance(acme: Company) -> None:
    assert Company.objects.create(name="globex").queue_build().start()
    assert "Indexed 5" in build(company="acme")


# Through the front door ---------------------------------------------------------------------------------------------


RUN_WITH_FAKE_MODEL = """
import os, runpy
import django
os.environ["DJANGO_SETTINGS_MODULE"] = "imagesearch.settings"
django.setup()
from search import runtime
from tests.support.fakes import FakeEmbedder
runtime.use(FakeEmbedder())
runpy.run_path("manage.py", run_name="__main__")
"""


def manage(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run manage.py in a process with its own environment, database and directories; the model alone is a fake."""
    (tmp_path / "e").mkdir(exist_ok=True)
    (tmp_path / "m").mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": f"sqlite:///{tmp_path / 'db.sqlite3'}",
        "SECRET_KEY": "for this test alone",
        "IMAGESEARCH_EMBEDDINGS_DIR": str(tmp_path / "e"),
        "IMAGESEARCH_MEDIA_DIR": str(tmp_path / "m"),
        "DJANGO_SETTINGS_MODULE": "imagesearch.settings",
    }
    command = [sys.executable, "-c", RUN_WITH_FAKE_MODEL, *arguments]
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def front_door(sqlite_tables: Path, tmp_path: Path) -> Path:
    copy_sqlite(sqlite_tables, tmp_path / "db.sqlite3")
    return tmp_path


@pytest.mark.slow
def test_process_that_skips_pictures_succeeds_and_one_that_indexes_none_fails(front_door: Path) -> None:
    paint_all(front_door / "m" / "acme")
    broken = break_some(front_door / "m" / "acme")
    built = manage(front_door, "build_embeddings", "--company", "acme", "--batch_size", "2")
    assert built.returncode == 0, built.stderr
    assert "Created company acme" in built.stdout
    assert "Indexed 5 of 10 pictures" in built.stdout
    assert all(f"skipped {path}: " in built.stdout for path in broken)
    require_own_vectors(front_door / "e" / "acme")

    (front_door / "m" / "globex").mkdir()
    failed = manage(front_door, "build_embeddings", "--company", "globex")
    assert failed.returncode == 1
    assert f"The image folder {front_door / 'm' / 'globex'} contains no pictures" in failed.stderr
    assert "Indexed" not in failed.stdout
    assert sorted(entry.name for entry in (front_door / "e").iterdir()) == [".generations", "acme"]


def test_a_new_company_does_not_get_the_folder_of_another(settings: Any, embedder: FakeEmbedder) -> None:
    globex = Company.objects.create(name="globex")
    paint_all(globex.image_directory)
    err = StringIO()
    build(company="acme", input_dir=globex.image_directory, stderr=err)
    assert "overlaps with the image folder of globex" in err.getvalue()
    assert Company.objects.get(name="acme").image_directory == settings.MEDIA_ROOT / "acme"
