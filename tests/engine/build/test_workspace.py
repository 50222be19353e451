import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.engine.build.workspace import Workspace
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vectors

MODEL = {"fingerprint": "f" * 64, "libraries": {"fake": "1"}}


def some_work(count: int, *, start: int = 0) -> tuple[list[str], Any, list[int], Vectors]:
    numbers = np.arange(start, start + count)
    signatures = np.zeros(count, SIGNATURE)
    signatures["size"], signatures["mtime_ns"], signatures["sha256"] = numbers + 100, numbers + 1000, numbers[:, None]
    vectors = np.repeat(numbers[:, None], DIMENSION, axis=1).astype(np.float32)
    return (
        [f"{number}.png" for number in numbers],
        signatures,
        [2**63 + number for number in range(start, start + count)],
        vectors,
    )


def content(number: int) -> bytes:
    return bytes([number] * 32)


def find(workspace: Workspace, path: str, size: int, mtime_ns: int) -> int | None:
    looks = np.zeros(1, SIGNATURE)
    looks["size"], looks["mtime_ns"] = size, mtime_ns
    (number,) = workspace.find([path], looks).tolist()
    return None if number < 0 else number


def keep(directory: Path, count: int, *, start: int = 0, made_by: dict[str, Any] = MODEL) -> None:
    with Workspace(directory, made_by=made_by) as workspace:
        workspace.add(*some_work(count, start=start))


def test_work_is_found_again_by_path_and_by_content(tmp_path: Path) -> None:
    keep(tmp_path, 3)
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        number = find(workspace, "1.png", 101, 1001)
        assert number is not None
        assert number == workspace.find_content(content(1))
        assert workspace.signatures(np.array([number]))["sha256"].tobytes() == content(1)
        assert workspace.hashes(np.array([number])).tolist() == [2**63 + 1]
        assert (workspace.vectors(np.array([number])) == 1).all()


@pytest.mark.parametrize(
    ("path", "size", "mtime_ns"), [("1.png", 101, 1002), ("1.png", 100, 1001), ("other.png", 101, 1001)]
)
def test_a_file_that_looks_different_is_not_found(tmp_path: Path, path: str, size: int, mtime_ns: int) -> None:
    keep(tmp_path, 3)
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        assert find(workspace, path, size, mtime_ns) is None


def test_many_are_found_at_once_whatever_state_of_their_files_was_embedded(tmp_path: Path) -> None:
    keep(tmp_path, 40)
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        paths, later, hashes, vectors = some_work(20)
        later["mtime_ns"] += 7
        workspace.add(paths, later, hashes, vectors)
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        paths, looks, _, _ = some_work(60)
        looks["mtime_ns"][10:30] += 7
        found = workspace.find(paths, looks)
        there = [number for number in range(60) if number < 20 or 30 <= number < 40]
        assert np.flatnonzero(found >= 0).tolist() == there
        assert workspace.vectors(found[there])[:, 0].tolist() == there
        assert (workspace.signatures(found[there])["mtime_ns"] == looks["mtime_ns"][there]).all()


def test_vectors_come_from_earlier_builds_and_this_one_in_any_order(tmp_path: Path) -> None:
    for start in (0, 10, 20):
        keep(tmp_path, 3, start=start)
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        added = [*workspace.add(*some_work(2, start=30)), *workspace.add(*some_work(1, start=40))]
        found = [workspace.find_content(content(number)) for number in (22, 0, 11)]
        vectors = workspace.vectors(np.array([added[2], *found, added[0]]))
        assert list(vectors[:, 0]) == [40, 22, 0, 11, 30]


def test_two_builds_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with Workspace(tmp_path, made_by=MODEL) as sleeper:
        sleeper.add(*some_work(2))
        with Workspace(tmp_path, made_by=MODEL) as other:
            assert other.find_content(content(1)) is not None
            mine = sleeper.add(*some_work(2, start=5))
            theirs = other.add(*some_work(2, start=50))
            assert list(sleeper.vectors(np.array(mine))[:, 0]) == [5, 6]
            assert list(other.vectors(np.array(theirs))[:, 0]) == [50, 51]


def test_a_build_goes_on_after_another_has_cleared_everything(tmp_path: Path) -> None:
    keep(tmp_path / "work", 2)
    with Workspace(tmp_path / "work", made_by=MODEL) as sleeper:
        with Workspace(tmp_path / "work", made_by=MODEL) as other:
            other.clear()
        found = sleeper.find_content(content(1))
        assert found is not None
        added = sleeper.add(*some_work(1, start=7))
        assert list(sleeper.vectors(np.array([found, *added]))[:, 0]) == [1, 7]


def test_work_of_another_model_is_removed(tmp_path: Path) -> None:
    keep(tmp_path / "work", 2, made_by={"fingerprint": "other"})
    with Workspace(tmp_path / "work", made_by=MODEL) as workspace:
        assert workspace.find_content(content(1)) is None
        assert len(list((tmp_path / "work").iterdir())) == 2  # this build's own


def test_lines_are_ascii_whatever_the_path(tmp_path: Path) -> None:
    _, signatures, hashes, vectors = some_work(2)
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        workspace.add(["new\nline\u2028.png", "🦊\udcff.png"], signatures, hashes, vectors)
    (lines,) = tmp_path.glob("*.jsonl")
    assert [json.loads(line)[0] for line in lines.read_text("ascii").splitlines()[1:]] == [
        "new\nline\u2028.png",
        "🦊\udcff.png",
    ]


@pytest.mark.parametrize("damage", ["no header", "no vectors", "empty"])
def test_a_segment_that_a_kill_left_half_made_is_passed_over(tmp_path: Path, damage: str) -> None:
    keep(tmp_path, 2)
    (lines,), (floats,) = tmp_path.glob("*.jsonl"), tmp_path.glob("*.f32")
    if damage == "no header":
        lines.write_text(lines.read_text()[:10])
    elif damage == "no vectors":
        floats.unlink()
    else:
        lines.write_text("")
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        assert workspace.find_content(content(1)) is None
        assert list(workspace.vectors(np.array(workspace.add(*some_work(1, start=9))))[:, 0]) == [9]


@pytest.mark.parametrize("cut", range(0, 400, 23))
def test_lines_cut_anywhere_give_whole_pictures_or_none(tmp_path: Path, cut: int) -> None:
    keep(tmp_path, 3)
    (lines,) = tmp_path.glob("*.jsonl")
    lines.write_bytes(lines.read_bytes()[: -cut or None])
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        for number in range(3):
            found = workspace.find_content(content(number))
            assert found is None or (workspace.vectors(np.array([found])) == number).all()


@pytest.mark.parametrize("fails", [1, 2])
def test_a_write_that_fails_half_way_shifts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    with Workspace(tmp_path, made_by=MODEL) as workspace:
        workspace.add(*some_work(2))
        calls = iter(range(1, 9))

        def fsync(descriptor: int) -> None:
            if next(calls) == fails:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space"):
            workspace.add(*some_work(3, start=10))
        added = workspace.add(*some_work(4, start=20))
        assert list(workspace.vectors(np.array(added))[:, 0]) == [20, 21, 22, 23]
    with Workspace(tmp_path, made_by=MODEL) as again:
        for number in (0, 1, 20, 23):
            found = again.find_content(content(number))
            assert found is not None
            assert (again.vectors(np.array([found])) == number).all()
        assert again.find_content(content(10)) is None
