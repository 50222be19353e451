import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import DimensionMismatch
from search.engine.index.index import ImageIndex, IndexInfo, LiveImage
from search.engine.index.records import ImageRecord, ListRecords
from search.engine.index.vector_file import VectorFile, VectorsInMemory
from search.engine.vectors import DIMENSION, Vector, Vectors, unit_length
from tests.support.indexes import by_link

MakeIndex = Callable[[Vectors], ImageIndex]


def in_memory(vectors: Vectors, directory: Path) -> ImageIndex:
    records = [ImageRecord(f"{row:05}.png", str(uuid.UUID(int=row))) for row in range(len(vectors))]
    return ImageIndex(IndexInfo(len(vectors)), ListRecords(records), VectorsInMemory(vectors))


def on_disk(vectors: Vectors, directory: Path) -> ImageIndex:
    with storage.IndexWriter(directory / "index") as writer:
        writer.add(vectors, list(in_memory(vectors, directory).records))
        writer.publish(IndexInfo(0), by_link(directory / "index"))
    return storage.load(directory / "index")


def in_a_file(vectors: Vectors, directory: Path) -> ImageIndex:
    """Return the index as it is loaded where it is large."""
    index = on_disk(vectors, directory)
    file = VectorFile(directory / "index" / "faiss_index.bin", start=45, count=len(vectors))
    return replace(index, vectors=file)


@pytest.fixture(params=[in_memory, on_disk, in_a_file])
def make_index(request: pytest.FixtureRequest, tmp_path: Path) -> MakeIndex:
    return lambda vectors: request.param(vectors, tmp_path)


def random_vectors(count: int, seed: int = 0) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32))


def with_components(rows: list[list[float]]) -> Vectors:
    """Return vectors of which only the first numbers are not zero, all of them exact in float32."""
    vectors = np.zeros((len(rows), DIMENSION), np.float32)
    for vector, numbers in zip(vectors, rows, strict=True):
        vector[: len(numbers)] = numbers
    return vectors


@pytest.mark.parametrize("power", [1, 2, 3, 6])
def test_the_same_vector_scores_exactly_one(make_index: MakeIndex, power: int) -> None:
    """Whatever float32 rounds: of vectors as the model makes them, and of some with few large numbers."""
    vectors = unit_length(np.abs(random_vectors(120)) ** power)
    index = make_index(vectors)
    live = index.with_changes([LiveImage(record, vectors[row]) for row, record in enumerate(index.records)][:60])
    for searched in (index, live):
        for row, vector in enumerate(vectors):
            found = searched.search(vector, 120, min_score=1)
            assert [(match.image, match.score) for match in found] == [(index.records[row], 1.0)]


def test_a_score_as_it_is_shown_is_a_min_score_that_includes_it(make_index: MakeIndex) -> None:
    vectors = unit_length(np.abs(random_vectors(200)))
    index = make_index(vectors)
    for match in index.search(vectors[0], 50):
        assert match.score == round(match.score, 6)
        assert match in index.search(vectors[0], 50, min_score=match.score)


def one_hot(place: int = 0) -> Vector:
    vector = np.zeros(DIMENSION, np.float32)
    vector[place] = 1
    return vector


def rows_found(index: ImageIndex, vector: Vector, top_k: int) -> list[int]:
    return [int(match.image.path[:5]) for match in index.search(vector, top_k)]


@pytest.mark.parametrize("top_k", [1, 2, 10, 50, 299, 300, 301, 10_000])
def test_search_equals_sorting_all_scores(make_index: MakeIndex, top_k: int) -> None:
    vectors, query = random_vectors(300), random_vectors(1, seed=9)[0]
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    expected = np.argsort(-scores, kind="stable")[:top_k]
    matches = make_index(vectors).search(query, top_k)
    assert [int(match.image.path[:5]) for match in matches] == expected.tolist()
    np.testing.assert_allclose([match.score for match in matches], scores[expected], atol=1e-6)


def test_search_equals_that_of_faiss(make_index: MakeIndex) -> None:
    vectors, queries = random_vectors(500), random_vectors(20, seed=9)
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(vectors)
    expected = flat.search(queries, 10)[1]
    index = make_index(vectors)
    assert [rows_found(index, query, 10) for query in queries] == expected.tolist()


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 5, 6, 7, 100])
def test_equal_scores_come_in_index_order(make_index: MakeIndex, top_k: int) -> None:
    index = make_index(with_components([[0.5], [1], [0.5], [1], [-1], [0.5], [1]]))
    assert rows_found(index, one_hot(), top_k) == [1, 3, 6, 0, 2, 5, 4][:top_k]


