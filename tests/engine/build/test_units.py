"""Builds that many workers share make what one worker makes, bit for bit."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.engine import storage
from search.engine.build.builder import BuildOptions, BuildOutcome, build_index
from search.engine.build.units import FolderPlace, Place, Report, StorePlace, Unit, UnitResult, embed_unit
from search.engine.errors import MachineDiffers, UnitRefused
from search.engine.model.onnx_model import load_embedder
from search.engine.model.transform import Pixels
from search.engine.objects import open_store
from search.engine.storage.layout import CODES, FAISS_INDEX, HASHES, ID_KEYS, METADATA, OFFSETS, SIGNATURES
from search.engine.vectors import Vectors, unit_length
from tests.engine.build.test_builder import Collection, Killed, acme  # noqa: F401
from tests.support.fakes import RED, WHITE, FakeEmbedder
from tests.support.object_store import StoreServer

FILES = [FAISS_INDEX, METADATA, OFFSETS, ID_KEYS, SIGNATURES, HASHES]

Order = Callable[[Sequence[Unit]], Sequence[Unit]]


class FussyEmbedder(FakeEmbedder):
    """What a model might do whose last bits depend on which pictures it is given together."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures_a_run = 4

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        vectors = super().embed(batch)
        vectors[:, 10] = np.stack(batch).mean() * 1e-3
        return unit_length(vectors)


class Workers:
    """Those who share a build: each unit is another's, with an embedder and threads of its own."""

    def __init__(self, place: Place, folder: Path, *, pictures: int = 8, order: Order = list) -> None:
        self.place, self.pictures, self._folder, self._order = place, pictures, folder, order
        self.offered: list[Unit] = []
        self.refused: list[str] = []
        self.spoil: Callable[[UnitResult], UnitResult] = lambda result: result  # what becomes of the first result
        self.stop_after = 10**6  # units, then the publisher is killed

    def finished(
        self, units: Sequence[Unit], embed: Callable[[Unit, str, Report], UnitResult]
    ) -> Iterator[tuple[Unit, UnitResult]]:
        self.offered, waiting = list(units), list(self._order(units))
        for number, unit in enumerate(waiting):
            if number == self.stop_after:
                raise Killed
            if number % 3 == 2:
                yield unit, embed(unit, "publisher", lambda done: None)
                continue
            result = self._embed(unit, f"worker-{number}", workers=1 + number % 3)
            refused = len(self.refused)
            yield unit, result if number else self.spoil(result)
            if len(self.refused) > refused:
                waiting.append(unit)

    def refuse(self, unit: Unit, result: UnitResult, reason: str) -> None:
        self.refused.append(reason)

    def _embed(self, unit: Unit, attempt: str, *, workers: int) -> UnitResult:
        return embed_unit(
            self.place,
            unit.name,
            attempt=attempt,
            folder=self._folder,
            embedder=FussyEmbedder(),
            workers=workers,
        )


@pytest.fixture
def shop(acme: Collection) -> Collection:  # noqa: F811
    """Return 24 pictures, some of the same content far apart, and two that cannot be read."""
    acme.embedder = FussyEmbedder()
    acme.paint_many(19)
    for number in (3, 4, 16):
        shutil.copy2(acme.folder / "001.bmp", acme.folder / f"{number:03}-again.bmp")
    for name in ("007-broken.png", "017-broken.png"):
        (acme.folder / name).write_bytes(b"no picture")
    return acme


@pytest.fixture
def workers(shop: Collection, tmp_path: Path) -> Workers:
    return Workers(FolderPlace(tmp_path / "units"), shop.folder)


def build(shop: Collection, units: Workers | None = None, **options: Any) -> BuildOutcome:
    chosen = BuildOptions(**{"max_pixels": 1_000_000, "workers": 2, **options})
    return build_index(shop.folder, shop.target, embedder=shop.embedder, options=chosen, units=units)


def alone(shop: Collection, tmp_path: Path, *, before: Path | None = None) -> Collection:
    """Return the same pictures, as one worker indexes them; before: whose index it goes on from."""
    other = Collection(shop.folder, tmp_path / "alone" / shop.target.name, embedder=FussyEmbedder())
    build_index(
        other.folder, other.target, embedder=other.embedder, options=BuildOptions(1_000_000, workers=2), before=before
    )
    return other


def files_of(shop: Collection) -> dict[str, bytes]:
    generation = shop.target.resolve()
    return {name: (generation / name).read_bytes() for name in [*FILES, CODES] if (generation / name).exists()}


