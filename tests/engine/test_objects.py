import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.engine.errors import ObjectChanged, StoreUnavailable, StoreUnsuitable
from search.engine.objects import ObjectStore
from tests.support.object_store import StoreServer
from tests.support.poor_store import poor_store


@pytest.fixture
def store(store_server: StoreServer) -> ObjectStore:
    return ObjectStore(f"{store_server.make_bucket()}/indexes", endpoint=store_server.endpoint)


def test_what_is_written_is_read_again_whatever_its_key_holds(store: ObjectStore) -> None:
    key = "100%_off/b\"c\\d/é 'ü.jpg"
    store.write(key, b"content")

    assert store.read(key, limit=7) == b"content"
    assert [each.key for each in store.listing()] == [key]
    assert store.below("100%_off").read("b\"c\\d/é 'ü.jpg", limit=7) == b"content"


def test_a_listing_is_sorted_and_goes_on_after_a_key(store: ObjectStore) -> None:
    for key in ("b/1", "a-b", "a/2", "a/10", "é"):
        store.write(key, b"")

    assert [each.key for each in store.listing()] == ["a-b", "a/10", "a/2", "b/1", "é"]
    assert [each.key for each in store.listing("a")] == ["a/10", "a/2"]
    assert [each.key for each in store.listing(after="a/10")] == ["a/2", "b/1", "é"]
    assert store.children()[0] == ["a", "b"]
    assert [each.key for each in store.children()[1]] == ["a-b", "é"]


def test_a_file_of_many_parts_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    content = bytes(range(256)) * 100_000  # 25.6 MB: several parts up, several ranges down
    (tmp_path / "up").write_bytes(content)

    assert store.upload(tmp_path / "up", "large") == hashlib.sha256(content).digest()
    assert store.download("large", tmp_path / "down") == hashlib.sha256(content).digest()
    assert (tmp_path / "down").read_bytes() == content


def test_nobody_overwrites_what_another_has_written(store: ObjectStore) -> None:
    first = store.write("key", b"1", only_new=True)
    second = store.write("key", b"2", instead_of=first)

    with pytest.raises(FileExistsError):
        store.write("key", b"3", only_new=True)
    with pytest.raises(ObjectChanged):
        store.write("key", b"4", instead_of=first)
    assert store.read("key", limit=1) == b"2"
    assert store.stat("key").etag == second
    store.require_conditional_writes()
    assert [each.key for each in store.listing()] == ["key"]


def test_a_missing_object_is_a_missing_file(store: ObjectStore, tmp_path: Path) -> None:
    reads: list[Callable[[], Any]] = [
        lambda: store.read("nothing", limit=1),
        lambda: store.stat("nothing"),
        lambda: store.download("nothing", tmp_path / "file"),
    ]
    for read in reads:
        with pytest.raises(FileNotFoundError, match="nothing"):
            read()
    store.delete(["nothing"])


def test_a_store_that_does_not_answer_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.engine.objects._RETRIES", {"max_retries": 0})
    away = ObjectStore("s3://bucket/indexes", endpoint="http://127.0.0.1:9")

    with pytest.raises(StoreUnavailable, match=r"s3://bucket/indexes cannot be used .*IMAGESEARCH_STORE_ENDPOINT"):
        away.read("key", limit=1)


def test_a_store_that_overwrites_what_it_is_not_to_is_told(store_server: StoreServer) -> None:
    with poor_store() as endpoint, pytest.raises(StoreUnsuitable, match="ignores If-None-Match"):
        ObjectStore("s3://bucket/pictures", endpoint=endpoint).require_conditional_writes()


def test_an_upload_is_read_back_where_etags_are_no_checksums(store_server: StoreServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with poor_store() as endpoint:
        arrived = ObjectStore("s3://bucket", endpoint=endpoint).upload(tmp_path / "file", "key")
    assert arrived == hashlib.sha256(b"content").digest()
    with poor_store(loses_a_byte=True) as endpoint, pytest.raises(StoreUnavailable, match="did not arrive"):
        ObjectStore("s3://bucket", endpoint=endpoint).upload(tmp_path / "file", "key")


def test_stores_below_a_folder_are_the_same_wherever_they_come_from(store: ObjectStore) -> None:
    assert store.below("acme") == ObjectStore(f"{store.url}/acme", endpoint=store.endpoint)
    assert len({store.below("acme"), store.below("acme"), store.below("globex")}) == 2
