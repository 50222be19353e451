import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from search.engine import storage
from search.engine.build import embedding
from search.engine.build.builder import (
    BuildEstimate,
    BuildOptions,
    BuildOutcome,
    BuildProgress,
    build_index,
    estimate_build,
)
from search.engine.errors import NotEnoughSpace, NothingToIndex, PublishRefused
from search.engine.index.index import ImageIndex
from search.engine.model.embedder import read_hashed
from search.engine.model.transform import Pixels
from search.engine.storage.layout import EMBEDDINGS, FAISS_INDEX, ID_KEYS, INFO, METADATA, OFFSETS, SIGNATURES, SUMS
from search.engine.vectors import Vectors, unit_length
from tests.conftest import paint
from tests.support.damage import flip_a_byte
from tests.support.fakes import BLUE, GREEN, RED, WHITE, FakeEmbedder
from tests.support.indexes import forget_preparation

LONG_AGO = 1_600_000_000_000_000_000  # ns: a file of then is not in doubt
Colour = tuple[int, int, int]


@dataclass
class Collection:
    """A company's pictures, and the index that is built from them."""

    folder: Path
    target: Path
    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)

    def paint(self, path: str, colour: Colour, *, mtime_ns: int = LONG_AGO) -> Path:
        file = paint(self.folder / path, colour)
        os.utime(file, ns=(mtime_ns, mtime_ns))
        return file

    def paint_many(self, count: int) -> None:
        for number in range(count):
            self.paint(f"{number:03}.bmp", colour_of(number))

    def build(self, *, report: Callable[[BuildProgress], None] = lambda progress: None, **options: Any) -> BuildOutcome:
        chosen = BuildOptions(**{"max_pixels": 1_000_000, "batch_size": 4, "workers": 2, **options})
        return build_index(self.folder, self.target, embedder=self.embedder, options=chosen, report=report)

    def estimate(self) -> BuildEstimate:
        options = BuildOptions(max_pixels=1_000_000)
        return estimate_build(self.folder, self.target, embedder=self.embedder, options=options)

    def build_until(self, embedded: int) -> None:
        """Build until so many pictures are embedded; then the build is killed."""

        def report(progress: BuildProgress) -> None:
            if progress.embedded >= embedded:
                raise Killed

        with pytest.raises(Killed):
            self.build(report=report)

    def index(self) -> ImageIndex:
        return storage.load(self.target)

    def paths(self) -> list[str]:
        return [record.path for record in self.index().records]

    def vector(self, path: str) -> Any:
        index = self.index()
        (row,) = index.records.rows_of_path(path)
        return index.vectors.at(row)

    def generations(self) -> list[str]:
        return [
            generation.name for generation in storage.generations(self.target, storage.linked_generation(self.target))
        ]

    def embedded_by(self, build: Callable[[], object]) -> int:
        before = self.embedder.embedded
        build()
        return self.embedder.embedded - before


class Killed(BaseException):
    pass


class ShiftedEmbedder(FakeEmbedder):
    """What another version of a library might make of the same pictures."""

    def embed(self, batch: Any) -> Vectors:
        return unit_length(super().embed(batch) + np.float32(0.01))


def colour_of(number: int) -> Colour:
    return number % 256, number // 256 % 256, 7


def colour_vector(colour: Colour) -> Any:
    return FakeEmbedder().embed([np.array(colour, np.float32) / 255])[0]


@pytest.fixture
def acme(tmp_path: Path) -> Collection:
    (tmp_path / "pictures").mkdir()
    return Collection(tmp_path / "pictures", tmp_path / "indexes" / "acme")


def assert_same_index(one: ImageIndex, other: ImageIndex) -> None:
    assert list(one.records) == list(other.records)
    np.testing.assert_allclose(one.vectors[:], other.vectors[:], atol=1e-5)
    np.testing.assert_array_equal(one.signatures, other.signatures)


# Incremental --------------------------------------------------------------------------------------------------------


