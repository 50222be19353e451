"""Thumbnails: what they show, and what is kept of them."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from search import runtime, tasks
from search.companies.removal import delete_company
from search.engine.index.records import ImageRecord
from search.originals import PictureGone
from search.pictures import delete_image
from search.queries import company_index
from search.thumbnails import SIZES, Thumbnail, thumbnail
from tenants.audit import on_command_line
from tenants.models import Company
from tests.conftest import paint
from tests.support.encodings import BOMBS, SAMPLES
from tests.support.fakes import BLUE, RED

MakeCompany = Callable[..., Company]


@pytest.fixture(autouse=True)
def kept(settings: Any, tmp_path: Path) -> Path:
    """Return where thumbnails are kept."""
    settings.CACHE_DIR = tmp_path / "cache"
    return tmp_path / "cache/thumbnails"


@pytest.fixture
def acme(db: None) -> Company:
    return Company.objects.create(name="acme")


def thumbnail_of(company: Company, path: str, *, size: int = 320) -> Thumbnail:
    return thumbnail(company, ImageRecord(path, f"id of {path}"), size=size)


def shown(company: Company, path: str, *, size: int = 320) -> Image.Image:
    return Image.open(BytesIO(thumbnail_of(company, path, size=size).content))


def place(company: Company, path: str) -> Path:
    return company.image_directory / path


def files(kept: Path) -> dict[Path, int]:
    """Return the kept files of all companies with their inode: another one where a file was written anew."""
    return {path: path.stat().st_ino for path in kept.glob("[0-9]*/*/*")}


def noise(side: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8))


# What they show -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_every_kind_of_picture_has_one(acme: Company, name: str) -> None:
    paint(place(acme, "a.png"), RED)
    place(acme, name).write_bytes(SAMPLES[name])
    small = shown(acme, name)
    assert (small.format, small.mode, small.size) == ("JPEG", "RGB", (16, 16))


def test_it_is_upright_and_tells_nothing_of_where_it_was_taken(acme: Company) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the left side is the top
    exif[ExifTags.Base.Make] = "A camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    picture = Image.new("RGB", (400, 200), BLUE)
    picture.paste(RED, (0, 0, 200, 200))
    place(acme, "a.jpg").parent.mkdir(parents=True)
    picture.save(place(acme, "a.jpg"), exif=exif, comment=b"secret", icc_profile=b"profile" * 100)
    small = shown(acme, "a.jpg", size=160)
    assert small.size == (80, 160)
    assert small.getpixel((40, 5))[0] > 200  # type: ignore[index]
    assert small.getpixel((40, 155))[2] > 200  # type: ignore[index]
    assert not small.getexif()
    assert set(small.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


def test_what_is_transparent_is_white(acme: Company) -> None:
    place(acme, "a.png").parent.mkdir(parents=True)
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(place(acme, "a.png"))
    assert shown(acme, "a.png").getpixel((8, 8)) == (255, 255, 255)


def test_a_white_drawing_on_transparency_can_be_seen(acme: Company) -> None:
    place(acme, "a.png").parent.mkdir(parents=True)
    logo = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    logo.paste("white", (4, 4, 12, 12))
    logo.save(place(acme, "a.png"))
    small = shown(acme, "a.png")
    assert small.getpixel((8, 8))[0] > 240  # type: ignore[index]
    assert small.getpixel((1, 1))[0] < 140  # type: ignore[index]


@pytest.mark.parametrize(
    ("size", "expected"), [((4000, 3000), (320, 240)), ((30, 3000), (3, 320)), ((100, 50), (100, 50))]
)
def test_the_longer_side_is_bounded_and_nothing_is_enlarged(
    acme: Company, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    place(acme, "a.jpg").parent.mkdir(parents=True)
    Image.new("RGB", size, RED).save(place(acme, "a.jpg"))
    assert shown(acme, "a.jpg").size == expected


@pytest.mark.parametrize("name", ["pixels.png", "pixels.jpg", "disposed.gif", "pixels.tif", "comments.gif"])
def test_a_bomb_is_refused_as_a_search_refuses_it(acme: Company, name: str, settings: Any) -> None:
    settings.MAX_PIXELS = 1_000_000
    place(acme, "a.png").parent.mkdir(parents=True)
    place(acme, name).write_bytes(BOMBS[name])
    with pytest.raises(PictureGone, match="cannot be shown"):
        thumbnail_of(acme, name)


# What is kept -------------------------------------------------------------------------------------------------------


def test_it_is_made_once_for_each_size(acme: Company, kept: Path) -> None:
    paint(place(acme, "a.png"), RED)
    first = [thumbnail_of(acme, "a.png", size=size) for size in SIZES]
    before = files(kept)
    assert len(before) == len(SIZES)
    assert [thumbnail_of(acme, "a.png", size=size) for size in SIZES] == first
    assert files(kept) == before
    assert {path.relative_to(kept).parts[0] for path in before} == {str(acme.pk)}


def test_that_of_a_replaced_picture_takes_its_place(acme: Company, kept: Path) -> None:
    paint(place(acme, "a.png"), RED)
    first = thumbnail_of(acme, "a.png")
    before = files(kept)
    paint(place(acme, "a.png"), BLUE)
    second = thumbnail_of(acme, "a.png")
    assert (second.version != first.version, second.content != first.content) == (True, True)
    assert files(kept).keys() == before.keys()


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-1], lambda whole: whole[:-9] + bytes(9)])
def test_a_file_that_a_crash_left_broken_is_made_anew(
    acme: Company, kept: Path, damage: Callable[[bytes], bytes]
) -> None:
    paint(place(acme, "a.png"), RED)
    first = thumbnail_of(acme, "a.png")
    (file,) = files(kept)
    file.write_bytes(damage(file.read_bytes()))
    assert thumbnail_of(acme, "a.png") == first


def test_one_that_cannot_be_kept_is_shown_all_the_same(acme: Company, settings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    settings.CACHE_DIR = tmp_path / "file"
    paint(place(acme, "a.png"), RED)
    assert shown(acme, "a.png").size == (8, 8)


def test_several_processes_make_it_once(acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    place(acme, "a.png").parent.mkdir(parents=True)
    noise(1000).save(place(acme, "a.png"))
    fork = multiprocessing.get_context("fork")
    starting, decoded = fork.Barrier(4), fork.Value("i", 0)

    class CountingGate:
        @contextmanager
        def pass_through(self, **_: object) -> Iterator[None]:
            with decoded.get_lock():
                decoded.value += 1
            yield

    def make() -> None:
        starting.wait(10)
        thumbnail_of(acme, "a.png")
        os._exit(0)

    monkeypatch.setattr(runtime, "gate", CountingGate)
    processes = [fork.Process(target=make) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(20)
    assert [process.exitcode for process in processes] == [0] * 4
    assert decoded.value == 1


def test_all_together_stay_within_their_budget(acme: Company, kept: Path, settings: Any) -> None:
    place(acme, "0.png").parent.mkdir(parents=True)
    for number in range(12):
        noise(40 + number).save(place(acme, f"{number}.png"))
    one = len(thumbnail_of(acme, "11.png").content)
    settings.THUMBNAIL_BYTES = 5 * one
    for number in range(12):
        thumbnail_of(acme, f"{number}.png")
        assert sum(path.stat().st_size for path in files(kept)) <= settings.THUMBNAIL_BYTES
    assert len(files(kept)) >= 3


def test_what_was_not_asked_for_the_longest_goes_first(acme: Company, kept: Path, settings: Any) -> None:
    place(acme, "0.png").parent.mkdir(parents=True)
    made: list[Path] = []  # by number
    for number in range(3):
        noise(40).save(place(acme, f"{number}.png"))
        thumbnail_of(acme, f"{number}.png")
        made += set(files(kept)) - set(made)
    for number, file in enumerate(made):
        os.utime(file, (0, file.stat().st_mtime - 7200 * (3 - number)))
    thumbnail_of(acme, "0.png")  # the oldest, asked for now
    settings.THUMBNAIL_BYTES = sum(file.stat().st_size for file in made) * 3 // 2
    noise(60).save(place(acme, "new.png"))
    thumbnail_of(acme, "new.png")
    assert [file.exists() for file in made] == [True, False, True]


@pytest.mark.django_db(transaction=True)
def test_they_go_with_their_company(make_company: MakeCompany, kept: Path) -> None:
    acme, globex = (make_company(name, {"a.png": RED}) for name in ("acme", "globex"))
    for company in (acme, globex):
        thumbnail_of(company, "a.png")
    delete_company(acme, by=on_command_line())
    assert [path.relative_to(kept).parts[0] for path in files(kept)] == [str(globex.pk)]


def test_they_go_with_their_picture(make_company: MakeCompany, kept: Path) -> None:
    acme = make_company("acme", {"a.png": RED, "b.png": BLUE})
    for record in company_index(acme).records:
        for size in SIZES:
            thumbnail(acme, record, size=size)
    delete_image(acme, "a.png", by=on_command_line())
    assert len(files(kept)) == len(SIZES)


def test_a_worker_removes_those_of_companies_that_others_deleted(acme: Company, kept: Path) -> None:
    paint(place(acme, "a.png"), RED)
    thumbnail_of(acme, "a.png")
    acme.delete()
    tasks.look_after_companies()
    assert not files(kept)
