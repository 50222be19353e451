"""What every engine keeps to: an index in files and its collection in Milvus answer alike."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.index.collection import open_collection
from search.engine.index.collection_making import make_collection
from search.engine.index.index import ImageIndex, LiveImage
from search.engine.index.match import Match
from search.engine.index.quick_test import QuickTest
from search.engine.index.records import ImageRecord
from search.engine.milvus import Milvus
from search.engine.vectors import Vectors
from tests.support.indexes import clustered, publish, some_records
from tests.support.milvus_server import MilvusServer

FOLDERS = [
    "",
    "100%",
    "100%/off",
    "a_b",
    "axb",
    "q\"uo'te",
    "back\\slash",
    "caf\u00e9",
    "cafe\u0301/deep",
    "{x}",
    "] or id >= 0 or id in [",
    "not-utf8-\udce9",
]
PICTURES = 240
COPIES = range(40, 75)  # of one picture


@dataclass(frozen=True, slots=True)
class Engines:
    local: ImageIndex
    milvus: ImageIndex

    def with_changes(self, changes: list[LiveImage]) -> "Engines":
        return Engines(self.local.with_changes(changes), self.milvus.with_changes(changes))


def pictures() -> tuple[list[ImageRecord], Vectors]:
    records = [
        ImageRecord(f"{FOLDERS[place % len(FOLDERS)]}/{place:03}.png".lstrip("/"), record.id)
        for place, record in enumerate(some_records(PICTURES))
    ]
    vectors = clustered(PICTURES, seed=1)
    vectors[COPIES.start : COPIES.stop] = vectors[COPIES.start]
    records.sort(key=lambda record: record.path)
    return records, vectors


def make_engines(directory: Path, server: Milvus) -> Engines:
    publish(directory, *pictures())
    local = storage.load(directory)
    name = f"c_{secrets.token_hex(8)}"
    make_collection(server, name, local)
    return Engines(local, open_collection(server, name, local.info))


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, milvus_server: MilvusServer) -> Engines:
    return make_engines(tmp_path_factory.mktemp("contract") / "index", milvus_server.connect())


def live_changes(local: ImageIndex) -> list[LiveImage]:
    """Return pictures that were added, replaced and deleted since, some of them the best results of a search."""
    new = clustered(6, seed=2)
    deleted = [LiveImage(local.records[row], None) for row in (3, 50, 51, 52, 120, 239)]
    replaced = [LiveImage(local.records[row], new[place], place + 1) for place, row in enumerate((7, 60, 100))]
    added = [
        LiveImage(ImageRecord(f"{folder}/zz-new.png".lstrip("/"), f"new-{place}"), new[place + 3], place + 9)
        for place, folder in enumerate(("a_b", "caf\u00e9", ""))
    ]
    return [*deleted, *replaced, *added]


@pytest.fixture(scope="module", params=["as built", "with live changes"])
def both(request: pytest.FixtureRequest, engines: Engines) -> Engines:
    return engines.with_changes(live_changes(engines.local)) if "live" in request.param else engines


def require_same(found: list[Match], expected: list[Match]) -> None:
    assert [match.image for match in found] == [match.image for match in expected]
    assert np.allclose([match.score for match in found], [match.score for match in expected], rtol=0, atol=1e-6)


QUERIES = clustered(3, seed=7)


def test_both_find_the_same_first_ten_with_the_same_scores(both: Engines) -> None:
    own = both.local.vectors[np.array([3, COPIES.start, 100])]  # copies tie in the order of the index
    for query in (*QUERIES, *own):
        require_same(both.milvus.search(query, 10), both.local.search(query, 10))
    require_same(both.milvus.search(own[1], 300), both.local.search(own[1], 300))


@pytest.mark.parametrize("folder", [*FOLDERS[1:], "cafe\u0301", "nowhere", "100", "a%b", '" or true'])
def test_both_search_and_list_the_same_pictures_of_a_folder(both: Engines, folder: str) -> None:
    require_same(
        both.milvus.search(QUERIES[0], 10, location=folder), both.local.search(QUERIES[0], 10, location=folder)
    )
    for start, stop in ((0, 5), (15, 60)):
        assert both.milvus.page(start, stop, location=folder) == both.local.page(start, stop, location=folder)


def test_both_keep_to_the_other_filters(both: Engines) -> None:
    query = both.local.vectors.at(COPIES.start)
    first = both.local.search(query, 5)
    limit = both.local.search(query, 60)[55].score
    require_same(both.milvus.search(query, 100, min_score=limit), both.local.search(query, 100, min_score=limit))
    without = [match.image.id for match in first[:3]]
    require_same(both.milvus.search(query, 10, without_ids=without), both.local.search(query, 10, without_ids=without))


def test_both_find_pictures_by_path_and_id(both: Engines) -> None:
    local, milvus = both.local, both.milvus
    added = [record.path for record in local.added]
    asked = [local.records[row].path for row in range(0, PICTURES, 7)] + added + ["nowhere.png", "a%/001.png", ""]
    assert list(map(milvus.find_path, asked)) == list(map(local.find_path, asked))
    ids = [local.records[row].id for row in (0, 3, 7, 50, 239)] + ["new-1", "none", '" or id >= 0']
    assert list(map(milvus.find_id, ids)) == list(map(local.find_id, ids))
    for image_id in ids:
        ours, theirs = local.find_vector(image_id), milvus.find_vector(image_id)
        assert np.array_equal(ours, theirs) if ours is not None and theirs is not None else ours is theirs
        record = local.find_id(image_id)
        assert record is None or local.file_sha256(record) == milvus.file_sha256(record)


def test_both_list_the_same_pages_names_and_folders(both: Engines) -> None:
    local, milvus = both.local, both.milvus
    assert len(milvus) == len(local)
    for start, stop in ((0, 20), (100, 130), (230, 400), (500, 510)):
        assert milvus.page(start, stop) == local.page(start, stop)
    assert milvus.spread(25) == local.spread(25)
    assert list(milvus.named("03")) == list(local.named("03"))
    assert list(milvus.named("0", location="caf\u00e9")) == list(local.named("0", location="caf\u00e9"))
    assert milvus.records.count_by_location() == local.records.count_by_location()


def test_both_tell_the_same_copies(both: Engines) -> None:
    tests = QuickTest(both.local), QuickTest(both.milvus)
    ids = [both.local.records[row].id for row in (39, 40, 41, 74, 75)]
    assert [tests[1].show_the_same(ids[0], other) for other in ids] == [
        tests[0].show_the_same(ids[0], other) for other in ids
    ]
    assert tests[1].show_the_same(ids[1], ids[2])
