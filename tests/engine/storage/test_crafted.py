"""Hundreds of damaged and crafted variants of every file of an index: a right answer, or IndexCorrupt naming a file."""

import contextlib
import json
import operator
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.index import calibration, coarse
from search.engine.index.index import ImageIndex
from search.engine.index.match_fit import MatchFit
from search.engine.index.records import ImageRecord
from search.engine.storage.checkup import examine
from search.engine.storage.given import given_id
from search.engine.storage.layout import PARTS
from tests.support.damage import at_random, with_odd_headers, with_odd_values
from tests.support.indexes import (
    FLASK_FILES,
    INFO,
    by_link,
    clustered,
    flask_directory,
    some_hashes,
    some_records,
    some_signatures,
    some_vectors,
    write_sums_anew,
)

pytestmark = pytest.mark.slow

COUNT = 9
VECTORS, RECORDS = some_vectors(COUNT), [*some_records(5), *some_records(4, start="Modern/")]

TEXTS = ["metadata.json", "index_info.json", "given_ids.json", "SHA256SUMS"]
ARRAYS = ["metadata_offsets.npy", "id_keys.npy", "signatures.npy", "perceptual_hashes.npy"]
OURS = [*TEXTS, *ARRAYS, "faiss_index.bin"]


def make_ours(directory: Path) -> Path:
    """Publish an index with an id of another program, and return where its files lie."""
    with storage.IndexWriter(directory, embeddings_npy=False) as writer:
        records = [ImageRecord(RECORDS[0].path, "theirs"), *RECORDS[1:]]
        writer.add(VECTORS, records, some_signatures(COUNT), hashes=some_hashes(COUNT))
        info = replace(INFO, match=MatchFit(6.5, -3.1, COUNT, 0, 0.05, 0.7, 0.6, 0.8))
        writer.publish(info, by_link(directory), given_ids={RECORDS[0].path: "theirs", "gone.png": "gone"})
    return directory.resolve()


def variants(content: bytes, name: str) -> Iterator[bytes]:
    yield from at_random(content, seed=len(content), count=60)
    if name.endswith(".json"):
        yield from with_odd_values(content)
    if name.endswith(".npy"):
        yield from with_odd_headers(content)


OF_DIRECTORIES: dict[str, Callable[[Path], Any]] = {
    "info": storage.info,
    "given": lambda directory: given_id(directory, "gone.png"),
    "load": storage.load,
}
OF_INDEXES: dict[str, Callable[[ImageIndex], Any]] = {
    "found": lambda index: index.search(VECTORS[4], 3),
    "below": lambda index: index.search(VECTORS[4], 3, location="Abstract"),
    "page": lambda index: index.page(0, COUNT),
    "folders": lambda index: index.records.count_by_location(),
    "named": lambda index: list(index.named("a")),
    "path": lambda index: index.find_path(RECORDS[5].path),
    "id": lambda index: index.find_vector(RECORDS[6].id),
    "signatures": lambda index: None if index.signatures is None else index.signatures[:].tolist(),
    "hashes": lambda index: None if index.hashes is None else index.hashes.tolist(),
}
CALM: list[Callable[[Path], Any]] = [  # these answer whatever befalls the index
    lambda directory: storage.given_ids(directory, "acme"),
    lambda directory: [each.made_at for each in storage.generations(directory, None)],
    storage.has_checksums,
]


def answers(directory: Path) -> dict[str, Any]:
    """Return every answer, by question; of what is refused, the refusal, which names a file."""
    found = {name: answer(ask, directory) for name, ask in OF_DIRECTORIES.items()}
    if isinstance(found["load"], ImageIndex):
        index = found.pop("load")
        found |= {name: answer(ask, index) for name, ask in OF_INDEXES.items()}
    for ask in CALM:
        ask(directory)
    return found


def answer(ask: Callable[[Any], Any], of: Any) -> Any:
    try:
        return ask(of)
    except IndexCorrupt as error:
        refusal = error
    assert any(part in str(refusal) for part in PARTS), refusal
    assert len(str(refusal)) < 400
    assert "pytest-of" not in str(refusal)
    return refusal


