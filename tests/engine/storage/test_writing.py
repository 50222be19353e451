import json
import uuid
from pathlib import Path

import faiss
import numpy as np
import pytest

from search.engine import storage
from search.engine.index.records import ImageRecord
from search.engine.model.passport import ModelPassport
from tests.support.indexes import (
    INFO,
    ODD_NAMES,
    OUR_FILES,
    by_link,
    publish,
    some_hashes,
    some_records,
    some_signatures,
    some_vectors,
)


def test_what_is_published_is_what_loads(tmp_path: Path) -> None:
    vectors, records = some_vectors(50), some_records(50)
    publish(tmp_path / "acme", records, vectors)
    index = storage.load(tmp_path / "acme")
    assert list(index.records) == records
    np.testing.assert_array_equal(index.vectors[:], vectors)
    assert (index.info.total_images, index.info.embedding_dimension, index.info.model) == (50, 960, "MobileNetV3-Large")
    assert index.info.passport == ModelPassport("test-weights", "a" * 64)
    np.testing.assert_array_equal(index.signatures, some_signatures(50))
    np.testing.assert_array_equal(index.hashes, some_hashes(50))


def test_rows_added_in_any_pieces_make_the_same_files(tmp_path: Path) -> None:
    vectors, records = some_vectors(7), some_records(7)
    publish(tmp_path / "whole", records, vectors)
    with storage.IndexWriter(tmp_path / "pieces") as writer:
        for start, stop in ((0, 1), (1, 1), (1, 5), (5, 7)):
            signatures, hashes = some_signatures(7)[start:stop], some_hashes(7)[start:stop]
            writer.add(vectors[start:stop], records[start:stop], signatures, hashes=hashes)
        writer.publish(INFO, by_link(tmp_path / "pieces"))
    for name in set(OUR_FILES) - {"index_info.json"}:
        assert (tmp_path / "pieces" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_faiss_opens_the_index_and_finds_the_same_vectors(tmp_path: Path) -> None:
    vectors = some_vectors(20)
    publish(tmp_path / "acme", some_records(20), vectors)
    flat = faiss.read_index(str(tmp_path / "acme" / "faiss_index.bin"))
    assert isinstance(flat, faiss.IndexFlatIP)
    assert flat.metric_type == faiss.METRIC_INNER_PRODUCT
    np.testing.assert_array_equal(flat.reconstruct_n(0, flat.ntotal), vectors)
    assert flat.search(vectors[3:4], 1)[1].tolist() == [[3]]
    flat.add(vectors)  # trained and whole, not only readable
    assert flat.ntotal == 40


def test_faiss_writes_the_very_bytes_that_we_write(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(20), some_vectors(20))
    flat = faiss.read_index(str(tmp_path / "acme" / "faiss_index.bin"))
    faiss.write_index(flat, str(tmp_path / "again.bin"))
    assert (tmp_path / "again.bin").read_bytes() == (tmp_path / "acme" / "faiss_index.bin").read_bytes()


def test_numpy_opens_the_embeddings(tmp_path: Path) -> None:
    vectors = some_vectors(20)
    publish(tmp_path / "acme", some_records(20), vectors)
    stored = np.load(tmp_path / "acme" / "embeddings.npy", allow_pickle=False)
    assert (stored.dtype, stored.shape) == (np.dtype("float32"), (20, 960))
    np.testing.assert_array_equal(stored, vectors)


def test_metadata_is_a_plain_json_list_in_index_order(tmp_path: Path) -> None:
    records = [ImageRecord("Abstract/Adelaide.png", str(uuid.uuid4())), ImageRecord("top.jpg", str(uuid.uuid4()))]
    publish(tmp_path / "acme", records, some_vectors(2))
    assert json.loads((tmp_path / "acme" / "metadata.json").read_text()) == [
        {
            "fullPath": "Abstract/Adelaide.png",
            "id": records[0].id,
            "location": "Abstract",
            "name": "Adelaide",
            "type": "file",
        },
        {"fullPath": "top.jpg", "id": records[1].id, "location": "", "name": "top", "type": "file"},
    ]


def test_odd_names_come_back_as_they_were(tmp_path: Path) -> None:
    records = [ImageRecord(path, str(uuid.uuid4())) for path, _, _ in sorted(ODD_NAMES)]
    publish(tmp_path / "acme", records, some_vectors(len(records)))
    entries = json.loads((tmp_path / "acme" / "metadata.json").read_text())
    assert [(entry["fullPath"], entry["location"], entry["name"]) for entry in entries] == sorted(ODD_NAMES)
    assert list(storage.load(tmp_path / "acme").records) == records


def test_index_info_keeps_the_contract(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(3), some_vectors(3))
    entries = json.loads((tmp_path / "acme" / "index_info.json").read_text())
    assert (entries["total_images"], entries["embedding_dimension"], entries["model"]) == (3, 960, "MobileNetV3-Large")
    assert (entries["weights"], entries["fingerprint"]) == ("test-weights", "a" * 64)
    assert len(entries["timestamp"]) == len("2025-10-27T12:00:00.000Z")
    assert entries["timestamp"].endswith("Z")


def test_empty_index_loads_and_finds_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "acme", [], some_vectors(0))
    index = storage.load(tmp_path / "acme")
    assert len(index) == 0
    assert index.search(some_vectors(1)[0], 10) == []
    assert json.loads((tmp_path / "acme" / "metadata.json").read_text()) == []
    assert faiss.read_index(str(tmp_path / "acme" / "faiss_index.bin")).ntotal == 0
    assert np.load(tmp_path / "acme" / "embeddings.npy").shape == (0, 960)


def test_rows_of_another_length_are_refused(tmp_path: Path) -> None:
    with storage.IndexWriter(tmp_path / "acme") as writer:
        with pytest.raises(ValueError, match="shape"):
            writer.add(np.zeros((2, 959), np.float32), some_records(2))
        with pytest.raises(ValueError, match="shape"):
            writer.add(some_vectors(3), some_records(2))