@pytest.mark.parametrize("order", [list, lambda units: units[::-1], lambda units: units[1::2] + units[::2]])
def test_units_done_in_any_order_make_the_index_of_one_worker_bit_for_bit(
    shop: Collection, tmp_path: Path, order: Order
) -> None:
    workers = Workers(FolderPlace(tmp_path / "units"), shop.folder, order=order)
    outcome = build(shop, workers)
    assert [unit.pictures for unit in workers.offered] == [8, 8, 8]
    assert files_of(shop) == files_of(alone(shop, tmp_path))
    assert [file.path for file in outcome.skipped_files] == ["007-broken.png", "017-broken.png"]
    assert (outcome.progress.embedded, outcome.progress.skipped, outcome.progress.done) == (22, 2, 24)


def test_units_end_where_chunks_of_the_whole_build_end(shop: Collection, tmp_path: Path) -> None:
    workers = Workers(FolderPlace(tmp_path / "units"), shop.folder, pictures=11)
    build(shop, workers)
    assert [unit.pictures for unit in workers.offered] == [8, 8, 8]
    assert files_of(shop) == files_of(alone(shop, tmp_path))


def test_pictures_moved_and_copied_since_the_index_before_keep_their_vectors(
    shop: Collection, workers: Workers, tmp_path: Path
) -> None:
    build(shop)
    first = shop.target.resolve()
    for number in range(10):
        (shop.folder / f"{number:03}.bmp").rename(shop.folder / f"{number:03}-moved.bmp")
    for number in range(6):
        shop.paint(f"{number:03}-new.bmp", (number, 200, 200))
    outcome = build(shop, workers)
    assert (outcome.progress.reused, outcome.progress.embedded) == (22, 6)
    assert files_of(shop) == files_of(alone(shop, tmp_path, before=first))


def test_a_build_of_one_unit_is_not_cut(shop: Collection, tmp_path: Path) -> None:
    workers = Workers(FolderPlace(tmp_path / "units"), shop.folder, pictures=24)
    build(shop, workers)
    assert not workers.offered
    assert not (tmp_path / "units").exists()


# What goes wrong ----------------------------------------------------------------------------------------------------


def test_a_publisher_that_follows_a_killed_one_has_the_same_units_made_that_are_left(
    shop: Collection, workers: Workers, tmp_path: Path
) -> None:
    workers.stop_after = 2
    with pytest.raises(Killed):
        build(shop, workers)
    first, workers.stop_after = workers.offered, 10**6
    build(shop, workers)
    left = [unit for unit in workers.offered if unit in first]
    assert left == first[2:]
    assert sum(unit.pictures for unit in workers.offered if unit not in first) == 1  # the unreadable one
    assert files_of(shop) == files_of(alone(shop, tmp_path))


def torn(place: FolderPlace, result: UnitResult) -> UnitResult:
    file = place.directory / result.name
    file.write_bytes(file.read_bytes()[:-100])
    return result


def gone(place: FolderPlace, result: UnitResult) -> UnitResult:
    (place.directory / result.name).unlink()
    return result


def foreign(place: FolderPlace, result: UnitResult) -> UnitResult:
    """Return a sound result, of another unit of as many pictures."""
    other = next(unit for unit in place.directory.glob("*.unit") if not result.name.startswith(unit.stem))
    return embed_unit(
        place, other.name, attempt="x", folder=place.directory.parent / "pictures", embedder=FussyEmbedder(), workers=1
    )


@pytest.mark.parametrize(
    ("spoil", "says"), [(torn, "is not what its worker wrote"), (gone, "is gone"), (foreign, "is of another unit")]
)
def test_a_result_that_is_not_the_units_is_refused_and_made_again(
    shop: Collection, workers: Workers, tmp_path: Path, spoil: Callable[[Place, UnitResult], UnitResult], says: str
) -> None:
    workers.spoil = lambda result: spoil(workers.place, result)
    build(shop, workers)
    assert len(workers.refused) == 1
    assert says in workers.refused[0]
    assert files_of(shop) == files_of(alone(shop, tmp_path))


def cut(shop: Collection, workers: Workers) -> Unit:
    """Return the first unit of a build that is killed then."""
    workers.stop_after = 0
    with pytest.raises(Killed):
        build(shop, workers)
    return workers.offered[0]


def embed(workers: Workers, unit: Unit, folder: Path, embedder: FakeEmbedder) -> UnitResult:
    return embed_unit(workers.place, unit.name, attempt="x", folder=folder, embedder=embedder, workers=1)


def test_a_machine_with_another_library_makes_no_part_of_a_build(shop: Collection, workers: Workers) -> None:
    other = FussyEmbedder()
    other.libraries = {"fake": "2"}
    with pytest.raises(MachineDiffers, match="'fake': '2'"):
        embed(workers, cut(shop, workers), shop.folder, other)