@pytest.mark.parametrize("name", OURS)
def test_whatever_is_crafted_into_a_file_of_ours_is_read_or_named(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "acme"
    generation = make_ours(directory)
    sound = (generation / name).read_bytes()
    refused = 0
    for number, content in enumerate(variants(sound, name)):
        (generation / name).write_bytes(content)
        if name != "SHA256SUMS":
            write_sums_anew(generation)
        refused += any(isinstance(each, IndexCorrupt) for each in answers(directory).values())
        if number % 16 == 0:
            examine(directory)
    assert number > 40
    assert refused > number // 10 or name == "SHA256SUMS"


@pytest.mark.parametrize("name", OURS)
def test_a_changed_file_of_ours_gives_the_right_answer_or_is_named(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "acme"
    generation = make_ours(directory)
    right = answers(directory)
    file = generation / name
    sound = file.read_bytes()
    for content in at_random(sound, seed=8, count=120):
        file.write_bytes(content)
        for question, found in answers(directory).items():
            if isinstance(found, IndexCorrupt):
                assert name == "SHA256SUMS" or name in str(found)
            elif question not in ("signatures", "hashes"):  # that builds ask for, who compare every file before
                same = np.array_equal if isinstance(found, np.ndarray) else operator.eq
                assert same(found, right[question])


@pytest.mark.parametrize("name", [name for name in FLASK_FILES if name != "embeddings.npy"])
def test_whatever_is_crafted_into_a_file_of_the_flask_service_is_read_or_named(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "acme"
    flask_directory(directory, VECTORS, [record.path for record in RECORDS])
    sound = (directory / name).read_bytes()
    for content in variants(sound, name):
        (directory / name).write_bytes(content)
        answers(directory)


def test_codes_that_are_crafted_or_damaged_serve_or_give_way_to_the_exact_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coarse, "MIN_IMAGES", 1_000)
    monkeypatch.setattr(calibration, "_QUERIES", 50)
    vectors, directory = clustered(1_000, seed=1), tmp_path / "acme"
    with storage.IndexWriter(directory, embeddings_npy=False) as writer:
        writer.add(vectors, sorted(some_records(1_000), key=lambda record: record.path))
        writer.publish(INFO, by_link(directory))
    file = directory / "coarse_index.bin"
    sound = file.read_bytes()
    matrix = 4 * 960 * 960  # the rotation, of which any number will do, comes first
    for content in [*at_random(sound[matrix:], seed=1, count=30), b"", b"\0" * 400]:
        file.write_bytes(sound[:matrix] + content)
        write_sums_anew(directory.resolve())
        matches = storage.load(directory).search(vectors[7], 10)
        assert len(matches) == 10


@pytest.mark.parametrize("name", ["faiss_index.bin", *TEXTS, *ARRAYS])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path: Path, name: str) -> None:
    generation = make_ours(tmp_path / "acme")
    (generation / name).unlink()
    os.mkfifo(generation / name)
    refusals = " ".join(str(each) for each in answers(tmp_path / "acme").values() if isinstance(each, IndexCorrupt))
    assert name in refusals


CARD = json.dumps({"version": 1, "active": True, "requires_api_key": True, "daily_quota": 5}).encode()


def test_whatever_is_crafted_into_what_protects_a_company_is_read_or_named(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    make_ours(directory)
    card = directory.parent / ".generations/acme/company.json"
    for content in [*variants(CARD, "company.json"), b"0" * (2 << 20)]:
        card.write_bytes(content)
        with contextlib.suppress(IndexCorrupt):
            read = storage.read_company_card(directory)
            assert read is not None
            assert isinstance(read["active"], bool)
            assert read["daily_quota"] is None or read["daily_quota"] >= 0


@pytest.mark.parametrize("name", sorted({*PARTS, "no-file"} - {"coarse_index.bin"}))
def test_a_missing_file_is_named_or_not_needed(tmp_path: Path, name: str) -> None:
    generation = make_ours(tmp_path / "acme")
    shutil.rmtree(generation / name, ignore_errors=True)
    (generation / name).unlink(missing_ok=True)
    answers(tmp_path / "acme")
