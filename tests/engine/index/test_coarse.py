import json
import shutil
import uuid
from pathlib import Path

import faiss
import numpy as np
import pytest

from search.engine import storage
from search.engine.build.republish import republish
from search.engine.index import calibration, coarse
from search.engine.index.index import ImageIndex, IndexInfo, LiveImage
from search.engine.index.records import ImageRecord, image_id
from search.engine.vectors import Vectors
from tests.support.indexes import by_link, clustered, write_sums_anew

PICTURES = 1_500
SMALL = ((coarse, "MIN_IMAGES", 1_000), (calibration, "_QUERIES", 50))  # have small indexes get codes


@pytest.fixture(autouse=True)
def _codes_for_small_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in SMALL:
        monkeypatch.setattr(module, name, value)


def publish(vectors: Vectors, directory: Path) -> None:
    with storage.IndexWriter(directory) as writer:
        records = [
            ImageRecord(f"{row // 100:03}/{row:05}.png", image_id("acme", str(row))) for row in range(len(vectors))
        ]
        writer.add(vectors, records)
        writer.publish(IndexInfo(total_images=0), by_link(directory))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the index acme of PICTURES pictures; tests leave it as it is."""
    directory = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        publish(clustered(PICTURES, seed=1), directory / "acme")
    return directory


@pytest.fixture
def acme(published: Path, tmp_path: Path) -> Path:
    """A copy of it, below tmp_path."""
    shutil.copytree(published, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path / "acme"


@pytest.fixture
def vectors(acme: Path) -> Vectors:
    """The vectors of acme, which is below tmp_path."""
    return clustered(PICTURES, seed=1)


def true_rows(vectors: Vectors, query: np.ndarray, top_k: int) -> list[int]:
    return [int(row) for row in np.argsort(-(vectors @ query), kind="stable")[:top_k]]


def row(path: str) -> int:
    return int(path[4:9])


def require_exact_scan(directory: Path, vectors: Vectors) -> None:
    index = storage.load(directory)
    assert index.coarse is None
    query = clustered(1, seed=3)[0]
    assert [row(match.image.path) for match in index.search(query, 10)] == true_rows(vectors, query, 10)


def test_the_first_pass_finds_what_the_exact_scan_finds(tmp_path: Path, vectors: Vectors) -> None:
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    found = 0
    for query in clustered(50, seed=2):
        matches = index.search(query, 10)
        found += len({row(match.image.path) for match in matches} & set(true_rows(vectors, query, 10)))
        for match in matches:
            assert match.score == pytest.approx(float(vectors[row(match.image.path)] @ query), abs=1e-5)
    assert found >= 0.999 * 500


def test_the_recall_is_measured_and_recorded_at_build_time(tmp_path: Path, acme: Path) -> None:
    recorded = json.loads((tmp_path / "acme/index_info.json").read_text())["coarse"]
    assert recorded["recall_at_10"] >= 0.999
    assert recorded["candidates_per_result"] in (5, 7, 10, 15, 20, 30, 50, 100)
    assert 1 <= recorded["lists_probed"] <= recorded["lists"]


def test_only_part_of_the_codes_is_scanned_where_that_finds_enough(tmp_path: Path, acme: Path) -> None:
    recorded = json.loads((tmp_path / "acme/index_info.json").read_text())["coarse"]
    assert recorded["lists_probed"] < recorded["lists"]


def test_results_beyond_the_lists_measured_come_from_all_lists(tmp_path: Path, vectors: Vectors) -> None:
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
    monkeypatch.setattr(calibration, "MIN_RECALL", 1.1)
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
def test_without_whole_codes_the_exact_scan_serves(tmp_path: Path, vectors: Vectors, damage: str) -> None:
    codes = tmp_path / "acme/coarse_index.bin"
    content = codes.read_bytes()
    codes.unlink()
    if damage == "foreign":
        publish(clustered(1_200, seed=5), tmp_path / "other")
        codes.write_bytes((tmp_path / "other/coarse_index.bin").read_bytes())
    elif damage != "missing":
        codes.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    require_exact_scan(tmp_path / "acme", vectors)


def test_codes_of_another_version_are_passed_over(tmp_path: Path, vectors: Vectors) -> None:
    card = tmp_path / "acme/index_info.json"
    entries = json.loads(card.read_text())
    entries["coarse"] = {"candidates_per_result": 10, "recall_at_10": 1.0}
    card.write_text(json.dumps(entries))
    write_sums_anew(tmp_path / "acme")
    require_exact_scan(tmp_path / "acme", vectors)


def test_deletions_leave_the_results_full(tmp_path: Path, vectors: Vectors) -> None:
    index = storage.load(tmp_path / "acme")
    query = clustered(1, seed=3)[0]
    best = true_rows(vectors, query, 400)
    deleted = [index.records[place] for place in best[:300]]
    changed = index.with_changes([LiveImage(record, None) for record in deleted])
    assert [row(match.image.path) for match in changed.search(query, 10)] == best[300:310]


def test_a_location_is_searched_exactly(tmp_path: Path, vectors: Vectors) -> None:
    query = clustered(1, seed=3)[0]
    matches = storage.load(tmp_path / "acme").search(query, 10, location="007")
    expected = [700 + place for place in true_rows(vectors[700:800], query, 10)]
    assert [row(match.image.path) for match in matches] == expected


def test_codes_of_an_earlier_release_are_searched(tmp_path: Path, vectors: Vectors) -> None:
    card = tmp_path / "acme/index_info.json"
    entries = json.loads(card.read_text())
    earlier = ("lists", "lists_probed", "candidates_per_result", "recall_at_10")
    entries["coarse"] = {name: entries["coarse"][name] for name in earlier}
    card.write_text(json.dumps(entries))
    write_sums_anew(tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    query = clustered(1, seed=3)[0]
    for top_k in (10, 50, 400):
        assert [row(match.image.path) for match in index.search(query, top_k)] == true_rows(vectors, query, top_k)


def test_fifty_results_are_found_by_a_plan_of_their_own(tmp_path: Path, vectors: Vectors) -> None:
    index = storage.load(tmp_path / "acme")
    recorded = index.info.coarse
    assert recorded is not None
    assert recorded.recall_at_50 is not None
    assert recorded.recall_at_50 >= 0.999
    assert recorded.lists_probed_for_50 is not None
    assert 1 <= recorded.lists_probed_for_50 <= recorded.lists
    query = clustered(1, seed=3)[0]
    for top_k in (11, 30, 50):
        found = {row(match.image.path) for match in index.search(query, top_k)}
        assert len(found & set(true_rows(vectors, query, top_k))) >= 0.98 * top_k


def test_the_recall_is_that_of_queries_that_are_not_in_the_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MIN_RECALL", 0)
    monkeypatch.setattr(calibration, "_CANDIDATES_A_RESULT", {10: (1,), 50: (1,)})  # which find only a part
    vectors = np.repeat(clustered(PICTURES // 5, seed=1), 5, axis=0)  # of its own copies a picture finds all
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    assert index.info.coarse is not None
    found = 0
    for query in clustered(50, seed=2):
        scores = np.sort(vectors @ query)[::-1]
        found += sum(match.score >= scores[9] - 1e-5 for match in index.search(query, 10))
    assert index.info.coarse.recall_at_10 == pytest.approx(found / 500, abs=0.1)
    assert index.info.coarse.recall_at_10 < 0.95


def test_very_many_copies_of_a_few_pictures_are_no_reason_for_the_exact_scan(tmp_path: Path) -> None:
    vectors = np.repeat(clustered(PICTURES // 300, seed=1), 300, axis=0)
    publish(vectors, tmp_path / "acme")
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    assert [match.score for match in index.search(vectors[70], 50)] == [pytest.approx(1, abs=1e-5)] * 50


def rebuilt(directory: Path, *, without: set[int], added: Vectors) -> ImageIndex:
    """Publish the index anew, as a fold does, without some rows and with more pictures."""
    index = storage.load(directory)
    changes = [LiveImage(index.records[row], None) for row in without]
    changes += [LiveImage(ImageRecord(f"{row:03}/new.png", str(uuid.uuid4())), each) for row, each in enumerate(added)]
    republish(index.with_changes(changes), directory, info=index.info, publish=by_link(directory))
    return storage.load(directory)


def require_found(index: ImageIndex) -> None:
    """Fresh queries find what a scan of all vectors finds, and every picture finds itself."""
    assert index.coarse is not None
    vectors = index.vectors[:]
    for top_k in (10, 50):
        found = 0
        for query in clustered(20, seed=4):
            paths = {match.image.path for match in index.search(query, top_k)}
            found += sum(index.records[place].path in paths for place in true_rows(vectors, query, top_k))
        assert found >= 0.995 * 20 * top_k
    for place in range(0, len(vectors), 50):
        assert index.search(vectors[place], 1)[0].image == index.records[place]


def test_a_rebuild_takes_the_codes_over(tmp_path: Path, acme: Path) -> None:
    index = rebuilt(tmp_path / "acme", without={3, 700, 1_499}, added=clustered(5, seed=6))
    assert index.info.coarse is not None
    assert index.info.coarse.changes == 8
    require_found(index)
    index = rebuilt(tmp_path / "acme", without={0, 1_000}, added=clustered(0, seed=6))
    assert index.info.coarse is not None
    assert index.info.coarse.changes == 10
    require_found(index)


def test_pictures_that_come_back_get_the_codes_that_they_had(tmp_path: Path, vectors: Vectors) -> None:
    before = storage.load(tmp_path / "acme")
    index = rebuilt(tmp_path / "acme", without=set(range(15)), added=vectors[:15])
    assert before.coarse is not None
    assert index.coarse is not None
    came_back = np.array([place for place in range(PICTURES) if index.records[place].path.endswith("new.png")])
    query = clustered(1, seed=3)[0]
    estimates = np.sort(before.coarse.propose_among(np.arange(15), query, 15)[1])
    np.testing.assert_allclose(np.sort(index.coarse.propose_among(came_back, query, 15)[1]), estimates, atol=1e-5)


def test_codes_are_made_anew_after_many_small_changes(tmp_path: Path, acme: Path) -> None:
    changes = []
    for first in (0, 100):
        index = rebuilt(tmp_path / "acme", without=set(range(first, first + 100)), added=clustered(0, seed=6))
        assert index.info.coarse is not None
        changes.append(index.info.coarse.changes)
    assert changes == [100, 0]
    require_found(index)


def test_codes_are_made_anew_where_the_company_needs_more_lists(
    tmp_path: Path, acme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "_lists", lambda images: 16)
    index = rebuilt(tmp_path / "acme", without={3}, added=clustered(1, seed=6))
    assert index.info.coarse is not None
    assert (index.info.coarse.lists, index.info.coarse.changes) == (16, 0)
    require_found(index)


def test_codes_that_no_longer_find_enough_are_made_anew(tmp_path: Path, acme: Path) -> None:
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    wrong = np.roll(np.arange(PICTURES), 1)  # each picture gets its neighbour's code
    kept = coarse.KeptRows(index.coarse, wrong)
    made = coarse.build_coarse(index.vectors, kept=kept)
    assert made is not None
    assert made.search.changes == 0
    assert all(place in made.propose(index.vectors[place], 1) for place in range(0, PICTURES, 50))


def test_searches_go_on_while_their_codes_are_taken_over(tmp_path: Path, acme: Path) -> None:
    index = storage.load(tmp_path / "acme")
    query = clustered(1, seed=3)[0]
    before = index.search(query, 50)
    republish(
        index.with_changes([LiveImage(index.records[row], None) for row in range(100)]),
        tmp_path / "acme",
        info=index.info,
        publish=by_link(tmp_path / "acme"),
    )
    assert index.search(query, 50) == before


@pytest.mark.parametrize("rows", ["one twice", "one beyond", "one negative"])
def test_codes_that_do_not_lead_to_each_picture_once_are_not_used(tmp_path: Path, vectors: Vectors, rows: str) -> None:
    file = tmp_path / "acme/coarse_index.bin"
    codes = faiss.read_index(str(file))
    lists = faiss.extract_index_ivf(codes)
    led_to = next(each for each in calibration.rows_by_list(lists) if len(each) > 1)
    led_to[0] = {"one twice": led_to[1], "one beyond": PICTURES, "one negative": -1}[rows]
    faiss.write_index(codes, str(file))
    write_sums_anew((tmp_path / "acme").resolve())
    require_exact_scan(tmp_path / "acme", vectors)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["rotation", "centres"])
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_codes_of_numbers_that_cannot_be_are_not_used(tmp_path: Path, part: str, number: float) -> None:
    vectors = clustered(PICTURES, seed=1)
    publish(vectors, tmp_path / "acme")
    file = tmp_path / "acme/coarse_index.bin"
    codes = faiss.read_index(str(file))
    if part == "rotation":
        numbers = faiss.downcast_VectorTransform(codes.chain.at(0)).A
        faiss.rev_swig_ptr(numbers.data(), numbers.size())[5] = number
    else:
        centres = faiss.downcast_index(faiss.extract_index_ivf(codes).quantizer)
        faiss.rev_swig_ptr(centres.get_xb(), centres.ntotal * centres.d)[:] = number
    faiss.write_index(codes, str(file))
    write_sums_anew((tmp_path / "acme").resolve())
    require_exact_scan(tmp_path / "acme", vectors)
    require_found(rebuilt(tmp_path / "acme", without={3}, added=clustered(1, seed=6)))
