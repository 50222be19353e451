"""Indexes of earlier releases, and those without the copy of the vectors."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from search.engine import storage
from search.engine.build.builder import BuildOptions, build_index
from search.engine.build.republish import republish
from search.engine.errors import IndexCorrupt
from search.engine.index import calibration, coarse
from search.engine.index.index import LiveImage
from search.engine.index.records import ImageRecord
from tests.conftest import paint
from tests.support.fakes import BLUE, RED, FakeEmbedder
from tests.support.indexes import COPY, INFO, by_link, clustered, publish, some_records, some_signatures, some_vectors


def write(directory: Path, count: int, *, copy: bool) -> None:
    with storage.IndexWriter(directory, embeddings_npy=copy) as writer:
        writer.add(some_vectors(count), some_records(count), some_signatures(count))
        writer.publish(INFO, by_link(directory))


def make_format(directory: Path, number: int) -> None:
    """Make the index in directory, which has the copy, what an earlier release would have written."""
    card = directory / "index_info.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"format": number}))
    sums = directory / "SHA256SUMS"
    sums.unlink()
    if number > 1:
        names = sorted(file.name for file in directory.iterdir())
        listed = subprocess.run(["sha256sum", *names], cwd=directory, check=True, capture_output=True).stdout
        sums.write_bytes(listed)


@pytest.mark.parametrize("number", [1, 2])
def test_index_of_an_earlier_format_is_read_as_ever(tmp_path: Path, number: int) -> None:
    vectors, records = some_vectors(50), some_records(50)
    publish(tmp_path / "acme", records, vectors)
    make_format(tmp_path / "acme", number)
    index = storage.load(tmp_path / "acme")
    np.testing.assert_array_equal(index.vectors[:], vectors)
    np.testing.assert_array_equal(index.signatures, some_signatures(50))
    assert list(index.records) == records
    assert index.search(vectors[33], 1)[0].image == records[33]
    assert storage.has_checksums(tmp_path / "acme") == (number > 1)
    assert storage.damaged_files(tmp_path / "acme") == []


@pytest.mark.parametrize("number", [1, 2])
def test_next_build_keeps_the_vectors_of_an_earlier_format(tmp_path: Path, number: int) -> None:
    target, embedder, options = tmp_path / "acme", FakeEmbedder(), BuildOptions(max_pixels=1000)
    paint(tmp_path / "pictures/red.png", RED)
    build_index(tmp_path / "pictures", target, embedder=embedder, options=options)
    make_format(target, number)
    paint(tmp_path / "pictures/blue.png", BLUE)
    outcome = build_index(tmp_path / "pictures", target, embedder=embedder, options=options)
    assert (outcome.full_reason, outcome.progress.embedded, outcome.progress.reused) == ("", 1, 1)
    assert json.loads((target / "index_info.json").read_text())["format"] == 3


def test_index_of_this_format_needs_its_checksums(tmp_path: Path) -> None:
    write(tmp_path / "acme", 9, copy=True)
    (tmp_path / "acme" / "SHA256SUMS").unlink()
    with pytest.raises(IndexCorrupt, match="SHA256SUMS is missing"):
        storage.require_undamaged(tmp_path / "acme")


# Without the copy ---------------------------------------------------------------------------------------------------


def test_index_without_the_copy_is_the_same_index(tmp_path: Path) -> None:
    write(tmp_path / "with", 50, copy=True)
    write(tmp_path / "without", 50, copy=False)
    names = {file.name for file in (tmp_path / "with").iterdir()}
    assert {file.name for file in (tmp_path / "without").iterdir()} == names - {COPY}
    for name in names - {COPY, "index_info.json", "SHA256SUMS"}:
        assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "with" / name).read_bytes()
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / "without", check=True)
    assert storage.damaged_files(tmp_path / "without") == []
    index = storage.load(tmp_path / "without")
    assert index.search(some_vectors(50)[7], 1)[0].image == some_records(50)[7]
    assert faiss.read_index(str(tmp_path / "without" / "faiss_index.bin")).ntotal == 50


def test_first_pass_needs_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coarse, "MIN_IMAGES", 1_000)
    monkeypatch.setattr(calibration, "_QUERIES", 50)
    vectors = clustered(1_200, seed=1)
    with storage.IndexWriter(tmp_path / "acme", embeddings_npy=False) as writer:
        writer.add(vectors, sorted(some_records(1_200), key=lambda record: record.path))
        writer.publish(INFO, by_link(tmp_path / "acme"))
    index = storage.load(tmp_path / "acme")
    assert index.coarse is not None
    assert index.search(vectors[70], 1)[0].score == pytest.approx(1, abs=1e-5)


def test_live_changes_are_folded_without_a_copy(tmp_path: Path) -> None:
    write(tmp_path / "acme", 9, copy=True)
    put = LiveImage(ImageRecord("new.png", "new"), some_vectors(1, seed=5)[0])
    index = storage.load(tmp_path / "acme").with_changes([put])
    republish(index, tmp_path / "acme", info=INFO, publish=by_link(tmp_path / "acme"), embeddings_npy=False)
    assert not (tmp_path / "acme" / COPY).exists()
    assert len(storage.load(tmp_path / "acme")) == 10


@pytest.fixture
def build(tmp_path: Path) -> Callable[[bool], tuple[bool, int]]:
    """Return what builds one picture with or without the copy; it tells whether it published, and what it embedded."""
    paint(tmp_path / "pictures/red.png", RED)

    def build(copy: bool) -> tuple[bool, int]:
        options = BuildOptions(max_pixels=1000, embeddings_npy=copy)
        outcome = build_index(tmp_path / "pictures", tmp_path / "acme", embedder=FakeEmbedder(), options=options)
        assert (tmp_path / "acme" / COPY).exists() == copy
        return outcome.published, outcome.progress.embedded

    return build


def test_next_build_adds_or_drops_the_copy_and_embeds_nothing(build: Callable[[bool], tuple[bool, int]]) -> None:
    wanted = [True, True, False, False, True]
    assert [build(copy) for copy in wanted] == [(True, 1), (False, 0), (True, 0), (False, 0), (True, 0)]


def test_next_build_mends_a_damaged_copy_and_embeds_nothing(
    tmp_path: Path, build: Callable[[bool], tuple[bool, int]]
) -> None:
    build(True)
    (tmp_path / "acme" / COPY).write_bytes(b"nothing")
    assert build(True) == (True, 0)
    assert storage.damaged_files(tmp_path / "acme") == []


def test_copy_takes_as_much_room_again(tmp_path: Path) -> None:
    sizes = {}
    for copy in (True, False):
        write(tmp_path / str(copy), 100, copy=copy)
        sizes[copy] = storage.size_on_disk(tmp_path / str(copy))
    assert sizes[False] < 0.6 * sizes[True]