class RandomWalk:
    """Changes a folder at random and knows what an incremental build has to do about it."""

    def __init__(self, shop: Collection, seed: int) -> None:
        self.shop, self.random = shop, random.Random(seed)
        self.contents: dict[str, int] = {}  # by path
        self.indexed: dict[str, int] = {}  # when it was built last
        self.painted = 0
        self.time = LONG_AGO

    def step(self) -> None:
        names = sorted(self.contents)
        action = self.random.choice(["add", "add", "add", "change", "delete", "rename", "touch", "copy"])
        if action == "add" or len(names) < 4:
            self._paint(self._new_name())
        elif action == "change":
            self._paint(self.random.choice(names))
        elif action == "delete":
            name = self.random.choice(names)
            (self.shop.folder / name).unlink()
            del self.contents[name]
        elif action == "touch":
            self._touch(self.random.choice(names))
        else:
            self._duplicate(self.random.choice(names), self._new_name(), move=action == "rename")

    def built(self) -> None:
        self.indexed = dict(self.contents)

    def expected_counts(self) -> BuildProgress:
        known = set(self.indexed.values())
        reused = sum(content in known for content in self.contents.values())
        return BuildProgress(
            found=len(self.contents),
            embedded=len(self.contents) - reused,
            reused=reused,
            removed=len(self.indexed.keys() - self.contents.keys()),
        )

    def _new_name(self) -> str:
        folder = self.random.choice(["", "a/", "a/b/", "Z/", "é/"])
        return f"{folder}{self.random.randrange(10**9)}.bmp"

    def _paint(self, name: str) -> None:
        self.painted += 1
        self.contents[name] = self.painted
        self.time += 10**9
        self.shop.paint(name, colour_of(self.painted), mtime_ns=self.time)

    def _touch(self, name: str) -> None:
        self.time += 10**9
        os.utime(self.shop.folder / name, ns=(self.time, self.time))

    def _duplicate(self, old: str, new: str, *, move: bool) -> None:
        (self.shop.folder / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(self.shop.folder / old, self.shop.folder / new)
        self.contents[new] = self.contents[old]
        if move:
            (self.shop.folder / old).unlink()
            del self.contents[old]


@pytest.mark.parametrize("seed", range(4))
def test_an_incremental_build_equals_a_full_one_after_any_changes(acme: Collection, tmp_path: Path, seed: int) -> None:
    walk = RandomWalk(acme, seed)
    for turn in range(6):
        for _ in range(12):
            walk.step()
        expected = walk.expected_counts()
        outcome = acme.build()
        assert outcome.progress == expected
        full = Collection(acme.folder, tmp_path / f"full-{turn}" / "acme")  # ids come from the index's name
        full.build()
        assert_same_index(acme.index(), full.index())
        walk.built()
    assert acme.embedder.embedded < walk.painted * 2


def test_one_changed_picture_costs_one_embedding(acme: Collection) -> None:
    acme.paint_many(20)
    acme.build()
    acme.paint("005.bmp", WHITE, mtime_ns=LONG_AGO + 1)
    assert acme.embedded_by(acme.build) == 1
    np.testing.assert_allclose(acme.vector("005.bmp"), colour_vector(WHITE), atol=1e-6)


def test_moved_renamed_and_touched_pictures_are_not_embedded_again(acme: Collection) -> None:
    acme.paint_many(6)
    acme.build()
    (acme.folder / "moved").mkdir()
    (acme.folder / "000.bmp").rename(acme.folder / "moved" / "000.bmp")
    (acme.folder / "001.bmp").rename(acme.folder / "renamed.bmp")
    os.utime(acme.folder / "002.bmp")
    outcome = acme.build()
    assert acme.embedder.embedded == 6
    assert outcome.progress == BuildProgress(found=6, reused=6, removed=2)
    np.testing.assert_allclose(acme.vector("moved/000.bmp"), colour_vector(colour_of(0)), atol=1e-6)


def test_pictures_that_are_all_renamed_and_keep_their_order_are_published(acme: Collection) -> None:
    acme.paint_many(3)
    acme.build()
    for file in sorted(acme.folder.iterdir()):
        file.rename(file.with_name(f"new-{file.name}"))
    assert acme.build().published
    assert acme.paths() == ["new-000.bmp", "new-001.bmp", "new-002.bmp"]
    assert acme.embedder.embedded == 3


def test_two_pictures_that_trade_names_trade_vectors(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.paint("b.bmp", BLUE, mtime_ns=LONG_AGO + 5)
    acme.build()
    (acme.folder / "a.bmp").rename(acme.folder / "c.bmp")
    (acme.folder / "b.bmp").rename(acme.folder / "a.bmp")
    (acme.folder / "c.bmp").rename(acme.folder / "b.bmp")
    assert acme.embedded_by(acme.build) == 0
    np.testing.assert_allclose(acme.vector("a.bmp"), colour_vector(BLUE), atol=1e-6)
    np.testing.assert_allclose(acme.vector("b.bmp"), colour_vector(RED), atol=1e-6)


def test_a_change_that_keeps_size_and_time_is_found_by_checksum(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    acme.paint("a.bmp", BLUE)
    assert not acme.build().published  # nobody can see it without reading every file
    outcome = acme.build(checksum=True)
    assert outcome.progress.embedded == 1
    np.testing.assert_allclose(acme.vector("a.bmp"), colour_vector(BLUE), atol=1e-6)


def test_a_change_right_after_the_scan_is_found_though_size_and_time_stay(acme: Collection) -> None:
    file = paint(acme.folder / "a.bmp", RED)
    acme.build()
    now = file.stat().st_mtime_ns
    acme.paint("a.bmp", BLUE, mtime_ns=now)
    assert acme.build().progress.embedded == 1
    np.testing.assert_allclose(acme.vector("a.bmp"), colour_vector(BLUE), atol=1e-6)


def test_unchanged_pictures_publish_nothing(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    before = acme.generations()
    outcome = acme.build()
    assert (outcome.published, outcome.total_images, acme.generations()) == (False, 5, before)
    assert outcome.progress == BuildProgress(found=5, reused=5)


def test_unchanged_pictures_publish_nothing_beside_a_broken_one(acme: Collection) -> None:
    acme.paint_many(5)
    (acme.folder / "broken.png").write_text("not a picture")
    acme.build()
    before = acme.generations()
    outcome = acme.build()
    assert (outcome.published, outcome.total_images, acme.generations()) == (False, 5, before)
    assert [file.path for file in outcome.skipped_files] == ["broken.png"]


def test_full_embeds_everything_anew_and_says_why(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    (acme.folder / "004.bmp").unlink()
    outcome = acme.build(full=True)
    assert outcome.full_reason == "Full build requested"
    assert outcome.progress == BuildProgress(found=4, embedded=4, removed=1)
    assert acme.embedder.embedded == 9


def test_first_build_says_that_there_was_no_index(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    assert acme.build().full_reason == "First build"


def test_another_model_makes_the_build_full_and_names_both(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    acme.embedder = FakeEmbedder("e" * 64)
    outcome = acme.build()
    assert (outcome.progress.embedded, outcome.progress.reused) == (5, 0)
    assert "fake-weights (ffffffffffff)" in outcome.full_reason
    assert "fake-weights (eeeeeeeeeeee)" in outcome.full_reason
    assert acme.index().info.fingerprint == "e" * 64


def test_pictures_prepared_in_another_way_are_all_embedded_again_once(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    acme.embedder.preparation = "resized by hand"
    outcome = acme.build()
    assert (outcome.progress.embedded, outcome.progress.reused) == (5, 0)
    assert outcome.full_reason == (
        "The preparation of pictures changed (now: resized by hand; before: fake preparation)"
    )
    assert acme.index().info.preparation == "resized by hand"
    assert acme.embedded_by(acme.build) == 0


def test_an_index_of_an_earlier_release_is_searched_and_then_embedded_again(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    forget_preparation(acme.target)
    assert acme.index().info.passport == acme.embedder.passport
    estimate = acme.estimate()
    assert (estimate.to_embed, estimate.plan.kept) == (5, 0)
    outcome = acme.build()
    assert outcome.full_reason == (
        "The preparation of pictures changed (now: fake preparation; before: that of an earlier release)"
    )
    assert outcome.progress.embedded == 5


def test_where_no_picture_is_left_the_index_of_an_earlier_release_stays(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    forget_preparation(acme.target)
    shutil.rmtree(acme.folder)
    with pytest.raises(NothingToIndex):
        acme.build()
    assert len(acme.paths()) == 5


def test_a_build_takes_nothing_from_a_stopped_one_that_prepared_pictures_otherwise(acme: Collection) -> None:
    acme.paint_many(12)
    acme.build_until(embedded=8)
    acme.embedder.preparation = "resized by hand"
    assert acme.embedded_by(acme.build) == 12


def test_a_library_that_alters_vectors_makes_the_build_full_and_is_named(acme: Collection) -> None:
    acme.paint_many(20)
    acme.build()
    acme.embedder = ShiftedEmbedder()
    acme.embedder.libraries = {"fake": "2"}
    outcome = acme.build()
    assert (outcome.progress.embedded, outcome.progress.reused) == (20, 0)
    assert "'fake': '1'" in outcome.full_reason
    assert "'fake': '2'" in outcome.full_reason


def test_a_library_that_keeps_vectors_keeps_the_build_incremental(acme: Collection) -> None:
    acme.paint_many(20)
    acme.build()
    acme.embedder.libraries = {"fake": "2"}
    outcome = acme.build()
    assert (outcome.full_reason, outcome.progress.embedded, outcome.progress.reused) == ("", 0, 20)
    assert (acme.index().info.libraries or {})["fake"] == "2"
    assert acme.embedded_by(acme.build) == 0  # it is settled now


def test_vectors_of_an_older_library_are_not_trusted_when_none_can_be_compared(acme: Collection) -> None:
    acme.paint_many(3)
    acme.build()
    (acme.folder / "new place").mkdir()
    for file in list(acme.folder.glob("*.bmp")):
        file.rename(acme.folder / "new place" / file.name)
    acme.embedder = ShiftedEmbedder()
    acme.embedder.libraries = {"fake": "2"}
    assert acme.build().progress.embedded == 3


def test_ids_stay_while_a_picture_changes(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    before = acme.index().records[0].id
    acme.paint("a.bmp", BLUE, mtime_ns=LONG_AGO + 1)
    acme.build()
    assert acme.index().records[0].id == before


def test_a_damaged_index_is_replaced_by_a_full_build(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    metadata = acme.target / METADATA
    text = metadata.read_bytes()
    metadata.write_bytes(text.replace(b'"002.bmp"', b'"002.bmp!'))  # one entry, of the same length
    outcome = acme.build()
    assert (outcome.full_reason, outcome.total_images) == ("The previous index is damaged", 5)
    assert acme.paths() == [f"{number:03}.bmp" for number in range(5)]


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("name", [FAISS_INDEX, METADATA, OFFSETS, ID_KEYS, SIGNATURES])
def test_nothing_is_kept_of_an_index_with_a_damaged_file(
    acme: Collection, tmp_path: Path, name: str, changed: bool
) -> None:
    acme.paint_many(5)
    acme.build()
    flip_a_byte(acme.target / name, -40)
    if changed:
        acme.paint("002.bmp", WHITE, mtime_ns=LONG_AGO + 1)
    outcome = acme.build()
    assert (outcome.full_reason, outcome.progress.embedded) == ("The previous index is damaged", 5)
    assert storage.damaged_files(acme.target) == []
    undisturbed = Collection(acme.folder, tmp_path / "other" / "acme")
    undisturbed.build()
    assert_same_index(acme.index(), undisturbed.index())


def test_a_damaged_copy_of_the_vectors_is_written_anew_from_what_is_sound(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    flip_a_byte(acme.target / EMBEDDINGS, -40)
    outcome = acme.build()
    assert (outcome.published, outcome.progress) == (True, BuildProgress(found=5, reused=5))
    assert storage.damaged_files(acme.target) == []
    assert not acme.build().published


def test_a_full_build_does_not_care_what_became_of_the_index_before(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    for name in (FAISS_INDEX, METADATA, OFFSETS, ID_KEYS, SIGNATURES):
        flip_a_byte(acme.target / name, -40)
    outcome = acme.build(full=True)
    assert (outcome.full_reason, outcome.total_images) == ("Full build requested", 5)
    assert storage.damaged_files(acme.target) == []


def test_a_damaged_entry_beside_another_library_makes_the_build_full(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build()
    (acme.target / SUMS).unlink()  # as in the first format
    for name, old, new in ((INFO, b'"format": 3', b'"format": 1'), (METADATA, b'"', b"'")):
        file = acme.target / name
        file.write_bytes(file.read_bytes().replace(old, new))
    acme.embedder.libraries = {"fake": "2"}
    assert acme.build().progress.embedded == 5
    assert len(acme.paths()) == 5


@pytest.mark.parametrize("workers", [1, 4])
def test_the_number_of_workers_changes_nothing_in_the_index(acme: Collection, tmp_path: Path, workers: int) -> None:
    acme.paint_many(40)
    acme.build(workers=2, batch_size=32)
    other = Collection(acme.folder, tmp_path / "other" / "acme")
    other.build(workers=workers, batch_size=3)
    assert_same_index(acme.index(), other.index())


@pytest.mark.parametrize(("takes_best", "batch_size"), [(3, 32), (32, 3)])
def test_a_run_has_as_many_pictures_as_the_model_takes_best_and_at_most_batch_size(
    acme: Collection, takes_best: int, batch_size: int
) -> None:
    class Listening(FakeEmbedder):
        runs: ClassVar[list[int]] = []

        def embed(self, batch: Sequence[Pixels]) -> Vectors:
            self.runs.append(len(batch))
            return super().embed(batch)

    acme.embedder = Listening()
    acme.embedder.pictures_a_run = takes_best
    acme.paint_many(20)
    acme.build(batch_size=batch_size)
    assert sorted(Listening.runs) == [2, 3, 3, 3, 3, 3, 3]


# Refusals -----------------------------------------------------------------------------------------------------------


def test_an_empty_folder_is_refused_and_the_index_before_serves(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    (acme.folder / "a.bmp").unlink()
    with pytest.raises(NothingToIndex, match=r"contains no pictures.*--allow-empty"):
        acme.build()
    assert acme.paths() == ["a.bmp"]


def test_a_folder_of_other_types_alone_is_refused_with_what_lies_there(acme: Collection) -> None:
    for name in ("a.heic", "b.heic", "c.avif"):
        (acme.folder / name).write_bytes(b"x")
    with pytest.raises(NothingToIndex, match=r"only other files \(2 .heic, 1 .avif; allowed are png, jpg"):
        acme.build()


def test_an_empty_folder_empties_the_index_where_that_is_allowed(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    (acme.folder / "a.bmp").unlink()
    outcome = acme.build(allow_empty=True)
    assert (outcome.published, outcome.total_images, outcome.progress.removed) == (True, 0, 1)
    assert len(acme.index()) == 0
    assert not acme.build(allow_empty=True).published


@pytest.mark.parametrize("allow_empty", [False, True])
def test_a_vanished_folder_is_refused_always_and_the_index_before_serves(acme: Collection, allow_empty: bool) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    shutil.rmtree(acme.folder)
    with pytest.raises(NothingToIndex, match=r"pictures cannot be read: No such file"):
        acme.build(allow_empty=allow_empty)
    assert acme.paths() == ["a.bmp"]


@pytest.mark.parametrize("allow_empty", [False, True])
def test_a_folder_of_broken_pictures_alone_is_refused(acme: Collection, allow_empty: bool) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    (acme.folder / "a.bmp").write_text("not a picture")
    (acme.folder / "b.png").touch()
    with pytest.raises(NothingToIndex, match=r"None of the 2 pictures .* could be read; the first, a.bmp: Not a pict"):
        acme.build(allow_empty=allow_empty)
    assert acme.paths() == ["a.bmp"]


def test_a_disk_too_full_is_told_before_anything_is_written(acme: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.paint_many(5)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=5 * 960 * 4))
    with pytest.raises(NotEnoughSpace, match=r"5 pictures needs .* MB"):
        acme.build()
    assert not acme.target.parent.exists()
    assert acme.embedder.embedded == 0


def test_a_target_full_of_other_things_is_refused_before_any_work(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.target.mkdir(parents=True)
    (acme.target / "letters.txt").write_text("mine")
    with pytest.raises(PublishRefused):
        acme.build()
    assert acme.embedder.embedded == 0
    assert (acme.target / "letters.txt").read_text() == "mine"


def test_a_model_that_gives_no_numbers_publishes_nothing(acme: Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    acme.paint("b.bmp", BLUE)
    monkeypatch.setattr(acme.embedder, "embed", lambda batch: np.full((len(batch), 960), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"fake-weights .* not finite"):
        acme.build()
    assert acme.paths() == ["a.bmp"]


# Resumable ----------------------------------------------------------------------------------------------------------


def test_a_killed_build_goes_on_where_it_was(acme: Collection, tmp_path: Path) -> None:
    acme.paint_many(40)
    acme.build_until(embedded=28)
    assert not storage.has_index(acme.target)
    done = acme.embedder.embedded
    outcome = acme.build()
    assert acme.embedder.embedded == 40, f"{done} were embedded before"
    assert outcome.progress == BuildProgress(found=40, embedded=40)
    undisturbed = Collection(acme.folder, tmp_path / "other" / "acme")
    undisturbed.build()
    assert_same_index(acme.index(), undisturbed.index())


def test_a_build_killed_many_times_repeats_no_work(acme: Collection) -> None:
    acme.paint_many(40)
    for embedded in range(4, 40, 4):
        acme.build_until(embedded=embedded)
    acme.build()
    assert acme.embedder.embedded == 40
    assert not storage.workspace(acme.target).exists()


def test_the_index_before_serves_while_a_build_is_stopped(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    acme.paint_many(8)
    acme.build_until(embedded=4)
    assert acme.paths() == ["a.bmp"]
    acme.build()
    assert len(acme.paths()) == 9


def test_a_picture_renamed_after_the_kill_is_not_embedded_again(acme: Collection) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    (acme.folder / "003.bmp").rename(acme.folder / "three.bmp")
    acme.build()
    assert acme.embedder.embedded == 8
    np.testing.assert_allclose(acme.vector("three.bmp"), colour_vector(colour_of(3)), atol=1e-6)


def test_a_picture_changed_after_the_kill_is_embedded_again(acme: Collection) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    acme.paint("003.bmp", WHITE, mtime_ns=LONG_AGO + 1)
    acme.build()
    np.testing.assert_allclose(acme.vector("003.bmp"), colour_vector(WHITE), atol=1e-6)


def test_checksum_also_compares_what_a_killed_build_embedded(acme: Collection) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    acme.paint("003.bmp", WHITE)  # same size, same time
    acme.build(checksum=True)
    assert acme.embedder.embedded == 9
    np.testing.assert_allclose(acme.vector("003.bmp"), colour_vector(WHITE), atol=1e-6)


def test_a_picture_changed_right_after_a_killed_build_read_it_is_embedded_again(acme: Collection) -> None:
    file = paint(acme.folder / "a.bmp", RED)
    now = file.stat().st_mtime_ns
    acme.build_until(embedded=1)
    acme.paint("a.bmp", BLUE, mtime_ns=now)
    acme.build()
    np.testing.assert_allclose(acme.vector("a.bmp"), colour_vector(BLUE), atol=1e-6)


def kept_work(acme: Collection, suffix: str) -> list[Path]:
    return sorted(storage.workspace(acme.target).glob(f"*{suffix}"))


def test_work_whose_last_line_is_torn_is_kept_up_to_there(acme: Collection) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    (lines,) = kept_work(acme, ".jsonl")
    lines.write_text(lines.read_text()[:-20])
    acme.build()
    assert acme.embedder.embedded == 8 + 1
    assert len(acme.paths()) == 8


def test_work_whose_vectors_are_cut_is_kept_up_to_there(acme: Collection, tmp_path: Path) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    (floats,) = kept_work(acme, ".f32")
    os.truncate(floats, 5 * 4 * 960 + 17)
    acme.build()
    assert acme.embedder.embedded == 8 + 3
    undisturbed = Collection(acme.folder, tmp_path / "other" / "acme")
    undisturbed.build()
    assert_same_index(acme.index(), undisturbed.index())


@pytest.mark.parametrize("nonsense", ["5\n", '["a.bmp", 1]\n', '["a.bmp", 1, 2, "xyz"]\n', "\0\0\0\0\n", "{}\n"])
def test_work_with_nonsense_in_its_lines_is_kept_up_to_there(acme: Collection, nonsense: str) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    (lines,) = kept_work(acme, ".jsonl")
    header, *entries = lines.read_text().splitlines(keepends=True)
    lines.write_text("".join([header, *entries[:3], nonsense, *entries[3:]]))
    acme.build()
    assert acme.embedder.embedded == 8 + 5
    assert len(acme.paths()) == 8


def test_work_of_another_model_is_not_taken_over(acme: Collection) -> None:
    acme.paint_many(8)
    acme.build_until(embedded=8)
    acme.embedder = ShiftedEmbedder("e" * 64)
    acme.build()
    assert acme.embedder.embedded == 8
    expected = ShiftedEmbedder().embed([np.array(colour_of(3), np.float32) / 255])[0]
    np.testing.assert_allclose(acme.vector("003.bmp"), expected, atol=1e-6)


# Bad input ----------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "with space.bmp",
    " leading and trailing .bmp",
    "quote'\"`.bmp",
    "new\nline.bmp",
    "tab\tand\rreturn.bmp",
    "back\\slash.bmp",
    "emoji 🦊👩‍👩‍👧.bmp",
    "combining é.bmp",
    "composed é.bmp",
    "line\u2028separator.bmp",
    "Case.bmp",
    "case.bmp",
    "CASE.BMP",
    "percent%20&amp;<b>.bmp",
    "-rf.bmp",
    "250" + "x" * 243 + ".bmp",
    "folder with\nnewline/ünï/ﬁne.bmp",
    ("d" * 250) + "/" + ("e" * 240) + ".bmp",
]


def test_pictures_with_odd_names_are_indexed_under_their_own_path(acme: Collection) -> None:
    for number, name in enumerate(ODD_NAMES):
        acme.paint(name, colour_of(number + 1))
    outcome = acme.build()
    assert outcome.skipped_files == []
    assert acme.paths() == sorted(ODD_NAMES)
    entries = json.loads((acme.target / METADATA).read_text())
    assert [entry["fullPath"] for entry in entries] == sorted(ODD_NAMES)
    assert len({entry["id"] for entry in entries}) == len(ODD_NAMES)
    for number, name in enumerate(ODD_NAMES):
        best = acme.index().search(colour_vector(colour_of(number + 1)), top_k=1)[0]
        assert best.image.path == name
    assert not acme.build().published  # they are recognised, too


def test_odd_names_survive_a_killed_build(acme: Collection) -> None:
    for number, name in enumerate(ODD_NAMES):
        acme.paint(name, colour_of(number + 1))
    acme.build_until(embedded=len(ODD_NAMES))
    acme.build()
    assert acme.embedder.embedded == len(ODD_NAMES)
    assert acme.paths() == sorted(ODD_NAMES)


def test_names_that_are_not_utf8_are_skipped_with_the_reason(acme: Collection) -> None:
    acme.paint("good.bmp", RED)
    shutil.copy(acme.folder / "good.bmp", Path(os.fsdecode(os.fsencode(acme.folder) + b"/caf\xe9.bmp")))
    Path(os.fsdecode(os.fsencode(acme.folder) + b"/fold\xe9r")).mkdir()
    outcome = acme.build()
    assert acme.paths() == ["good.bmp"]
    assert {file.path: file.reason for file in outcome.skipped_files} == {
        "caf\\xe9.bmp": "The name is not valid UTF-8",
        "fold\\xe9r/": "The name is not valid UTF-8",
    }
    assert outcome.progress.skipped == 2


def test_hundreds_of_broken_pictures_are_all_listed_and_none_is_fatal(acme: Collection) -> None:
    for number in range(0, 600, 2):
        acme.paint(f"{number:03}.bmp", colour_of(number))
        (acme.folder / f"{number + 1:03}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken" if number % 4 else b"")
    outcome = acme.build(batch_size=32)
    assert outcome.progress == BuildProgress(found=600, embedded=300, skipped=300)
    assert sorted(file.path for file in outcome.skipped_files) == [
        f"{number + 1:03}.png" for number in range(0, 600, 2)
    ]
    assert all(file.reason for file in outcome.skipped_files)
    assert len(acme.index()) == 300


ODD_YEARS = {1969: -1, 2300: 10_413_792_000, 2440: 14_831_769_600}


@pytest.mark.parametrize("when", ODD_YEARS.values(), ids=map(str, ODD_YEARS))
def test_a_picture_of_any_year_is_indexed_and_a_change_of_it_is_found(acme: Collection, when: int) -> None:
    acme.paint("a.bmp", RED)
    acme.paint("b.bmp", BLUE, mtime_ns=when * 10**9)
    assert acme.build().progress == BuildProgress(found=2, embedded=2)
    assert not acme.build().published
    acme.paint("b.bmp", GREEN, mtime_ns=when * 10**9 + 1_000_000_000)
    acme.build()
    np.testing.assert_allclose(acme.vector("b.bmp"), colour_vector(GREEN), atol=1e-6)


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no file system here that keeps every time")
@pytest.mark.parametrize("when", [-(2**60), -11_644_473_600, 10_413_792_000, 2**60])
def test_a_time_that_no_index_can_hold_never_proves_a_picture_unchanged(acme: Collection, when: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        shop = Collection(Path(folder), acme.target, acme.embedder)
        shop.paint("a.bmp", RED, mtime_ns=when * 10**9)
        assert (shop.folder / "a.bmp").stat().st_mtime_ns == when * 10**9
        shop.build()
        assert not shop.build().published
        shop.paint("a.bmp", GREEN, mtime_ns=when * 10**9)
        shop.build()
        np.testing.assert_allclose(shop.vector("a.bmp"), colour_vector(GREEN), atol=1e-6)


@pytest.mark.parametrize("error", [OSError("no number"), OverflowError("too large"), MemoryError(), RecursionError()])
def test_whatever_one_picture_makes_of_its_reading_the_others_are_indexed(acme: Collection, error: Exception) -> None:
    class Stumbling(FakeEmbedder):
        def prepare(self, image: Image.Image) -> Pixels:
            if image.getpixel((0, 0)) == WHITE:
                raise error
            return super().prepare(image)

    acme.embedder = Stumbling()
    acme.paint_many(5)
    acme.paint("white.bmp", WHITE)
    outcome = acme.build()
    assert outcome.progress == BuildProgress(found=6, embedded=5, skipped=1)
    assert [(file.path, "cannot be read" in file.reason) for file in outcome.skipped_files] == [("white.bmp", True)]


def after_the_scan(change: Callable[[], object]) -> Callable[[BuildProgress], None]:
    """Return a report that makes the change once the folder has been looked through."""
    pending = [change]

    def report(progress: BuildProgress) -> None:
        if progress.found and pending:
            pending.pop()()

    return report


def test_a_picture_that_vanishes_after_the_scan_is_skipped_with_the_reason(acme: Collection) -> None:
    acme.paint_many(5)
    outcome = acme.build(report=after_the_scan((acme.folder / "002.bmp").unlink))
    assert [(file.path, file.reason) for file in outcome.skipped_files] == [
        ("002.bmp", "The file cannot be read: No such file or directory")
    ]
    assert len(acme.paths()) == 4


def replace_by_link(path: Path, target: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("again", [False, True])  # a second build compares contents
@pytest.mark.parametrize("place", ["shop/a.bmp", "shop", "shop/deep"])
def test_a_link_that_takes_a_place_after_the_scan_is_not_followed_out(
    acme: Collection, tmp_path: Path, place: str, again: bool
) -> None:
    for path in ("a.bmp", "deep/b.bmp", "deep/c.bmp"):
        acme.paint(f"shop/{path}", RED)
        paint(tmp_path / "secret" / path, WHITE)
    acme.paint("good.bmp", GREEN)
    if again:
        acme.build()
    target = tmp_path / "secret" / place.removeprefix("shop").lstrip("/")
    report = after_the_scan(lambda: replace_by_link(acme.folder / place, target))
    acme.build(report=report, full=True)
    index = acme.index()
    assert "good.bmp" in acme.paths()
    assert not any(np.allclose(index.vectors.at(row), colour_vector(WHITE)) for row in range(len(index.records)))


def test_a_pipe_that_takes_a_place_after_the_scan_is_not_waited_for(acme: Collection) -> None:
    acme.paint_many(5)
    outcome = acme.build(report=after_the_scan(lambda: replace_by_pipe(acme.folder / "002.bmp")))
    assert [(file.path, file.reason) for file in outcome.skipped_files] == [
        ("002.bmp", "The file cannot be read: Not a regular file")
    ]


def test_a_picture_that_changes_after_the_scan_is_indexed_as_it_is_now(acme: Collection) -> None:
    acme.paint_many(5)
    acme.build(report=after_the_scan(lambda: acme.paint("002.bmp", WHITE, mtime_ns=LONG_AGO + 5)))
    np.testing.assert_allclose(acme.vector("002.bmp"), colour_vector(WHITE), atol=1e-6)
    assert not acme.build().published


def test_a_folder_that_vanishes_after_the_scan_leaves_the_index_before(acme: Collection) -> None:
    acme.paint("a.bmp", RED)
    acme.build()
    acme.paint_many(5)
    (acme.folder / "a.bmp").unlink()
    with pytest.raises(NothingToIndex, match="could be read"):
        acme.build(report=after_the_scan(lambda: shutil.rmtree(acme.folder)))
    assert acme.paths() == ["a.bmp"]


def test_a_picture_that_changes_while_it_is_read_lends_its_vector_to_no_other(
    acme: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = acme.paint("a.bmp", RED)

    def change_and_read(*source: Any, **options: Any) -> Any:
        content = file.read_bytes()
        file.write_bytes(content.replace(b"\x00\x00\xff", b"\xff\x00\x00"))  # red to blue, in place
        os.utime(file, ns=(LONG_AGO + 9, LONG_AGO + 9))
        return read_hashed(*source, **options)

    monkeypatch.setattr(embedding, "read_hashed", change_and_read)
    acme.build()
    monkeypatch.undo()
    acme.paint("b.bmp", RED)
    acme.build()
    np.testing.assert_allclose(acme.vector("a.bmp"), colour_vector(BLUE), atol=1e-6)
    np.testing.assert_allclose(acme.vector("b.bmp"), colour_vector(RED), atol=1e-6)


# Progress and estimates ---------------------------------------------------------------------------------------------


def test_progress_only_grows_and_ends_with_everything_done(acme: Collection) -> None:
    acme.paint_many(20)
    acme.build()
    acme.paint_many(30)
    (acme.folder / "broken.png").touch()
    seen: list[BuildProgress] = []
    outcome = acme.build(report=seen.append)
    done = [progress.done for progress in seen]
    assert done == sorted(done)
    assert seen[-1] == outcome.progress == BuildProgress(found=31, embedded=10, reused=20, skipped=1)
    assert outcome.progress.done == outcome.progress.found


def test_an_estimate_tells_what_a_build_would_do_and_writes_nothing(acme: Collection) -> None:
    acme.paint_many(10)
    acme.build()
    acme.paint("new.bmp", GREEN)
    (acme.folder / "000.bmp").unlink()
    before = sorted((file, file.lstat().st_mtime_ns) for file in acme.target.parent.rglob("*"))
    options = BuildOptions(max_pixels=1_000_000)
    estimate = estimate_build(acme.folder, acme.target, embedder=acme.embedder, options=options)
    assert (estimate.to_embed, estimate.plan.kept, estimate.plan.removed) == (1, 9, 1)
    assert estimate.seconds is not None
    assert estimate.seconds > 0
    assert sorted((file, file.lstat().st_mtime_ns) for file in acme.target.parent.rglob("*")) == before


def test_an_estimate_of_a_first_build_makes_no_directory(acme: Collection) -> None:
    acme.paint_many(3)
    options = BuildOptions(max_pixels=1_000_000)
    estimate = estimate_build(acme.folder, acme.target, embedder=acme.embedder, options=options)
    assert (estimate.to_embed, estimate.full_reason) == (3, "First build")
    assert not acme.target.parent.exists()
