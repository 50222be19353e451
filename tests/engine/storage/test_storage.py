import builtins
import io
import json
import multiprocessing
import random
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from filelock import FileLock, Timeout

from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt, PublishRefused
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.records import ImageRecord, metadata_entry
from search.engine.model.passport import ModelPassport
from search.engine.storage import reading, writing
from search.engine.storage.generations import drop_old_generations
from search.engine.vectors import DIMENSION, Vectors, unit_length
from tests.support.disks import fill_up

OUR_FILES = [
    "faiss_index.bin",
    "embeddings.npy",
    "metadata.json",
    "metadata_offsets.npy",
    "id_keys.npy",
    "signatures.npy",
    "index_info.json",
]
FLASK_FILES = ["faiss_index.bin", "embeddings.npy", "metadata.json", "index_info.json"]
INFO = IndexInfo(0, weights="test-weights", fingerprint="a" * 64)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"

# Processes that can be killed, forked from one that has imported everything already.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def some_vectors(count: int, seed: int = 0) -> Vectors:
    return unit_length(np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32))


def some_records(count: int, start: str = "Abstract/") -> list[ImageRecord]:
    return [
        ImageRecord(f"{start}{row:03}.png", str(uuid.uuid5(uuid.NAMESPACE_URL, f"{start}{row}")))
        for row in range(count)
    ]


def some_signatures(count: int) -> Any:
    signatures = np.zeros(count, storage.SIGNATURE)
    signatures["size"], signatures["mtime_ns"] = np.arange(count) + 1000, 1_700_000_000_000_000_000
    return signatures


