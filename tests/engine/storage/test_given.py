"""One given id, looked up in a text that nobody parses."""

import json
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.index.index import IndexInfo
from search.engine.storage.given import given_id
from tests.support.indexes import flask_directory, some_vectors

BLOCK = 1 << 20
PATHS = st.text('ab"\\ {}:,/\u00e9\U0001f600.', max_size=6).map(lambda text: f"{text}.png")


def published(directory: Path, given_ids: dict[str, str]) -> Path:
    with storage.IndexWriter(directory) as writer:
        writer.publish(IndexInfo(0), partial(storage.publish_by_link, directory, keep=0), given_ids=given_ids)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("acme")


@settings(max_examples=100, deadline=None)
@given(ids=st.dictionaries(PATHS, st.text('0f-"\\ :{', max_size=5), max_size=8), other=PATHS)
@example(ids={'"a.png': "1", 'b\\"a.png': "2", "a.png": "3"}, other='b"a.png')
@example(ids={'"a.png': "1", 'b\\"a.png': "2"}, other="a.png")
def test_it_is_the_one_that_reading_all_of_them_gives(directory: Path, ids: dict[str, str], other: str) -> None:
    (directory / "given_ids.json").write_text(json.dumps(ids))  # as IndexWriter does, see below
    for path in {*ids, other}:
        assert given_id(directory, path) == ids.get(path)


def test_it_is_found_wherever_it_stands_in_a_large_file_and_quickly(tmp_path: Path) -> None:
    ids = {f"folder {number % 7}/{'x' * (number % 50)}{number}.png": f"id-{number}" for number in range(60_000)}
    target = published(tmp_path / "acme", ids)
    text = json.dumps(ids)
    assert (target / "given_ids.json").read_text() == text
    assert len(text) > 3 * BLOCK
    across = {text.rindex(', "', 0, block - shift) for block in range(BLOCK, len(text), BLOCK) for shift in (0, 9, 60)}
    paths = [json.JSONDecoder().raw_decode(text, start + 2)[0] for start in across]
    for path in [*paths, next(iter(ids)), next(reversed(ids))]:
        assert given_id(target, path) == ids[path]
    started = time.perf_counter()
    assert given_id(target, "folder 1/0.png") is None
    assert time.perf_counter() - started < 1


def test_an_index_that_holds_none_gives_none(tmp_path: Path) -> None:
    flask_directory(tmp_path / "flask", some_vectors(1), ["a.png"])
    for target in (tmp_path / "nothing", tmp_path / "flask", published(tmp_path / "acme", {})):
        assert given_id(target, "a.png") is None


@pytest.mark.parametrize("text", [b'{"a.png": "cut', b'{"a.png": 7}', b'{"a.png": ' + b"[" * 4096])
def test_an_id_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path, text: bytes) -> None:
    published(tmp_path / "acme", {})
    (tmp_path / "acme/given_ids.json").write_bytes(text)
    with pytest.raises(IndexCorrupt, match=r"given_ids\.json"):
        given_id(tmp_path / "acme", "a.png")