@pytest.mark.parametrize("count", [3, 5, 7, 33, 1001])
def test_copies_of_a_picture_score_the_same_wherever_they_stand(make_index: MakeIndex, count: int) -> None:
    """A matrix product rounds its last rows in another way than those before."""
    picture, query = random_vectors(2)
    index = make_index(np.tile(picture, (count, 1)))
    matches = index.search(query, count)
    assert len({match.score for match in matches}) == 1
    assert [int(match.image.path[:5]) for match in matches] == list(range(count))


def test_copies_are_cut_off_in_index_order(make_index: MakeIndex) -> None:
    picture, query = random_vectors(2)
    assert rows_found(make_index(np.tile(picture, (33, 1))), query, 10) == list(range(10))


def test_score_is_the_cosine(make_index: MakeIndex) -> None:
    index = make_index(with_components([[1], [0, 1], [-1], [0.6, 0.8]]))
    assert [match.score for match in index.search(one_hot(), 4)] == pytest.approx([1, 0.6, 0, -1])


@pytest.mark.parametrize("top_k", [1, 10, 50])
def test_no_more_matches_than_pictures(make_index: MakeIndex, top_k: int) -> None:
    assert rows_found(make_index(random_vectors(1)), one_hot(), top_k) == [0]
    assert len(make_index(random_vectors(0)).search(one_hot(), top_k)) == 0


@pytest.mark.parametrize("shape", [(959,), (961,), (0,), (1, 960), (960, 1), ()])
def test_vector_of_another_shape_is_refused(make_index: MakeIndex, shape: tuple[int, ...]) -> None:
    with pytest.raises(DimensionMismatch, match="960"):
        make_index(random_vectors(3)).search(np.zeros(shape, np.float32), 1)


def test_search_of_all_pictures_copies_no_vectors(make_index: MakeIndex) -> None:
    assert make_index(random_vectors(3)).records.rows_below("") == slice(0, 3)


def test_many_threads_find_the_same(make_index: MakeIndex) -> None:
    vectors = random_vectors(400)
    index = make_index(vectors)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda row: rows_found(index, vectors[row], 1), range(400)))
    assert found == [[row] for row in range(400)]


@pytest.mark.parametrize(
    ("path", "location", "name"),
    [
        ("Abstract/Adelaide.png", "Abstract", "Adelaide"),
        ("top.jpg", "", "top"),
        ("a/b/c.tar.gz", "a/b", "c.tar"),
        ("a.b/c", "a.b", "c"),
        ("x/.hidden", "x", ".hidden"),
        ("x/trailing.", "x", "trailing"),
    ],
)
def test_a_record_tells_its_folder_and_its_name(path: str, location: str, name: str) -> None:
    record: Any = ImageRecord(path, "id")
    assert (record.location, record.name) == (location, name)


def test_an_image_is_found_by_its_id_until_it_is_deleted(make_index: MakeIndex) -> None:
    vectors = random_vectors(3)
    built = make_index(vectors)
    gone, replaced, kept = built.records
    new = ImageRecord("new.png", str(uuid.UUID(int=99)))
    index = built.with_changes([LiveImage(gone, None), LiveImage(replaced, vectors[2]), LiveImage(new, vectors[0])])
    assert [index.find_id(record.id) for record in (gone, replaced, kept, new)] == [None, replaced, kept, new]
    assert index.find_id("no id") is None


def test_spread_pictures_come_from_all_over_the_index(make_index: MakeIndex) -> None:
    index = make_index(random_vectors(100))
    assert [record.path for record in index.spread(4)] == ["00000.png", "00025.png", "00050.png", "00075.png"]
    assert index.spread(500) == list(index.records)
    gone = [LiveImage(record, None) for record in index.records[:50]]
    new = LiveImage(ImageRecord("new.png", str(uuid.UUID(int=1000))), index.vectors.at(0))
    changed = index.with_changes([*gone, new])
    assert [record.path for record in changed.spread(51)] == [f"{row:05}.png" for row in range(50, 100)] + ["new.png"]
