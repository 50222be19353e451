"""Where the perceptual hashes of an index come from, build after build."""

from collections.abc import Callable
from pathlib import Path

import pytest

from search.engine import storage
from search.engine.build.builder import BuildOptions, BuildOutcome, BuildProgress, build_index
from search.engine.build.republish import republish, take_over
from search.engine.errors import IndexCorrupt
from search.engine.index.index import LiveImage, empty_index
from search.engine.index.records import ImageRecord
from search.engine.index.thresholds import Thresholds
from search.engine.pictures.hashes import BLANK, perceptual_hash
from tests.support.damage import flip_a_byte
from tests.support.drawing import scene
from tests.support.fakes import FakeEmbedder
from tests.support.indexes import INFO, by_link, some_vectors

EMBEDDER = FakeEmbedder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "acme"


def draw(folder: Path, *numbers: int) -> None:
    for number in numbers:
        scene(number).save(folder / f"{number}.png")


def build(folder: Path, target: Path, report: Callable[[BuildProgress], None] = lambda progress: None) -> BuildOutcome:
    options = BuildOptions(max_pixels=10**6, batch_size=1, workers=1)
    return build_index(folder, target, embedder=EMBEDDER, options=options, report=report)


def hashes(target: Path) -> dict[str, int]:
    index = storage.load(target)
    assert index.hashes is not None
    return {record.path: int(hashed) for record, hashed in zip(index.records, index.hashes, strict=True)}


def test_hashes_are_those_of_the_pictures_also_kept_moved_and_of_a_stopped_build(folder: Path, target: Path) -> None:
    draw(folder, 1, 2)
    build(folder, target)
    (folder / "2.png").rename(folder / "moved.png")
    draw(folder, 3, 4)

    def stop(progress: BuildProgress) -> None:
        if progress.embedded:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(folder, target, stop)
    build(folder, target)
    numbers = {"1.png": 1, "moved.png": 2, "3.png": 3, "4.png": 4}
    assert hashes(target) == {path: perceptual_hash(scene(number)) for path, number in numbers.items()}


def test_a_blank_picture_has_no_hash(folder: Path, target: Path) -> None:
    draw(folder, 1)
    scene(1).resize((1, 1)).resize((50, 50)).save(folder / "blank.png")
    build(folder, target)
    assert hashes(target)["blank.png"] == BLANK


def test_an_index_without_hashes_is_embedded_again_once(folder: Path, target: Path) -> None:
    draw(folder, 1)
    build(folder, target)
    (target / "perceptual_hashes.npy").unlink()
    assert "look like" in build(folder, target).full_reason
    assert build(folder, target).full_reason == ""
    assert hashes(target) == {"1.png": perceptual_hash(scene(1))}


def test_a_build_writes_the_thresholds_of_its_model(folder: Path, target: Path) -> None:
    draw(folder, 1)
    build(folder, target)
    assert storage.info(target).thresholds == Thresholds()


def test_a_fold_carries_hashes_and_thresholds_over(folder: Path, target: Path) -> None:
    draw(folder, 1, 2)
    build(folder, target)
    before = storage.load(target)
    gone = LiveImage(before.records[0], None)
    put = LiveImage(ImageRecord("put.png", "put"), some_vectors(1)[0], perceptual_hash=2**63 + 1)
    index = before.with_changes([gone, put]).with_changes([])
    republish(index, target, info=index.info, publish=by_link(target))
    assert hashes(target) == {"2.png": perceptual_hash(scene(2)), "put.png": 2**63 + 1}
    assert storage.info(target).thresholds == Thresholds()


def test_a_first_fold_has_the_hashes_of_its_live_pictures(target: Path) -> None:
    put = LiveImage(ImageRecord("put.png", "put"), some_vectors(1)[0], perceptual_hash=7)
    index = empty_index().with_changes([put])
    republish(index, target, info=INFO, publish=by_link(target))
    assert hashes(target) == {"put.png": 7}


def test_what_is_taken_over_has_no_hashes(folder: Path, target: Path, tmp_path: Path) -> None:
    draw(folder, 1)
    build(folder, target)
    take_over(target, tmp_path / "other", passport=None, move=False, publish=by_link(tmp_path / "other"))
    assert storage.load(tmp_path / "other").hashes is None


def test_a_damaged_file_of_hashes_is_named_and_nothing_is_kept(folder: Path, target: Path) -> None:
    draw(folder, 1)
    build(folder, target)
    flip_a_byte((target / "perceptual_hashes.npy").resolve(), 130)
    with pytest.raises(IndexCorrupt, match=r"perceptual_hashes\.npy has changed"):
        storage.require_undamaged(target)
    assert build(folder, target).full_reason == "The previous index is damaged"
    assert hashes(target) == {"1.png": perceptual_hash(scene(1))}


def test_releases_before_read_the_list_of_checksums(folder: Path, target: Path) -> None:
    draw(folder, 1)
    build(folder, target)
    assert "perceptual_hashes" not in (target / "SHA256SUMS").read_text()
    assert storage.damaged_files(target) == []
    (target / "perceptual_hashes.npy").unlink()
    assert storage.damaged_files(target) == ["perceptual_hashes.npy is missing"]
