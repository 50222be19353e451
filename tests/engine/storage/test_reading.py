import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.index.match_fit import MatchFit
from search.engine.index.records import ImageRecord
from tests.support.indexes import (
    FLASK_FILES,
    INFO,
    by_link,
    flask_directory,
    generations,
    publish,
    some_records,
    some_vectors,
    write_sums_anew,
)


@pytest.mark.parametrize(
    "without", [(), ("index_info.json",), ("embeddings.npy",), ("index_info.json", "embeddings.npy")]
)
def test_flask_directory_is_served_as_it_is(tmp_path: Path, without: tuple[str, ...]) -> None:
    vectors = some_vectors(6)
    paths = ["Abstract/Adelaide.png", "top.jpg", "a/b/c.gif", "caf\u00e9.png", "x y.bmp", "z.webp"]
    ids = flask_directory(tmp_path / "acme", vectors, paths, without=without)
    index = storage.load(tmp_path / "acme")
    assert [(record.path, record.id) for record in index.records] == list(zip(paths, ids, strict=True))
    np.testing.assert_array_equal(index.vectors[:], vectors)
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
    np.testing.assert_array_equal(index.vectors[:], vectors)
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


FIT = MatchFit(6.5, -3.1, 600, 60, 0.05, background=0.7, nearest_low=0.6, nearest_median=0.8, altered_low=0.55)


def say_of_fit(directory: Path, **entries: object) -> None:
    """Let index_info.json say something else of the fit, as somebody may have crafted it."""
    path = directory / "index_info.json"
    index_info = json.loads(path.read_text())
    index_info["match"] |= entries
    path.write_text(json.dumps(index_info))
    write_sums_anew(directory.resolve())


@pytest.fixture
def fitted(tmp_path: Path) -> Path:
    with storage.IndexWriter(tmp_path / "acme") as writer:
        writer.add(some_vectors(6), some_records(6))
        writer.publish(replace(INFO, match=FIT), by_link(tmp_path / "acme"))
    return tmp_path / "acme"


def test_a_fit_is_read_as_it_was_written(fitted: Path) -> None:
    assert storage.info(fitted).match == storage.load(fitted).info.match == FIT


@pytest.mark.parametrize(
    "crafted",
    [
        {"slope": 0},
        {"slope": -6.5},
        {"slope": "6.5"},
        {"slope": float("nan")},
        {"offset": float("inf")},
        {"offset": None},
        {"offset": 10**400},
        {"images": 1.5},
        {"images": -1},
        {"images": True},
        {"pictures": 601},
        {"calibration_error": 1.1},
        {"calibration_error": float("nan")},
        {"background": 2},
        {"background": [0.7]},
        {"nearest_low": float("nan")},
        {"nearest_median": -2},
        {"altered_low": 1.5},
    ],
)
def test_a_fit_of_numbers_that_cannot_be_is_refused(fitted: Path, crafted: dict[str, object]) -> None:
    say_of_fit(fitted, **crafted)
    with pytest.raises(IndexCorrupt, match=r"index_info\.json"):
        storage.info(fitted)


def test_a_fit_that_another_version_wrote_in_fields_of_its_own_is_none(fitted: Path) -> None:
    say_of_fit(fitted, kappa=1)
    assert storage.info(fitted).match is None


def test_scores_of_a_fit_may_be_unknown(fitted: Path) -> None:
    unknown = {
        "calibration_error": None,
        "background": None,
        "nearest_low": None,
        "nearest_median": None,
        "altered_low": None,
    }
    say_of_fit(fitted, **unknown)
    assert storage.info(fitted).match == replace(FIT, **unknown)
