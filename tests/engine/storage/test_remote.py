import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt, IndexNotBuilt, StoreUnavailable
from search.engine.objects import ObjectStore
from search.engine.storage import remote
from tests.support.indexes import FLASK_FILES, flask_directory, publish, some_records, some_vectors
from tests.support.object_store import StoreServer

NAME = "20250101T000000000000-aaaaaaaa"
LATER = "20250102T000000000000-bbbbbbbb"
DAY = timedelta(days=1)
TOLD = [
    "faiss_index.bin",
    "perceptual_hashes.npy",
    "index_info.json",
]  # one for each way in which its checksum is known


@pytest.fixture
def store(store_server: StoreServer) -> ObjectStore:
    return ObjectStore(f"{store_server.make_bucket()}/indexes/acme", endpoint=store_server.endpoint)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of five pictures."""
    publish(tmp_path / "acme", some_records(5), some_vectors(5))
    return (tmp_path / "acme").resolve()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere/.generations/acme").mkdir(parents=True)
    return tmp_path / "elsewhere/.generations/acme" / NAME


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_copy_of_a_generation_is_the_same_to_the_byte(store: ObjectStore, index: Path, target: Path) -> None:
    remote.upload(store, index, NAME)
    remote.fetch(store, NAME, target)

    assert contents(target) == contents(index)
    assert remote.names(store) == [NAME]
    assert remote.info(store, NAME) == storage.info(index)


def test_a_directory_of_the_flask_service_is_uploaded_with_checksums(
    store: ObjectStore, target: Path, tmp_path: Path
) -> None:
    flask_directory(tmp_path / "flask", some_vectors(3), ["a.png", "b.png", "c.png"])
    remote.upload(store, tmp_path / "flask", NAME)
    remote.fetch(store, NAME, target)

    assert sorted(contents(target)) == sorted([*FLASK_FILES, "SHA256SUMS"])
    assert remote.info(store, NAME) == storage.info(tmp_path / "flask")
    assert not storage.is_ours(target)
    np.testing.assert_array_equal(storage.load(target).vectors[:], some_vectors(3))
    assert storage.damaged_files(target) == []


def test_what_was_not_wholly_uploaded_does_not_exist(store: ObjectStore, index: Path, target: Path) -> None:
    class Killed(BaseException):
        pass

    def kill() -> None:
        if len(list(store.listing(NAME))) == 3:
            raise Killed

    with pytest.raises(Killed):
        remote.upload(store, index, NAME, beat=kill)
    assert remote.names(store) == []
    with pytest.raises(IndexNotBuilt, match=NAME):
        remote.fetch(store, NAME, target)
    with pytest.raises(IndexNotBuilt, match=NAME):
        remote.info(store, NAME)
    assert not target.exists()


@pytest.mark.parametrize("file", TOLD)
def test_a_file_that_has_changed_since_it_was_published_is_not_uploaded(
    store: ObjectStore, index: Path, file: str
) -> None:
    changed = bytearray((index / file).read_bytes())
    changed[-1] ^= 1
    (index / file).write_bytes(changed)
    with pytest.raises(IndexCorrupt, match=file):
        remote.upload(store, index, NAME)
    assert remote.names(store) == []


@pytest.mark.parametrize("file", TOLD)
def test_a_damaged_object_is_named_and_no_copy_is_made(
    store: ObjectStore, index: Path, target: Path, file: str
) -> None:
    remote.upload(store, index, NAME)
    store.write(f"{NAME}/{file}", b"damaged")

    with pytest.raises(IndexCorrupt, match=f"acme/{NAME}/{file} is damaged"):
        remote.fetch(store, NAME, target)
    assert not target.exists()

    store.upload(index / file, f"{NAME}/{file}")  # restored
    remote.fetch(store, NAME, target)
    assert contents(target) == contents(index)


def test_a_list_of_checksums_that_is_damaged_is_named(store: ObjectStore, index: Path, target: Path) -> None:
    remote.upload(store, index, NAME)
    store.write(f"{NAME}/SHA256SUMS", b"damaged")
    with pytest.raises(IndexCorrupt, match="SHA256SUMS"):
        remote.fetch(store, NAME, target)
    with pytest.raises(IndexCorrupt, match="SHA256SUMS"):
        remote.info(store, NAME)
    assert remote.generations(store, NAME) == []


def test_a_missing_object_is_named(store: ObjectStore, index: Path, target: Path) -> None:
    remote.upload(store, index, NAME)
    store.delete([f"{NAME}/metadata.json"])
    with pytest.raises(IndexCorrupt, match=r"metadata\.json is missing"):
        remote.fetch(store, NAME, target)


def test_an_object_that_arrives_damaged_is_fetched_again(store: ObjectStore, index: Path, target: Path) -> None:
    remote.upload(store, index, NAME)
    store.write(f"{NAME}/metadata.json", b"damaged")

    def restore() -> None:
        if (target.with_name(f".fetching-{NAME}") / "metadata.json").exists():
            store.upload(index / "metadata.json", f"{NAME}/metadata.json")

    remote.fetch(store, NAME, target, beat=restore)
    assert contents(target) == contents(index)


def test_a_fetch_goes_on_where_a_killed_one_ended(store: ObjectStore, index: Path, target: Path) -> None:
    remote.upload(store, index, NAME)
    left = target.with_name(f".fetching-{NAME}")
    shutil.copytree(index, left)
    (left / "metadata.json").write_bytes(b"cut sh")
    before = (left / "faiss_index.bin").stat()

    remote.fetch(store, NAME, target)
    assert contents(target) == contents(index)
    assert (target / "faiss_index.bin").stat().st_mtime_ns == before.st_mtime_ns


def test_generations_are_listed_newest_first(store: ObjectStore, index: Path) -> None:
    for name in (LATER, NAME):
        remote.upload(store, index, name)
    store.write("company.json", b"{}")
    store.write(".weights/file", b"1")

    assert [(each.name, each.published, each.info.total_images) for each in remote.generations(store, NAME)] == [
        (LATER, False, 5),
        (NAME, True, 5),
    ]


def test_a_generation_that_is_removed_is_gone_at_once(store: ObjectStore, index: Path, target: Path) -> None:
    remote.upload(store, index, NAME)
    remote.upload(store, index, LATER)
    remote.remove(store, NAME)

    assert remote.names(store) == [LATER]
    assert [each.key for each in store.listing(NAME)] == []
    with pytest.raises(IndexNotBuilt):
        remote.fetch(store, NAME, target)


def test_a_generation_that_was_lost_in_the_store_is_not_verified(store: ObjectStore, index: Path) -> None:
    remote.upload(store, index, NAME)
    store.delete([f"{NAME}/metadata.json"])
    with pytest.raises(StoreUnavailable, match=r"metadata\.json"):
        remote.verify(store, NAME, {"metadata.json": 3, "faiss_index.bin": 45})


def test_what_never_served_is_collected_but_not_before_its_time_nor_while_a_row_names_it(
    store: ObjectStore, index: Path
) -> None:
    served, candidate, killed, cut_short = (f"2025010{day}T000000000000-aaaaaaaa" for day in (1, 2, 3, 4))
    for name in (served, candidate, killed, cut_short):
        remote.upload(store, index, name)
    remote.note_published(store, served)
    store.delete([f"{cut_short}/SHA256SUMS"])
    store.write("company.json", b"{}")
    now = store.now()

    assert remote.collect(store, named={candidate}, now=now, grace=DAY) == []
    assert remote.collect(store, named={candidate}, now=now + 2 * DAY, grace=DAY) == [killed, cut_short]
    assert remote.names(store) == [candidate, served]
    assert {each.key.partition("/")[0] for each in store.listing()} == {served, candidate, "company.json"}


def test_it_is_noted_since_when_a_generation_serves(store: ObjectStore, index: Path) -> None:
    remote.upload(store, index, NAME)
    assert [each.published_at for each in remote.look(store)] == [None]

    began = store.now()
    remote.note_published(store, NAME)
    (found,) = remote.look(store)
    assert found.published_at
    assert found.published_at >= began
