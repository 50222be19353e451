"""The demo's pictures: real files, drawn once for the module because 234 of them take seconds."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from search.companies import demo
from search.companies.demo import FAMILIES, SIDE, VARIANTS, draw_demo_pictures


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete demo folder; tests read it and never change it."""
    folder = tmp_path_factory.mktemp("demo")
    draw_demo_pictures(folder)
    return folder


@pytest.fixture
def copy(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "demo"))


@pytest.fixture
def two_families(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("Shapes/Star", "Things/Fish")
    monkeypatch.setattr(demo, "FAMILIES", {name: FAMILIES[name] for name in names})


@pytest.mark.slow
def test_a_few_hundred_pictures_lie_in_one_folder_per_family(drawn: Path) -> None:
    per_folder = Counter(str(Path(name).parent) for name in _files(drawn))

    assert per_folder == dict.fromkeys(FAMILIES, VARIANTS)
    assert 200 <= per_folder.total() <= 300
    assert (drawn / "Shapes/Star/star-03.jpg").is_file()


def test_the_number_of_pictures_is_returned_also_when_all_were_there(copy: Path) -> None:
    assert draw_demo_pictures(copy) == len(_files(copy))


def test_every_picture_opens_and_is_what_its_name_says(drawn: Path) -> None:
    formats = {".jpg": "JPEG", ".png": "PNG"}
    for name in _files(drawn):
        with Image.open(drawn / name) as picture:
            picture.load()
            assert (picture.format, picture.mode) == (formats[Path(name).suffix], "RGB")
            assert picture.size == (SIDE, SIDE)


def test_jpg_and_png_are_both_there_and_jpg_more_often(drawn: Path) -> None:
    kinds = Counter(Path(name).suffix for name in _files(drawn))

    assert kinds[".jpg"] > kinds[".png"] > 0


def test_no_two_pictures_are_the_same(drawn: Path) -> None:
    pictures = [Image.open(drawn / name).tobytes() for name in _files(drawn)]

    assert len(set(pictures)) == len(pictures)


def test_all_pictures_together_stay_small(drawn: Path) -> None:
    assert sum(map(len, _files(drawn).values())) < 6_000_000


@pytest.mark.usefixtures("two_families")
def test_a_second_folder_gets_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    draw_demo_pictures(tmp_path)

    again = _files(tmp_path)
    assert len(again) == 2 * VARIANTS
    assert again.items() <= _files(drawn).items()


def test_a_run_after_a_killed_one_completes_the_folder(drawn: Path, copy: Path) -> None:
    shutil.rmtree(copy / "Shapes/Heart")
    (copy / "Things/Fish/fish-02.jpg").unlink()
    (copy / "Things/Fish/.fish-02.jpg.part").write_bytes(b"half a pict")

    draw_demo_pictures(copy)

    assert _files(copy) == _files(drawn)


def test_pictures_that_are_there_are_left_alone(copy: Path) -> None:
    star = copy / "Shapes/Star/star-01.jpg"
    star.write_bytes(b"mine")

    draw_demo_pictures(copy)

    assert star.read_bytes() == b"mine"


@pytest.mark.usefixtures("two_families")
def test_a_picture_cut_short_never_bears_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(picture: Image.Image, path: Path, **options: object) -> None:
        path.write_bytes(b"half a pict")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        draw_demo_pictures(tmp_path)

    assert not {".jpg", ".png"} & {Path(name).suffix for name in _files(tmp_path)}