def publish(
    directory: Path,
    records: Sequence[ImageRecord],
    vectors: Vectors,
    *,
    keep: int = 2,
    confirm: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> None:
    with storage.IndexWriter(directory) as writer:
        writer.add(vectors, records, some_signatures(len(records)))
        writer.publish(INFO, keep=keep, confirm=confirm)


def flask_directory(
    directory: Path, vectors: Vectors, paths: Sequence[str], *, without: Sequence[str] = (), embeddings: Any = None
) -> list[str]:
    """Make an index as the Flask service did, without our writer; return the random ids.

    embeddings: what embeddings.npy holds, where that is not what FAISS holds.
    """
    directory.mkdir(parents=True)
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(vectors)
    faiss.write_index(flat, str(directory / "faiss_index.bin"))
    np.save(directory / "embeddings.npy", vectors if embeddings is None else embeddings)
    ids = [str(uuid.uuid4()) for _ in paths]
    metadata = [
        {
            "fullPath": path,
            "id": id_,
            "location": str(Path(path).parent).strip("."),
            "name": Path(path).stem,
            "type": "file",
        }
        for path, id_ in zip(paths, ids, strict=True)
    ]
    (directory / "metadata.json").write_text(json.dumps(metadata, indent=2))
    index_info = {
        "total_images": len(paths),
        "embedding_dimension": vectors.shape[1],
        "model": "MobileNetV3-Large",
        "timestamp": "2025-10-27T12:00:00.000Z",
    }
    (directory / "index_info.json").write_text(json.dumps(index_info, indent=2))
    for name in without:
        (directory / name).unlink()
    return ids


def generations(directory: Path) -> list[Path]:
    return [entry for entry in hidden(directory) if not entry.name.startswith(".")]


def drafts(directory: Path) -> list[Path]:
    return [entry for entry in hidden(directory) if entry.name.startswith(".writing-")]


def hidden(directory: Path) -> list[Path]:
    return sorted(hidden_home(directory).iterdir())


def hidden_home(directory: Path) -> Path:
    return directory.parent / ".generations" / directory.name


# What is written ----------------------------------------------------------------------------------------------------


def test_what_is_published_is_what_loads(tmp_path: Path) -> None:
    vectors, records = some_vectors(50), some_records(50)
    publish(tmp_path / "acme", records, vectors)
    index = storage.load(tmp_path / "acme")
    assert list(index.records) == records
    np.testing.assert_array_equal(index.vectors, vectors)
    assert (index.info.total_images, index.info.embedding_dimension, index.info.model) == (50, 960, "MobileNetV3-Large")
    assert index.info.passport == ModelPassport("test-weights", "a" * 64)
    np.testing.assert_array_equal(index.signatures, some_signatures(50))


def test_rows_added_in_any_pieces_make_the_same_files(tmp_path: Path) -> None:
    vectors, records = some_vectors(7), some_records(7)
    publish(tmp_path / "whole", records, vectors)
    with storage.IndexWriter(tmp_path / "pieces") as writer:
        for start, stop in ((0, 1), (1, 1), (1, 5), (5, 7)):
            writer.add(vectors[start:stop], records[start:stop], some_signatures(7)[start:stop])
        writer.publish(INFO, keep=2)
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


ODD_NAMES = [
    ('a "quoted" name.png', "", 'a "quoted" name'),
    ("back\\slash's/{}[],.png", "back\\slash's", "{}[],"),
    ("new\nline/tab\t.png", "new\nline", "tab\t"),
    ("\U0001f600/caf\u00e9 \u4e2d\u6587.webp", "\U0001f600", "caf\u00e9 \u4e2d\u6587"),
    ("line\u2028separator\u2029and\u0085next.gif", "", "line\u2028separator\u2029and\u0085next"),
    ("one.two.three.tar.png", "", "one.two.three.tar"),
    ("deep/deeper/deepest/x.jpeg", "deep/deeper/deepest", "x"),
    (" leading and trailing .png", "", " leading and trailing "),
    ("\x01\x7f\ufeff.bmp", "", "\x01\x7f\ufeff"),
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


# Damage -------------------------------------------------------------------------------------------------------------


def cut_by_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_one_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def replace_by_other_bytes(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something else entirely " * 20)


def replace_by_pointer(path: Path) -> None:
    path.write_bytes(POINTER)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [
    cut_by_half,
    cut_one_byte,
    empty,
    remove,
    replace_by_other_bytes,
    replace_by_pointer,
    become_a_folder,
]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", OUR_FILES)
def test_damaged_file_of_ours_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    if (name, damage) == ("signatures.npy", remove):
        damage = empty  # missing, it tells that nobody knows
    publish(tmp_path / "acme", some_records(9), some_vectors(9))
    damage(tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FLASK_FILES)
def test_damaged_file_of_the_flask_service_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    if damage is remove and name in ("index_info.json", "embeddings.npy"):
        damage = empty  # these two may be missing
    flask_directory(tmp_path / "acme", some_vectors(9), [f"{n}.png" for n in range(9)])
    damage(tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("count", [0, 8, 10])
@pytest.mark.parametrize("name", OUR_FILES)
def test_file_of_an_index_of_another_size_is_named(tmp_path: Path, name: str, count: int) -> None:
    publish(tmp_path / "acme", some_records(9), some_vectors(9))
    publish(tmp_path / "other", some_records(count), some_vectors(count))
    shutil.copy(tmp_path / "other" / name, tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("count", [0, 8, 10])
@pytest.mark.parametrize("name", FLASK_FILES)
def test_file_of_a_flask_index_of_another_size_is_named(tmp_path: Path, name: str, count: int) -> None:
    flask_directory(tmp_path / "acme", some_vectors(9), [f"{n}.png" for n in range(9)])
    flask_directory(tmp_path / "other", some_vectors(count), [f"{n}.png" for n in range(count)])
    shutil.copy(tmp_path / "other" / name, tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=name):
        storage.load(tmp_path / "acme")


def test_embeddings_of_the_same_size_but_other_pictures_are_refused(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(9), some_vectors(9, seed=1))
    publish(tmp_path / "other", some_records(9), some_vectors(9, seed=2))
    shutil.copy(tmp_path / "other" / "embeddings.npy", tmp_path / "acme" / "embeddings.npy")
    with pytest.raises(IndexCorrupt, match=r"embeddings\.npy"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("dimension", [1, 512, 1280])
def test_index_of_another_dimension_is_refused(tmp_path: Path, dimension: int) -> None:
    vectors = np.ones((4, dimension), np.float32)
    flask_directory(tmp_path / "acme", vectors, [f"{n}.png" for n in range(4)])
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin.*960"):
        storage.load(tmp_path / "acme")


def test_embeddings_and_info_of_another_dimension_are_named(tmp_path: Path) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    flask_directory(tmp_path / "other", np.ones((4, 512), np.float32), list("abcd"))
    for name in ("embeddings.npy", "index_info.json"):
        kept = (tmp_path / "acme" / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, tmp_path / "acme" / name)
        with pytest.raises(IndexCorrupt, match=name):
            storage.load(tmp_path / "acme")
        (tmp_path / "acme" / name).write_bytes(kept)


@pytest.mark.parametrize(
    "make",
    [
        faiss.IndexFlatL2,
        lambda dimension: faiss.IndexHNSWFlat(dimension, 4),
        lambda d: faiss.IndexIDMap2(faiss.IndexFlatIP(d)),
    ],
    ids=["l2", "hnsw", "idmap"],
)
def test_another_kind_of_faiss_index_is_refused(tmp_path: Path, make: Callable[[int], Any]) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    index = make(DIMENSION)
    if isinstance(index, faiss.IndexIDMap2):
        index.add_with_ids(some_vectors(4), np.arange(4))
    else:
        index.add(some_vectors(4))
    faiss.write_index(index, str(tmp_path / "acme" / "faiss_index.bin"))
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("name", FLASK_FILES)
def test_git_lfs_pointer_says_to_pull(tmp_path: Path, name: str) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    replace_by_pointer(tmp_path / "acme" / name)
    with pytest.raises(IndexCorrupt, match=rf"{name}.*git lfs pull"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize(
    "text", ["null", "[1, 2, 3, 4]", '{"a": 1, "b": 2, "c": 3, "d": 4}', '[{"fullPath": 1, "id": "x"}]']
)
def test_metadata_of_another_shape_is_named(tmp_path: Path, text: str) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    (tmp_path / "acme" / "metadata.json").write_text(text)
    with pytest.raises(IndexCorrupt, match=r"metadata\.json"):
        storage.load(tmp_path / "acme")


@pytest.mark.parametrize("text", ["null", "[]", '"format"', '{"total_images": null}', '{"total_images": "many"}'])
def test_index_info_of_another_shape_is_named(tmp_path: Path, text: str) -> None:
    flask_directory(tmp_path / "acme", some_vectors(4), list("abcd"))
    (tmp_path / "acme" / "index_info.json").write_text(text)
    with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
        storage.load(tmp_path / "acme")
    with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
        storage.info(tmp_path / "acme")


@pytest.mark.parametrize("shape", [(0,), (1,), (10, 1), ()])
def test_offsets_of_another_shape_are_named(tmp_path: Path, shape: tuple[int, ...]) -> None:
    publish(tmp_path / "acme", some_records(9), some_vectors(9))
    np.save(tmp_path / "acme" / "metadata_offsets.npy", np.zeros(shape, np.int64))
    with pytest.raises(IndexCorrupt, match=r"metadata_offsets\.npy"):
        storage.load(tmp_path / "acme")


def test_entry_that_is_no_json_is_named_when_it_is_found(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(3), some_vectors(3))
    metadata = tmp_path / "acme" / "metadata.json"
    metadata.write_bytes(metadata.read_bytes().replace(b'"Abstract/001.png"', b"'Abstract/001.png'"))
    index = storage.load(tmp_path / "acme")
    with pytest.raises(IndexCorrupt, match=r"metadata\.json"):
        index.search(index.vectors[1], 1)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.touch()])
def test_a_place_without_index_is_not_built(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "acme")
    assert not storage.has_index(tmp_path / "acme")
    assert storage.version(tmp_path / "acme") == ""
    for read in (storage.load, storage.info):
        with pytest.raises(IndexNotBuilt, match="acme"):
            read(tmp_path / "acme")


# Directories of the Flask service -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "without", [(), ("index_info.json",), ("embeddings.npy",), ("index_info.json", "embeddings.npy")]
)
def test_flask_directory_is_served_as_it_is(tmp_path: Path, without: tuple[str, ...]) -> None:
    vectors = some_vectors(6)
    paths = ["Abstract/Adelaide.png", "top.jpg", "a/b/c.gif", "caf\u00e9.png", "x y.bmp", "z.webp"]
    ids = flask_directory(tmp_path / "acme", vectors, paths, without=without)
    index = storage.load(tmp_path / "acme")
    assert [(record.path, record.id) for record in index.records] == list(zip(paths, ids, strict=True))
    np.testing.assert_array_equal(index.vectors, vectors)
    assert index.info.total_images == storage.info(tmp_path / "acme").total_images == 6
    assert index.info.passport is None
    assert index.search(vectors[2], 1)[0].image == ImageRecord("a/b/c.gif", ids[2])
    assert sorted(entry.name for entry in (tmp_path / "acme").iterdir()) == sorted(set(FLASK_FILES) - set(without))


def test_flask_timestamp_is_kept(tmp_path: Path) -> None:
    flask_directory(tmp_path / "acme", some_vectors(1), ["a.png"])
    assert storage.info(tmp_path / "acme").timestamp == "2025-10-27T12:00:00.000Z"


def test_flask_embeddings_before_normalisation_do_not_replace_those_of_faiss(tmp_path: Path) -> None:
    vectors = some_vectors(6)
    flask_directory(tmp_path / "acme", vectors, list("abcdef"), embeddings=vectors * 7)
    index = storage.load(tmp_path / "acme")
    np.testing.assert_array_equal(index.vectors, vectors)
    assert index.search(vectors[4], 1)[0].score == pytest.approx(1, abs=1e-6)


def test_flask_directory_becomes_a_generation_at_its_first_publication(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    ids = flask_directory(directory, some_vectors(6), list("abcdef"))
    publish(directory, some_records(3), some_vectors(3))
    assert directory.is_symlink()
    assert list(storage.load(directory).records) == some_records(3)
    before, after = generations(directory)
    assert [record.id for record in storage.load(before).records] == ids
    assert after == directory.resolve()


def test_version_changes_with_every_publication(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    seen = [storage.version(directory)]
    flask_directory(directory, some_vectors(2), list("ab"))
    seen.append(storage.version(directory))
    for _ in range(3):
        publish(directory, some_records(2), some_vectors(2))
        seen.append(storage.version(directory))
    assert len(set(seen)) == 5
    assert storage.version(directory) == seen[-1]


# Publishing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "left"), [(0, 1), (1, 2), (3, 4), (9, 6)])
def test_so_many_earlier_generations_stay(tmp_path: Path, keep: int, left: int) -> None:
    for size in range(1, 7):
        publish(tmp_path / "acme", some_records(size), some_vectors(size), keep=keep)
    assert [len(storage.load(entry)) for entry in generations(tmp_path / "acme")] == list(range(1, 7))[-left:]
    assert len(storage.load(tmp_path / "acme")) == 6


def test_reader_of_the_old_index_goes_on_after_it_is_pruned(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(200), some_vectors(200))
    old = storage.load(tmp_path / "acme")
    for _ in range(2):
        publish(tmp_path / "acme", some_records(1, "new/"), some_vectors(1), keep=0)
    assert len(generations(tmp_path / "acme")) == 1
    vectors = some_vectors(200)
    np.testing.assert_array_equal(old.vectors, vectors)
    assert [old.search(vectors[row], 1)[0].image.path for row in (0, 99, 199)] == [
        f"Abstract/{row:03}.png" for row in (0, 99, 199)
    ]


def test_reader_of_a_flask_directory_goes_on_after_it_is_pruned(tmp_path: Path) -> None:
    vectors = some_vectors(200)
    flask_directory(tmp_path / "acme", vectors, [f"{n}.png" for n in range(200)])
    old = storage.load(tmp_path / "acme")
    publish(tmp_path / "acme", some_records(1), some_vectors(1), keep=0)
    np.testing.assert_array_equal(old.vectors, vectors)
    assert old.search(vectors[150], 1)[0].image.path == "150.png"


def test_writer_left_without_publishing_leaves_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    with suppress(KeyboardInterrupt), storage.IndexWriter(tmp_path / "acme") as writer:
        writer.add(some_vectors(3), some_records(3))
        assert len(drafts(tmp_path / "acme")) == 1
        raise KeyboardInterrupt
    assert drafts(tmp_path / "acme") == []
    assert len(storage.load(tmp_path / "acme")) == 2


def test_nobody_sees_a_draft(tmp_path: Path) -> None:
    with storage.IndexWriter(tmp_path / "acme") as writer:
        writer.add(some_vectors(3), some_records(3))
        assert not storage.has_index(tmp_path / "acme")
        assert not (tmp_path / "acme").exists()
        writer.publish(INFO, keep=0)
    assert len(storage.load(tmp_path / "acme")) == 3


def test_refused_confirmation_leaves_the_old_index(tmp_path: Path) -> None:
    @contextmanager
    def refuse() -> Iterator[None]:
        raise InterruptedError("the build was cancelled")
        yield

    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    version = storage.version(tmp_path / "acme")
    with pytest.raises(InterruptedError):
        publish(tmp_path / "acme", some_records(5), some_vectors(5), confirm=refuse)
    assert storage.version(tmp_path / "acme") == version
    assert len(storage.load(tmp_path / "acme")) == 2
    assert len(hidden(tmp_path / "acme")) == 2  # the generation and the lock
    publish(tmp_path / "acme", some_records(6), some_vectors(6))
    assert len(storage.load(tmp_path / "acme")) == 6


def test_confirmation_surrounds_the_switch(tmp_path: Path) -> None:
    seen = []

    @contextmanager
    def watch() -> Iterator[None]:
        seen.append(len(storage.load(tmp_path / "acme")))
        yield
        seen.append(len(storage.load(tmp_path / "acme")))

    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    publish(tmp_path / "acme", some_records(5), some_vectors(5), confirm=watch)
    assert seen == [2, 5]


@pytest.mark.parametrize("link", [False, True], ids=["folder", "link to it"])
def test_folder_of_other_things_is_never_published_into(tmp_path: Path, link: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wedding.jpg").write_bytes(b"precious")
    target = tmp_path / "photos"
    if link:
        target = tmp_path / "link"
        target.symlink_to(tmp_path / "photos")
    with pytest.raises(PublishRefused, match=r"wedding\.jpg"):
        publish(target, some_records(1), some_vectors(1))
    assert target.is_symlink() == link
    assert (target / "wedding.jpg").read_bytes() == b"precious"
    assert not (tmp_path / ".generations").exists()


def test_pictures_beside_a_flask_index_are_never_moved_away(tmp_path: Path) -> None:
    flask_directory(tmp_path / "photos", some_vectors(1), ["wedding.jpg"])
    (tmp_path / "photos" / "wedding.jpg").write_bytes(b"precious")
    with pytest.raises(PublishRefused, match=r"wedding\.jpg"):
        publish(tmp_path / "photos", some_records(1), some_vectors(1))
    assert (tmp_path / "photos" / "wedding.jpg").read_bytes() == b"precious"


def test_file_is_never_published_over(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("a letter")
    with pytest.raises(PublishRefused, match="acme"):
        publish(tmp_path / "acme", some_records(1), some_vectors(1))
    assert (tmp_path / "acme").read_text() == "a letter"


@pytest.mark.parametrize("name", [None, ".gitkeep"])
def test_empty_folder_becomes_an_index(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "acme").mkdir()
    if name:
        (tmp_path / "acme" / name).touch()
    publish(tmp_path / "acme", some_records(1), some_vectors(1))
    assert len(storage.load(tmp_path / "acme")) == 1


@pytest.mark.parametrize("damage", [empty, remove])
@pytest.mark.parametrize("name", FLASK_FILES)
def test_damaged_index_is_mended_by_publishing_over_it(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    flask_directory(tmp_path / "flask", some_vectors(9), [f"{n}.png" for n in range(9)])
    publish(tmp_path / "ours", some_records(9), some_vectors(9))
    for company in ("flask", "ours"):
        damage(tmp_path / company / name)
        publish(tmp_path / company, some_records(1), some_vectors(1))
        assert len(storage.load(tmp_path / company)) == 1


def test_damaged_generation_is_not_offered(tmp_path: Path) -> None:
    flask_directory(tmp_path / "acme", some_vectors(9), [f"{n}.png" for n in range(9)])
    (tmp_path / "acme" / "index_info.json").write_bytes(b"")
    for count in (1, 2):
        publish(tmp_path / "acme", some_records(count), some_vectors(count))
    offered = storage.generations(tmp_path / "acme")
    assert [(each.info.total_images, each.published) for each in offered] == [(2, True), (1, False)]


# Several processes --------------------------------------------------------------------------------------------------


def publish_generation(directory: Path, number: int, *, keep: int = 1) -> None:
    """Publish an index of which every part tells its number."""
    count = 3 + number % 5
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(count, seed=number), some_records(count, f"{number}/"))
        writer.publish(IndexInfo(0, weights=f"generation {number}", fingerprint=f"{number:064}"), keep=keep)


def require_one_generation(index: ImageIndex) -> int:
    """Return the number of publish_generation; fail where the parts are of different ones."""
    number = int(index.records[0].path.split("/")[0])
    count = 3 + number % 5
    assert list(index.records) == some_records(count, f"{number}/")
    np.testing.assert_array_equal(index.vectors, some_vectors(count, seed=number))
    assert (index.info.total_images, index.info.weights) == (count, None if number == 0 else f"generation {number}")
    return number


def flask_generation(directory: Path) -> None:
    """Make a Flask directory that require_one_generation knows as number 0."""
    records = some_records(3, "0/")
    flask_directory(directory, some_vectors(3, seed=0), [record.path for record in records])
    metadata = [metadata_entry(record) for record in records]
    (directory / "metadata.json").write_text(json.dumps(metadata))


def _publish_on(directory: Path, first: int, ready: Connection) -> None:
    ready.send("ready")
    number = first
    while True:
        publish_generation(directory, number)
        number += 1


def _publish_some(directory: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        publish_generation(directory, number, keep=0)


def _write_and_wait(directory: Path, ready: Connection) -> None:
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(3), some_records(3))
        ready.send("written")
        ready.recv()
        writer.publish(INFO, keep=5)


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    here, there = _processes.Pipe()
    process = _processes.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    assert here.poll(30)
    here.recv()
    return process, here


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def test_killed_publisher_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    publish_generation(directory, 1)
    chance = random.Random(2)
    newest = 1
    for _ in range(15):
        process, _ready = start(_publish_on, directory, newest + 1)
        for _ in range(chance.randrange(1, 50)):
            seen = require_one_generation(storage.load(directory))
            assert seen >= newest
            newest = seen
        kill(process)
        newest = require_one_generation(storage.load(directory))
    assert newest > 5
    publish_generation(directory, newest + 1)
    assert require_one_generation(storage.load(directory)) == newest + 1
    assert drafts(directory) == []
    assert len(generations(directory)) == 2


def test_killed_first_publisher_leaves_the_flask_index_or_the_new_one(tmp_path: Path) -> None:
    chance = random.Random(3)
    for attempt in range(12):
        directory = tmp_path / f"acme{attempt}"
        flask_generation(directory)
        process, _ready = start(_publish_on, directory, 1)
        for _ in range(chance.randrange(1, 30)):
            assert storage.has_index(directory)
            require_one_generation(storage.load(directory))
        kill(process)
        number = require_one_generation(storage.load(directory))
        publish_generation(directory, number + 1)
        assert require_one_generation(storage.load(directory)) == number + 1


@pytest.mark.parametrize("step", ["rename", "replace", "unlink", "rmtree", "symlink_to"])
def test_first_publication_cut_short_at_any_step_leaves_a_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Every call that changes the disk while a Flask directory is replaced, the last thing a process does."""

    class Killed(BaseException):
        pass

    for nth in range(1, 4):
        directory = tmp_path / f"{step}{nth}"
        flask_generation(directory)
        writer = storage.IndexWriter(directory)
        writer.add(some_vectors(4, seed=1), some_records(4, "1/"))
        with monkeypatch.context() as patch:
            owner: Any = shutil if step == "rmtree" else Path
            real, calls = getattr(owner, step), iter(range(1, 1000))

            def stop(*args: Any, real: Any = real, calls: Any = calls, nth: int = nth, **kwargs: Any) -> Any:
                if next(calls) == nth:
                    raise Killed
                return real(*args, **kwargs)

            patch.setattr(owner, step, stop)
            with suppress(Killed):
                writer.publish(IndexInfo(0, weights="generation 1", fingerprint=f"{1:064}"), keep=0)
        assert storage.has_index(directory)
        assert require_one_generation(storage.load(directory)) in (0, 1)


def test_reader_between_the_steps_of_a_first_publication_sees_a_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Flask directory is replaced just after a reader has found out where the files lie."""
    for nth in range(1, 8):
        directory = tmp_path / f"acme{nth}"
        flask_generation(directory)
        with monkeypatch.context() as patch:
            real, calls = reading.resolve, iter(range(1, 1000))

            def resolve_and_publish(
                place: Path, real: Any = real, calls: Any = calls, nth: int = nth, directory: Path = directory
            ) -> Path:
                found: Path = real(place)
                if next(calls) == nth:
                    publish_generation(directory, 1, keep=0)
                return found

            patch.setattr(reading, "resolve", resolve_and_publish)
            assert storage.has_index(directory)
            require_one_generation(storage.load(directory))
            assert storage.info(directory).weights in (None, "generation 1")
            assert storage.version(directory)


@pytest.mark.parametrize("plain_files", [FLASK_FILES, ["faiss_index.bin", "metadata.json"]])
def test_reader_of_a_plain_directory_replaced_before_any_of_its_files_is_opened_sees_a_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_files: list[str]
) -> None:
    replaced = 0
    for nth in range(1, 12):
        directory = tmp_path / f"acme{nth}"
        flask_generation(directory)
        for name in set(FLASK_FILES) - set(plain_files):
            (directory / name).unlink()
        opened, publishing = 0, False

        def publish_at_nth(
            real: Callable[..., Any], *args: Any, nth: int = nth, directory: Path = directory, **kwargs: Any
        ) -> Any:
            nonlocal opened, publishing, replaced
            if publishing or Path(args[0]).parent != directory:
                return real(*args, **kwargs)
            opened += 1
            if opened != nth:
                return real(*args, **kwargs)
            publishing, replaced = True, replaced + 1
            publish_generation(directory, 1, keep=0)
            link = directory.readlink()
            directory.unlink()  # as for the moment between moving the plain directory away and linking to the new one
            try:
                return real(*args, **kwargs)
            finally:
                directory.symlink_to(link)
                publishing = False

        with monkeypatch.context() as patch:
            for owner, name in [(io, "open"), (builtins, "open"), (faiss, "read_index")]:
                patch.setattr(owner, name, partial(publish_at_nth, getattr(owner, name)))
            require_one_generation(storage.load(directory))
    assert replaced >= 4


def test_reader_whose_generation_is_pruned_while_it_loads_gets_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_generation(tmp_path / "acme", 1)
    real = reading._flat_shape

    def publish_first(generation: Path) -> tuple[int, int]:
        monkeypatch.setattr(reading, "_flat_shape", real)
        publish_generation(tmp_path / "acme", 2, keep=0)
        return real(generation)

    monkeypatch.setattr(reading, "_flat_shape", publish_first)
    assert require_one_generation(storage.load(tmp_path / "acme")) == 2


def test_publishers_in_several_processes_take_turns(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    flask_generation(directory)
    processes = [
        _processes.Process(target=_publish_some, args=(directory, range(first, first + 10)), daemon=True)
        for first in (1, 101, 201)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        require_one_generation(storage.load(directory))
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert require_one_generation(storage.load(directory)) in (10, 110, 210)
    assert drafts(directory) == []
    assert len(generations(directory)) == 1


def test_drafts_of_killed_processes_are_cleared_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    dead, _ = start(_write_and_wait, directory)
    living, connection = start(_write_and_wait, directory)
    kill(dead)
    assert len(drafts(directory)) == 2
    publish(directory, some_records(7), some_vectors(7))
    assert len(drafts(directory)) == 1
    connection.send("publish")
    living.join()
    assert living.exitcode == 0
    assert drafts(directory) == []
    assert len(storage.load(directory)) == 3


def test_draft_is_not_cleared_between_its_making_and_its_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever publishes at the worst moment of a writer's beginning clears nothing that it needs."""
    directory = tmp_path / "acme"
    publish_generation(directory, 1)

    class ClearedJustBefore(FileLock):
        def acquire(self, *args: Any, **options: Any) -> Any:
            if Path(self.lock_file).parent.name.startswith(".writing-"):
                monkeypatch.setattr(writing, "FileLock", FileLock)
                with suppress(Timeout), FileLock(hidden_home(directory) / ".lock", timeout=0):
                    drop_old_generations(directory, keep=1)
            return super().acquire(*args, **options)

    monkeypatch.setattr(writing, "FileLock", ClearedJustBefore)
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(3), some_records(3))
        writer.publish(INFO, keep=5)
    assert len(storage.load(directory)) == 3


def test_full_disk_leaves_the_old_index_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    fill_up(monkeypatch, "embeddings.npy")
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "acme", some_records(5), some_vectors(5))
    assert drafts(tmp_path / "acme") == []
    assert len(storage.load(tmp_path / "acme")) == 2