def test_a_machine_with_another_release_that_describes_units_otherwise_makes_no_part_of_a_build(
    shop: Collection, workers: Workers
) -> None:
    content = json.dumps(json.loads(workers.place.read(cut(shop, workers).name)) | {"later": 1}).encode()
    unit = Unit(f"{hashlib.sha256(content).hexdigest()[:32]}.unit", 8)
    workers.place.write(unit.name, content)
    with pytest.raises(MachineDiffers, match="another release's"):
        embed(workers, unit, shop.folder, FussyEmbedder())


def test_a_machine_that_does_not_have_the_pictures_makes_no_part_of_a_build(
    shop: Collection, workers: Workers, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MachineDiffers, match="None of 8 pictures can be opened"):
        embed(workers, cut(shop, workers), tmp_path / "empty", FussyEmbedder())


def test_a_picture_that_a_worker_cannot_open_is_tried_by_the_publisher(
    shop: Collection, workers: Workers, tmp_path: Path
) -> None:
    partial = tmp_path / "partial"
    shutil.copytree(shop.folder, partial)
    (partial / "002.bmp").unlink()
    theirs = Workers(workers.place, partial)
    outcome = build(shop, theirs)
    assert "002.bmp" in shop.paths()
    assert outcome.progress.embedded == 22


def test_a_unit_whose_file_is_torn_is_not_embedded(shop: Collection, workers: Workers) -> None:
    unit = cut(shop, workers)
    assert isinstance(workers.place, FolderPlace)
    file = workers.place.directory / unit.name
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UnitRefused, match="is not what was written"):
        embed(workers, unit, shop.folder, FussyEmbedder())


def test_whatever_a_worker_is_told_to_stop_with_ends_its_unit(shop: Collection, workers: Workers) -> None:
    unit, seen = cut(shop, workers), list[int]()

    def report(done: int) -> None:
        seen.append(done)
        if done >= 8:
            raise Killed

    with pytest.raises(Killed):
        embed_unit(
            workers.place,
            unit.name,
            attempt="x",
            folder=shop.folder,
            embedder=FussyEmbedder(),
            workers=1,
            report=report,
        )
    assert seen == [4, 8]


# Elsewhere ----------------------------------------------------------------------------------------------------------


def test_units_in_an_object_store_make_the_same_index(
    shop: Collection, tmp_path: Path, store_server: StoreServer
) -> None:
    store = open_store(f"{store_server.make_bucket()}/.building/1/2", store_server.endpoint)
    workers = Workers(StorePlace(store), shop.folder, pictures=16)
    workers.spoil = lambda result: replace(result, sha256="0" * 64)
    build(shop, workers)
    assert len(workers.refused) == 1
    assert files_of(shop) == files_of(alone(shop, tmp_path))
    workers.place.remove([unit.name for unit in workers.offered])
    assert not [found for found in store.listing() if found.key.endswith(".unit")]


@pytest.mark.slow
def test_units_of_the_built_in_model_make_the_vectors_of_one_worker_bit_for_bit(tmp_path: Path) -> None:
    embedder = load_embedder("builtin", cache=tmp_path / "models", hub=tmp_path / "hub", threads=2)
    noise = np.random.default_rng(1)
    (tmp_path / "pictures").mkdir()
    for number in range(45):
        pixels = np.kron(noise.integers(0, 255, (8, 8, 3), np.uint8), np.ones((30, 30, 1), np.uint8))
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")

    def built(name: str, threads: int, units: Workers | None = None) -> dict[str, bytes]:
        target = tmp_path / name / "acme"
        options = BuildOptions(1_000_000, workers=threads)
        build_index(tmp_path / "pictures", target, embedder=embedder, options=options, units=units)
        return {file: (target / file).read_bytes() for file in FILES}

    class Real(Workers):
        def _embed(self, unit: Unit, attempt: str, *, workers: int) -> UnitResult:
            return embed_unit(
                self.place,
                unit.name,
                attempt=attempt,
                folder=tmp_path / "pictures",
                embedder=embedder,
                workers=workers,
            )

    one = built("one", 1)
    assert one == built("two", 2)
    units = Real(FolderPlace(tmp_path / "units"), tmp_path / "pictures", pictures=10)
    assert one == built("units", 2, units)
    assert len(units.offered) == 6


def test_the_work_of_units_is_found_again_by_their_pictures_alone(shop: Collection, workers: Workers) -> None:
    workers.stop_after = 2
    with pytest.raises(Killed):
        build(shop, workers)
    shop.paint("000.bmp", WHITE, mtime_ns=1_700_000_000_000_000_000)
    shop.paint("zzz.bmp", RED)
    outcome = build(shop)
    assert outcome.progress.embedded == 23
    assert shop.embedder.embedded < 23
    assert not storage.workspace(shop.target).exists()
