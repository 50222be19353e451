"""Weights that indexes were made with, for machines that have never seen them."""

from pathlib import Path
from typing import Any

import pytest

from search import runtime, shared_weights, stores
from search.engine.model.kept import keep, kept_path
from search.engine.model.weights import Weights, find_weights
from tests.support.object_store import StoreServer


@pytest.fixture
def weights(settings: Any, store_server: StoreServer, tmp_path: Path) -> Weights:
    """Weights that another machine has shared."""
    settings.STORE, settings.STORE_ENDPOINT = store_server.make_bucket(), store_server.endpoint
    settings.INDEX_DIR = tmp_path / "replica"
    file = tmp_path / "mine.pth"
    file.write_bytes(str(tmp_path).encode())  # others in each test: a process remembers
    found = find_weights(str(file), hub=tmp_path)
    assert found is not None
    keep(found, tmp_path / "another machine")
    shared_weights.share(found.passport.fingerprint, tmp_path / "another machine")
    return found


def test_a_machine_that_lacks_the_weights_of_an_index_fetches_them(weights: Weights, settings: Any) -> None:
    assert runtime.find_passport(weights.passport.fingerprint) == weights.passport
    copy = kept_path(weights.passport.fingerprint, settings.INDEX_DIR / ".weights")
    assert copy.read_bytes() == weights.path.read_bytes()


def test_weights_that_were_changed_in_the_store_are_not_used(weights: Weights) -> None:
    root = stores.root()
    assert root is not None
    root.write(f".weights/{weights.passport.fingerprint}.pth", b"others")
    assert runtime.find_passport(weights.passport.fingerprint) is None


def test_weights_that_nothing_needs_go_once_they_are_old(weights: Weights) -> None:
    fingerprint = weights.passport.fingerprint
    assert shared_weights.drop({fingerprint}, older_than=-1) == []
    assert shared_weights.drop((), older_than=3600) == []
    assert shared_weights.drop((), older_than=-1) == [fingerprint]
    assert runtime.find_passport(fingerprint) is None
