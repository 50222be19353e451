import errno
import os
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from search.engine import durable, storage
from search.engine.build import plan as plan_module
from search.engine.build.plan import EMBED, PICTURE, PathsOfRows, Plan, make_plan
from search.engine.errors import NotEnoughSpace, NothingToIndex
from search.engine.index.index import ImageIndex
from tests.conftest import paint
from tests.engine.build.test_builder import LONG_AGO, Collection, acme, colour_of  # noqa: F401
from tests.support.fakes import BLUE, RED, WHITE


@pytest.fixture
def built(acme: Collection) -> Collection:  # noqa: F811
    acme.paint_many(5)
    acme.build()
    return acme


def rows_by_path(plan: Plan) -> dict[str, int]:
    everything = range(len(plan))
    return dict(zip(plan.paths(everything), plan.pictures(everything)["row"].tolist(), strict=True))


def signatures(plan: Plan) -> Any:
    return plan.pictures(range(len(plan)))["signature"]


def test_without_an_index_before_everything_is_to_be_embedded(acme: Collection) -> None:  # noqa: F811
    acme.paint("b.bmp", RED)
    acme.paint("a/c.bmp", BLUE)
    plan = make_plan(acme.folder, None, keep=False, checksum=False)
    assert rows_by_path(plan) == {"a/c.bmp": EMBED, "b.bmp": EMBED}
    assert (plan.found, plan.kept, plan.removed) == (2, 0, 0)


def test_each_picture_keeps_its_row_or_is_to_be_embedded(built: Collection) -> None:
    (built.folder / "000.bmp").unlink()
    built.paint("002.bmp", WHITE, mtime_ns=LONG_AGO + 1)
    built.paint("0025.bmp", RED)
    plan = make_plan(built.folder, built.index(), keep=True, checksum=False)
    assert rows_by_path(plan) == {
        "001.bmp": 1,
        "002.bmp": EMBED,
        "0025.bmp": EMBED,
        "003.bmp": 3,
        "004.bmp": 4,
    }
    assert (plan.found, plan.kept, plan.removed) == (5, 3, 1)


def test_the_hash_of_a_kept_picture_is_carried_over(built: Collection) -> None:
    plan = make_plan(built.folder, built.index(), keep=True, checksum=False)
    np.testing.assert_array_equal(signatures(plan), built.index().signatures)


def test_where_nothing_may_be_kept_what_is_gone_is_still_counted(built: Collection) -> None:
    (built.folder / "000.bmp").unlink()
    plan = make_plan(built.folder, built.index(), keep=False, checksum=False)
    assert (plan.kept, plan.removed) == (0, 1)
    assert not signatures(plan)["sha256"].any()


def test_a_touched_picture_is_kept_with_its_new_time(built: Collection) -> None:
    os.utime(built.folder / "003.bmp", ns=(LONG_AGO + 7, LONG_AGO + 7))
    plan = make_plan(built.folder, built.index(), keep=True, checksum=False)
    assert plan.kept == 5
    assert signatures(plan)["mtime_ns"][3] == LONG_AGO + 7


@pytest.mark.parametrize(("age_ns", "read"), [(10_000_000_000, 0), (500_000_000, 1), (-500_000_000, 1)])
def test_only_pictures_younger_than_the_scan_before_are_read_again(
    acme: Collection,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    age_ns: int,
    read: int,
) -> None:
    scan = LONG_AGO
    paint(acme.folder / "a.bmp", RED)
    os.utime(acme.folder / "a.bmp", ns=(scan - age_ns, scan - age_ns))
    monkeypatch.setattr("search.engine.build.builder.time.time_ns", lambda: scan)
    acme.build()
    index = acme.index()
    with patch.object(durable, "sha256", wraps=durable.sha256) as sha256:
        plan = make_plan(acme.folder, index, keep=True, checksum=False)
    assert (plan.kept, sha256.call_count) == (1, read)


def test_a_slow_look_through_the_folder_is_reported_at_every_file(
    built: Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    (built.folder / "zzz-broken-link.png").symlink_to("nowhere")
    monkeypatch.setattr(plan_module, "time", SimpleNamespace(monotonic=count().__next__))  # each look takes a second
    beats: list[int] = []
    make_plan(built.folder, built.index(), keep=True, checksum=True, beat=beats.append)
    assert beats == [0, 1, 2, 3, 4, 5]


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NothingToIndex, match="file cannot be read: Not a directory"):
        make_plan(tmp_path / "file", None, keep=False, checksum=False)


def test_an_index_with_a_picture_after_the_last_of_the_folder_counts_it_as_removed(built: Collection) -> None:
    (built.folder / "004.bmp").unlink()
    (built.folder / "003.bmp").unlink()
    plan = make_plan(built.folder, built.index(), keep=True, checksum=False)
    assert (plan.kept, plan.removed) == (3, 2)


def test_folders_sort_as_their_full_paths_do(acme: Collection) -> None:  # noqa: F811
    for number, name in enumerate(["a/z.bmp", "a.bmp", "a-b.bmp", "a0.bmp", "A/b.bmp", "a/b/c.bmp"]):
        acme.paint(name, colour_of(number))
    acme.build()
    before: ImageIndex | Any = storage.load(acme.target)
    plan = make_plan(acme.folder, before, keep=True, checksum=False)
    assert list(rows_by_path(plan)) == sorted(rows_by_path(plan))
    assert list(rows_by_path(plan).values()) == list(range(6))


def test_a_plan_of_many_blocks_is_read_back_as_it_was_written() -> None:
    plan, paths = Plan(), [f"f/{number:05} \u00e9\n.png" for number in range(3000)]
    for start in range(0, 3000, 700):
        block = paths[start : start + 700]
        pictures = np.zeros(len(block), PICTURE)
        pictures["row"] = np.arange(start, start + len(block))
        plan.append(block, pictures)
    plan.update(np.array([0, 1, 699, 700, 2999]), number=np.array([1, 2, 3, 4, 5]))
    read = np.concatenate([pictures for _, pictures in plan.blocks()])
    assert read["row"].tolist() == list(range(3000))
    assert dict(enumerate(read["number"].tolist())) == {
        **dict.fromkeys(range(3000), 0),
        **{0: 1, 1: 2, 699: 3, 700: 4, 2999: 5},
    }
    assert plan.paths(range(3000)) == paths
    assert plan.paths(range(690, 710)) == paths[690:710]
    assert plan.path(2999) == paths[2999]
    assert plan.paths(range(3000, 3000)) == []


def test_the_paths_of_rows_are_those_of_the_pictures_that_are_not_left_out() -> None:
    plan, paths = Plan(), [f"{number}.png" for number in range(10)]
    plan.append(paths, np.zeros(10, PICTURE))
    left_out = [0, 1, 4, 8]
    rows = PathsOfRows(plan, left_out)
    assert list(rows) == [path for place, path in enumerate(paths) if place not in left_out]


def test_a_disk_that_is_full_while_a_plan_is_written_is_named(
    acme: Collection,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acme.paint_many(3)

    def pwrite(descriptor: int, content: memoryview, place: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(NotEnoughSpace, match="No space left on device"):
        make_plan(acme.folder, None, keep=False, checksum=False)
