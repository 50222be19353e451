import json
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.index.duplicates import PAIR, SEEN, DuplicatePairs, Level
from search.engine.storage.duplicates import duplicates_stamp, read_duplicates, write_duplicates
from search.engine.storage.layout import duplicates_file
from tests.support.damage import at_random
from tests.support.indexes import generations, hidden_home, publish, some_records, some_vectors


def some_pairs(count: int) -> DuplicatePairs:
    seen, pairs = np.zeros(2 * count, SEEN), np.zeros(count, PAIR)
    seen["key"], seen["sketch"], seen["searched"] = np.arange(2 * count), 0.5, True
    pairs["first"], pairs["second"] = np.arange(count), np.arange(count) + count
    pairs["score"], pairs["level"] = 0.99, Level.SAME
    return DuplicatePairs("f" * 64, seen, pairs, pairs[:1], looks=3, looks_left_out=4, unreadable=5)


def assert_equal(one: DuplicatePairs | None, other: DuplicatePairs) -> None:
    assert one is not None
    for name in ("seen", "pairs", "waiting"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("fingerprint", "looks", "looks_left_out", "unreadable"):
        assert getattr(one, name) == getattr(other, name)


def test_what_was_found_is_read_again_and_replaced(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    assert (read_duplicates(directory), duplicates_stamp(directory)) == (None, "")
    write_duplicates(directory, some_pairs(9))
    stamp = duplicates_stamp(directory)
    assert_equal(read_duplicates(directory), some_pairs(9))
    write_duplicates(directory, some_pairs(7))
    assert duplicates_stamp(directory) != stamp
    assert_equal(read_duplicates(directory), some_pairs(7))


def test_it_outlives_generations_and_goes_with_the_index(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    publish(directory, some_records(3), some_vectors(3))
    write_duplicates(directory, some_pairs(2))
    publish(directory, some_records(4), some_vectors(4), keep=0)
    assert len(generations(directory)) == 1
    assert_equal(read_duplicates(directory), some_pairs(2))
    storage.erase(directory)
    assert read_duplicates(directory) is None


def test_a_file_that_is_gone_has_no_stamp(tmp_path: Path) -> None:
    write_duplicates(tmp_path / "acme", some_pairs(2))
    duplicates_file(tmp_path / "acme").unlink()
    assert duplicates_stamp(tmp_path / "acme") == ""


def test_of_a_damaged_file_nobody_has_looked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "acme"
    write_duplicates(directory, some_pairs(5))
    file = hidden_home(directory) / ".duplicates"
    sound = file.read_bytes()
    for content in [*at_random(sound, seed=1, count=60), b"", b"[]\n", b"{}\n", sound[:-1], sound + b"x"]:
        if content != sound:
            file.write_bytes(content)
            found = read_duplicates(directory)
            assert found is None or found.pairs.tobytes() == some_pairs(5).pairs.tobytes()
    assert "looked for anew" in caplog.text


@pytest.mark.parametrize(
    "crafted",
    [
        {"sizes": {"seen": 10**12, "pairs": 5, "waiting": 1}},
        {"sizes": {"seen": 10, "pairs": 4, "waiting": 1}},
        {"looks": -1},
        {"looks": "many"},
        {"fingerprint": ["f"]},
        {"format": 2},
    ],
)
def test_a_crafted_header_is_refused(tmp_path: Path, crafted: dict[str, object]) -> None:
    directory = tmp_path / "acme"
    write_duplicates(directory, some_pairs(5))
    file = hidden_home(directory) / ".duplicates"
    header, _, body = file.read_bytes().partition(b"\n")
    file.write_bytes(json.dumps(json.loads(header) | crafted).encode() + b"\n" + body)
    assert read_duplicates(directory) is None


@pytest.mark.parametrize(("name", "value"), [("level", 9), ("score", np.nan), ("score", 7)])
def test_crafted_pairs_are_refused(tmp_path: Path, name: str, value: float) -> None:
    pairs = some_pairs(5)
    pairs.pairs[name][3] = value
    write_duplicates(tmp_path / "acme", pairs)
    assert read_duplicates(tmp_path / "acme") is None
