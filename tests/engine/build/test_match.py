"""What a build learns about scores from its own pictures."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search.engine import storage
from search.engine.build.builder import BuildOptions, BuildOutcome, BuildProgress, build_index
from search.engine.build.republish import republish
from search.engine.index.index import LiveImage
from search.engine.index.match_fit import MatchFit
from search.engine.index.records import ImageRecord
from search.engine.model.transform import Pixels
from search.engine.vectors import DIMENSION, Vectors, unit_length
from tests.support.fakes import FakeEmbedder
from tests.support.indexes import by_link, flask_directory, some_vectors, write_sums_anew

LONG_AGO = 1_600_000_000_000_000_000  # ns: a file of then is not in doubt


class SketchEmbedder(FakeEmbedder):
    """Sees a picture as 8 by 8 colours: copies come near their originals, and other pictures do not."""

    def __init__(self) -> None:
        super().__init__()
        self.altered = 0  # copies

    def prepare(self, image: Image.Image) -> Pixels:
        return np.asarray(image.resize((8, 8), Image.Resampling.BOX), np.float32).ravel() / 255  # [192]

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        counted = self.embedded
        super().embed([pixels[:3] for pixels in batch])
        self.altered += len(batch) if self.embedded == counted else 0
        vectors = np.zeros((len(batch), DIMENSION), np.float32)
        vectors[:, :192] = np.stack(batch) - 0.5
        vectors[:, 192] = 0.01  # grey has a direction too
        return unit_length(vectors)


@dataclass
class Shop:
    folder: Path
    target: Path
    embedder: SketchEmbedder = field(default_factory=SketchEmbedder)

    def paint(self, first: int, last: int) -> None:
        """Give the folder the pictures with these numbers, each a pattern of its own."""
        self.folder.mkdir(exist_ok=True)
        for number in range(first, last):
            pattern = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            file = self.folder / f"{number:03}.bmp"
            Image.fromarray(pattern).resize((32, 32), Image.Resampling.NEAREST).save(file)
            os.utime(file, ns=(LONG_AGO, LONG_AGO))

    def remove(self, first: int, last: int) -> None:
        for number in range(first, last):
            (self.folder / f"{number:03}.bmp").unlink()

    def build(
        self, *, report: Callable[[BuildProgress], None] = lambda progress: None, full: bool = False
    ) -> BuildOutcome:
        options = BuildOptions(max_pixels=1_000_000, workers=2, full=full)
        return build_index(self.folder, self.target, embedder=self.embedder, options=options, report=report)

    @property
    def fit(self) -> MatchFit | None:
        return storage.info(self.target).match

    def has_altered(self) -> Callable[[BuildProgress], bool]:
        before = self.embedder.altered
        return lambda progress: self.embedder.altered > before


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path / "pictures", tmp_path / "indexes" / "acme")


class Stopped(BaseException):
    pass


def forget_fit(target: Path) -> None:
    """Let the index be one that was built before matches were fitted."""
    path = target / "index_info.json"
    entries = json.loads(path.read_text())
    del entries["match"]
    path.write_text(json.dumps(entries))
    write_sums_anew(target)


@pytest.mark.slow
def test_a_fit_tells_altered_copies_from_other_pictures(shop: Shop) -> None:
    shop.paint(0, 64)
    shop.build()
    fit = shop.fit
    assert fit is not None
    assert (fit.images, fit.pictures, shop.embedder.altered) == (64, 60, 180)
    assert fit.calibration_error is not None
    assert fit.calibration_error < 0.15
    assert fit.background is not None
    assert fit.nearest_low is not None
    assert fit.nearest_median is not None
    assert fit.background < fit.nearest_median
    assert fit.nearest_low < fit.nearest_median < 0.6
    assert fit.percent(0.95, fit.background) > 80
    assert fit.percent(fit.nearest_median, fit.background) < 30


@pytest.mark.slow
def test_where_all_pictures_are_alike_altered_copies_are_not_like_nothing(shop: Shop) -> None:
    shop.folder.mkdir()
    shared = np.random.default_rng(0).integers(40, 216, (8, 8, 3))
    for number in range(30):
        own = np.random.default_rng(number).integers(-40, 41, (8, 8, 3))
        image = Image.fromarray((shared + own).astype(np.uint8))
        image.resize((32, 32), Image.Resampling.NEAREST).save(shop.folder / f"{number:03}.bmp")
    shop.build()
    fit = shop.fit
    assert fit is not None
    assert fit.altered_low is not None
    assert fit.nearest_low is not None
    assert fit.altered_low < 0.6 < fit.nearest_low
    assert replace(fit, images=100).lacks_anything_like(fit.altered_low) is False


@pytest.mark.slow
def test_two_full_builds_of_the_same_pictures_say_the_same(shop: Shop) -> None:
    shop.paint(0, 30)
    shop.build()
    first = shop.fit
    shop.build(full=True)
    assert shop.fit == first
    assert shop.embedder.altered == 2 * 90


@pytest.mark.parametrize("count", [6, 29])
def test_with_fewer_than_thirty_pictures_the_line_is_the_usual_one(shop: Shop, count: int) -> None:
    shop.paint(0, count)
    shop.build()
    fit = shop.fit
    assert fit is not None
    assert (fit.slope, fit.offset, fit.images, fit.pictures) == (6.5, -3.1, count, 0)
    assert fit.calibration_error is None
    assert fit.background is not None
    assert shop.embedder.altered == 0


def test_with_fewer_than_six_pictures_there_is_no_fit(shop: Shop) -> None:
    shop.paint(0, 5)
    shop.build()
    assert shop.fit is None
    assert "match" not in json.loads((shop.target / "index_info.json").read_text())
    assert not shop.build().published


def test_copies_of_one_picture_have_a_fit_that_knows_no_neighbours_and_is_not_made_again(shop: Shop) -> None:
    shop.paint(0, 1)
    for number in range(1, 8):
        (shop.folder / f"{number}.bmp").write_bytes((shop.folder / "000.bmp").read_bytes())
    shop.build()
    assert shop.fit == MatchFit(6.5, -3.1, 8, 0, None, None, None, None)
    assert not shop.build().published


def test_copies_in_the_index_are_no_neighbours(shop: Shop) -> None:
    shop.paint(0, 20)
    shop.build()
    alone = shop.fit
    assert alone is not None
    for number in range(20):
        (shop.folder / f"{number:03}-copy.bmp").write_bytes((shop.folder / f"{number:03}.bmp").read_bytes())
    shop.build()
    doubled = shop.fit
    assert doubled is not None
    assert doubled.nearest_low == pytest.approx(alone.nearest_low, abs=0.001)  # a quantile of twice as many
    assert doubled.nearest_median == alone.nearest_median
    assert doubled.images == 40
    assert doubled.percent(0.99, 0.3) > 90  # the copy that stays when a picture is left out is no wrong result


@pytest.mark.slow
def test_builds_keep_the_fit_until_the_index_has_doubled_or_halved(shop: Shop) -> None:
    shop.paint(0, 30)
    shop.build()
    first = shop.fit
    shop.paint(30, 59)
    shop.build()
    assert shop.fit == first
    assert shop.embedder.altered == 90
    shop.paint(59, 60)
    shop.build()
    assert shop.fit is not None
    assert shop.fit.images == 60
    shop.remove(30, 60)
    shop.build()
    assert shop.fit == first


def test_builds_keep_the_fit_until_most_pictures_are_others(shop: Shop) -> None:
    shop.paint(0, 8)
    shop.build()
    first = shop.fit
    shop.remove(0, 4)
    shop.paint(8, 12)
    shop.build()
    assert shop.fit == first
    shop.remove(4, 9)
    shop.paint(12, 17)
    shop.build()
    other = shop.fit
    assert other is not None
    assert other.images == 8
    assert other.nearest_median != first.nearest_median


@pytest.mark.slow
def test_the_thirtieth_picture_makes_a_fit_of_its_own(shop: Shop) -> None:
    shop.paint(0, 29)
    shop.build()
    shop.paint(29, 30)
    shop.build()
    assert shop.fit is not None
    assert (shop.fit.images, shop.fit.pictures) == (30, 30)


def test_an_index_without_a_fit_gets_one_though_no_picture_has_changed(shop: Shop) -> None:
    shop.paint(0, 8)
    shop.build()
    fit = shop.fit
    forget_fit(shop.target)
    assert shop.fit is None
    outcome = shop.build()
    assert (outcome.published, outcome.progress.reused) == (True, 8)
    assert shop.fit == fit
    assert not shop.build().published


def test_an_index_of_the_flask_service_gets_a_fit_with_its_first_build(shop: Shop) -> None:
    shop.paint(0, 7)
    flask_directory(shop.target, some_vectors(7), [f"{number:03}.bmp" for number in range(7)])
    assert shop.fit is None
    shop.build()
    assert shop.fit is not None


def test_pictures_that_are_gone_or_broken_by_then_are_passed_over(shop: Shop) -> None:
    shop.paint(0, 36)

    def report(progress: BuildProgress) -> None:
        if progress.embedded == 36 and (shop.folder / "000.bmp").exists():
            shop.remove(0, 4)
            (shop.folder / "004.bmp").write_bytes(b"broken")

    outcome = shop.build(report=report)
    assert (outcome.total_images, outcome.progress.skipped) == (36, 0)
    assert shop.fit is not None
    assert (shop.fit.images, shop.fit.pictures) == (36, 31)


def test_where_too_few_pictures_can_be_read_again_the_line_is_the_usual_one(shop: Shop) -> None:
    shop.paint(0, 32)

    def report(progress: BuildProgress) -> None:
        if progress.embedded == 32 and (shop.folder / "000.bmp").exists():
            shop.remove(0, 3)

    shop.build(report=report)
    assert shop.fit is not None
    assert (shop.fit.slope, shop.fit.offset, shop.fit.pictures) == (6.5, -3.1, 0)
    assert shop.fit.background is not None


@pytest.mark.slow
def test_a_build_tells_that_it_lives_while_it_alters_pictures_and_can_be_stopped_there(shop: Shop) -> None:
    shop.paint(0, 30)
    is_altering = shop.has_altered()
    beats = []

    def report(progress: BuildProgress) -> None:
        if is_altering(progress):
            beats.append(progress)
            if len(beats) == 10:
                raise Stopped

    with pytest.raises(Stopped):
        shop.build(report=report)
    assert not storage.has_index(shop.target)
    assert shop.embedder.embedded == 30
    shop.build()
    assert shop.embedder.embedded == 30  # what was embedded is kept
    assert shop.fit is not None


def test_a_fold_keeps_the_fit(shop: Shop) -> None:
    shop.paint(0, 8)
    shop.build()
    index = storage.load(shop.target)
    live = index.with_changes(
        [LiveImage(ImageRecord(f"new-{row}.bmp", f"id-{row}"), vector) for row, vector in enumerate(some_vectors(40))]
    )
    republish(live, shop.target, info=replace(index.info, live_sequence=40), publish=by_link(shop.target))
    assert storage.info(shop.target).total_images == 48
    assert shop.fit == index.info.match
