"""Large files that have changed since they were published: found in the background, by one process for all."""

import os
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from search import runtime
from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.model.passport import ModelPassport
from tenants.models import Company
from tests.conftest import picture
from tests.support.damage import flip_a_byte
from tests.support.fakes import RED, FakeEmbedder
from tests.support.indexes import flask_directory, publish, some_records, some_vectors
from tests.support.waiting import eventually

COUNT = 1_100  # vectors of more than 4 MB


@pytest.fixture
def acme(db: None, settings: Any, tmp_path: Path) -> Company:
    settings.CACHE_DIR = tmp_path / "cache"
    company = Company.objects.create(name="acme")
    records = sorted(some_records(COUNT), key=lambda record: record.path)
    publish(company.embeddings_directory, records, some_vectors(COUNT))
    start_anew()
    return company


def start_anew() -> None:
    """Let this process be as one that has just begun."""
    runtime.reset()
    runtime.use(FakeEmbedder())


def search() -> Any:
    return Client().post("/api/search/acme", {"image": picture(RED)})


def verdicts(cache: Path) -> list[Path]:
    return list((cache / "verified").glob("*.json"))


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the index's model be the one of searches."""
    make = FakeEmbedder.__init__

    def make_as_of_index(self: FakeEmbedder) -> None:
        make(self)
        self.passport = ModelPassport("test-weights", "a" * 64)

    monkeypatch.setattr(FakeEmbedder, "__init__", make_as_of_index)


def test_a_changed_vector_is_a_503_in_this_process_and_in_later_ones_until_it_is_right_again(
    acme: Company, trusted: None, settings: Any
) -> None:
    start_anew()
    file = acme.embeddings_directory / "faiss_index.bin"
    flip_a_byte(file, 2_000_000)
    assert search().status_code == 200  # nobody knows yet
    eventually(lambda: search().status_code == 503, "the damage is found")
    assert search().json()["error"] == "faiss_index.bin has changed since it was published"
    start_anew()
    assert search().status_code == 503
    flip_a_byte(file, 2_000_000)
    assert search().status_code == 200
    eventually(lambda: len(verdicts(settings.CACHE_DIR)) == 2, "it is compared again")
    assert search().status_code == 200


def test_files_are_compared_once_for_all_processes(acme: Company, trusted: None, settings: Any) -> None:
    start_anew()
    assert search().status_code == 200
    eventually(lambda: verdicts(settings.CACHE_DIR) != [], "the files are compared")
    file = acme.embeddings_directory / "faiss_index.bin"
    looks = file.stat()
    flip_a_byte(file, 2_000_000)
    os.utime(file, ns=(looks.st_atime_ns, looks.st_mtime_ns))
    later = storage.Verifier(settings.CACHE_DIR / "verified")
    later.require_undamaged(acme.embeddings_directory)
    index = storage.load(acme.embeddings_directory)
    later.verify_later(acme.embeddings_directory, index)
    os.utime(file)
    later.verify_later(acme.embeddings_directory, index)  # looks otherwise, so it is compared
    eventually(lambda: later.is_damaged(index), "the damage is found")


def test_a_cache_that_cannot_be_written_costs_each_process_a_comparison(acme: Company, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    verifier = storage.Verifier(tmp_path / "file")
    flip_a_byte(acme.embeddings_directory / "faiss_index.bin", 2_000_000)
    index = storage.load(acme.embeddings_directory)
    verifier.verify_later(acme.embeddings_directory, index)
    eventually(lambda: verifier.is_damaged(index), "the damage is found")
    with pytest.raises(IndexCorrupt, match=r"faiss_index\.bin has changed"):
        verifier.require_undamaged(acme.embeddings_directory)


def test_what_is_known_of_a_generation_goes_after_it(acme: Company, tmp_path: Path) -> None:
    cache = tmp_path / "verified"
    verifier = storage.Verifier(cache)
    for number in range(3):
        publish(acme.embeddings_directory, some_records(COUNT)[:1], some_vectors(1), keep=0)
        records = sorted(some_records(COUNT), key=lambda record: record.path)
        publish(acme.embeddings_directory, records, some_vectors(COUNT), keep=0)
        index = storage.load(acme.embeddings_directory)
        before = set(cache.glob("*.json"))
        verifier.verify_later(acme.embeddings_directory, index)
        eventually(lambda before=before: set(cache.glob("*.json")) - before != set(), f"comparison {number}")
    assert len(list(cache.glob("*.json"))) == 1


def test_a_directory_of_the_flask_service_is_compared_with_nothing(db: None, settings: Any, tmp_path: Path) -> None:
    settings.CACHE_DIR = tmp_path / "cache"
    start_anew()
    company = Company.objects.create(name="acme")
    flask_directory(company.embeddings_directory, some_vectors(COUNT), [f"{n}.png" for n in range(COUNT)])
    flip_a_byte(company.embeddings_directory / "faiss_index.bin", 2_000_000)
    assert search().status_code == 200
    assert not (tmp_path / "cache/verified").exists()
