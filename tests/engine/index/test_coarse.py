import json
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.index import coarse
from search.engine.index.index import IndexInfo, LiveImage
from search.engine.index.records import ImageRecord, image_id
from search.engine.vectors import Vectors
from tests.support.indexes import by_link, clustered, write_sums_anew

PICTURES = 1_500


@pytest.fixture(autouse=True)
def _codes_for_small_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "MIN_IMAGES", 1_000)
    monkeypatch.setattr(coarse, "_QUERIES", 50)


def publish(vectors: Vectors, directory: Path) -> None:
    with storage.IndexWriter(directory) as writer:
        records = [
            ImageRecord(f"{row // 100:03}/{row:05}.png", image_id("acme", str(row))) for row in range(len(vectors))
        ]
        writer.add(vectors, records)
        writer.publish(IndexInfo(total_images=0), by_link(directory))


def true_rows(vectors: Vectors, query: np.ndarray, top_k: int) -> list[int]:
    return [int(row) for row in np.argsort(-(vectors @ query), kind="stable")[:top_k]]


def row(path: str) -> int:
    return int(path[4:9])


def require_exact_scan(directory: Path, vectors: Vectors) -> None:
    index = storage.load(directory)
    assert index.coarse is None
    query = clustered(1, seed=3)[0]
    assert [row(match.image.path) for match in index.search(query, 10)] == true_rows(vectors, query, 10)


def test_the_first_pass_finds_what_the_exact_scan_finds(tmp_path: Path) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    found = 0
    for query in clustered(50, seed=2):
        matches = index.search(query, 10)
        found += len({row(match.image.path) for match in matches} & set(true_rows(vectors, query, 10)))
        for match in matches:
            assert match.score == pytest.approx(float(vectors[row(match.image.path)] @ query), abs=1e-5)
    assert found >= 0.999 * 500


def test_the_recall_is_measured_and_recorded_at_build_time(tmp_path: Path) -> None:
    publish(clustered(PICTURES, seed=1), tmp_path / "acme")
    recorded = json.loads((tmp_path / "acme/index_info.json").read_text())["coarse"]
    assert recorded["recall_at_10"] >= 0.999
    assert recorded["candidates_per_result"] in (5, 10, 20, 50, 100)
    assert 1 <= recorded["lists_probed"] <= recorded["lists"]


def test_only_part_of_the_codes_is_scanned_where_that_finds_enough(tmp_path: Path) -> None:
    publish(clustered(PICTURES, seed=1), tmp_path / "acme")
    recorded = json.loads((tmp_path / "acme/index_info.json").read_text())["coarse"]
    assert recorded["lists_probed"] < recorded["lists"]


def test_results_beyond_the_lists_measured_come_from_all_lists(tmp_path: Path) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    query = clustered(1, seed=3)[0]
    assert [row(match.image.path) for match in index.search(query, 400)] == true_rows(vectors, query, 400)


def test_copies_of_pictures_are_no_reason_for_the_exact_scan(tmp_path: Path) -> None:
    vectors = np.repeat(clustered(PICTURES // 50, seed=1), 50, axis=0)
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    assert [match.score for match in index.search(vectors[70], 10)] == [pytest.approx(1, abs=1e-5)] * 10


def test_where_the_codes_find_too_little_the_exact_scan_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "MIN_RECALL", 1.1)
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    assert index.coarse is None
    assert not (tmp_path / "acme/coarse_index.bin").exists()
    query = clustered(1, seed=3)[0]
    assert [row(match.image.path) for match in index.search(query, 10)] == true_rows(vectors, query, 10)


def test_a_small_company_has_no_codes(tmp_path: Path) -> None:
    publish(clustered(500, seed=1), tmp_path / "acme")
    assert storage.load(tmp_path / "acme").coarse is None


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "foreign"])
def test_without_whole_codes_the_exact_scan_serves(tmp_path: Path, damage: str) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    codes = tmp_path / "acme/coarse_index.bin"
    content = codes.read_bytes()
    codes.unlink()
    if damage == "foreign":
        publish(clustered(1_200, seed=5), tmp_path / "other")
        codes.write_bytes((tmp_path / "other/coarse_index.bin").read_bytes())
    elif damage != "missing":
        codes.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    require_exact_scan(tmp_path / "acme", vectors)


def test_codes_of_another_version_are_passed_over(tmp_path: Path) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    card = tmp_path / "acme/index_info.json"
    entries = json.loads(card.read_text())
    entries["coarse"] = {"candidates_per_result": 10, "recall_at_10": 1.0}
    card.write_text(json.dumps(entries))
    write_sums_anew(tmp_path / "acme")
    require_exact_scan(tmp_path / "acme", vectors)


def test_deletions_leave_the_results_full(tmp_path: Path) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    query = clustered(1, seed=3)[0]
    best = true_rows(vectors, query, 400)
    deleted = [index.records[place] for place in best[:300]]
    changed = index.with_changes([LiveImage(record, None) for record in deleted])
    assert [row(match.image.path) for match in changed.search(query, 10)] == best[300:310]


def test_a_location_is_searched_exactly(tmp_path: Path) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    query = clustered(1, seed=3)[0]
    matches = storage.load(tmp_path / "acme").search(query, 10, location="007")
    expected = [700 + place for place in true_rows(vectors[700:800], query, 10)]
    assert [row(match.image.path) for match in matches] == expected
