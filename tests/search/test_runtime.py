import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from search import runtime
from search.engine.errors import WeightsUnavailable
from search.engine.model.weights import builtin_weights
from search.tasks import look_after_companies
from tenants.models import Company
from tests.conftest import paint, picture
from tests.support.fakes import FakeEmbedder
from tests.support.waiting import eventually
from tests.support.weights_files import shuffled


def test_an_embedder_is_the_processs_own_until_it_is_reset(settings: Any) -> None:
    settings.WEIGHTS, settings.DEVICE = "/nowhere/weights.pth", "cpu"
    fake = FakeEmbedder()
    runtime.use(fake)
    assert runtime.embedder() is fake
    assert runtime.has_model()
    runtime.reset()
    assert not runtime.has_model()
    with pytest.raises(WeightsUnavailable):
        runtime.embedder()


def test_all_threads_share_one_index_cache_until_it_is_reset() -> None:
    with ThreadPoolExecutor(8) as threads:
        caches = set(threads.map(lambda _: runtime.index_cache(), range(64)))
    assert caches == {runtime.index_cache()}
    runtime.reset()
    assert runtime.index_cache() not in caches


@pytest.fixture
def configured(settings: Any, tmp_path: Path, db: None) -> Path:
    """Return the file of the configured weights, on a CPU, which is not there yet."""
    settings.WEIGHTS, settings.DEVICE = str(tmp_path / "mine.pth"), "cpu"
    settings.TORCH_HOME, settings.CACHE_DIR = tmp_path / "torch", tmp_path / "cache"
    return tmp_path / "mine.pth"


def build_acme() -> None:
    for number in range(6):
        paint(Company(name="acme").image_directory / f"{number}.png", (40 * number, 0, 255 - 40 * number))
    call_command("build_embeddings", company="acme")


def results_in_a_new_process() -> Any:
    runtime.reset()
    return Client().post("/api/search/acme", {"image": picture((0, 0, 255))}).json()["results"]


@pytest.mark.slow
def test_weights_overwritten_in_place_are_searched_with_until_a_build_and_then_let_go(
    configured: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runtime, "FURTHER_IDLE_SECONDS", 0.2)
    shuffled(configured, 1)
    build_acme()
    before = results_in_a_new_process()
    shuffled(configured, 2)
    caplog.set_level("INFO", "search.runtime")
    assert results_in_a_new_process() == before
    assert not runtime.has_model()  # the configured one is not needed for it
    eventually(lambda: "Let go of the model with the weights mine.pth" in caplog.text, "the model is let go")
    build_acme()
    after = results_in_a_new_process()
    assert [each["fullPath"] for each in after] == [each["fullPath"] for each in before]
    shuffled(configured, 1)
    runtime.reset()
    build_acme()
    assert results_in_a_new_process() == before


def test_a_worker_keeps_the_weights_that_indexes_need_and_removes_others(configured: Path, settings: Any) -> None:
    configured.write_bytes(b"weights")
    weights = runtime.configured_weights()
    assert weights is not None
    embedder = FakeEmbedder()
    embedder.passport = weights.passport
    runtime.use(embedder)
    build_acme()
    kept = Path(settings.EMBEDDINGS_DIR) / ".weights"
    (copy,) = kept.glob("*.pth")
    assert copy.read_bytes() == b"weights"
    shutil.rmtree(kept)  # as a release before left it
    look_after_companies()
    assert list(kept.glob("*.pth")) == [copy]
    stray = kept / f"{'0' * 64}.pth"
    shutil.copy(copy, stray)
    shutil.copy(copy.with_suffix(".json"), stray.with_suffix(".json"))
    os.utime(stray, (0, 0))
    look_after_companies()
    assert list(kept.glob("*.pth")) == [copy]


def test_weights_of_which_only_a_damaged_copy_is_left_are_missing(settings: Any, tmp_path: Path) -> None:
    settings.WEIGHTS = str(tmp_path / "mine.pth")
    Path(settings.WEIGHTS).write_bytes(b"weights")
    passport = runtime.configured_model()
    assert passport
    runtime.keep_weights(passport)
    Path(settings.WEIGHTS).write_bytes(b"other weights")
    assert runtime.missing_weights(passport) == ""
    (copy,) = (Path(settings.EMBEDDINGS_DIR) / ".weights").glob("*.pth")
    copy.write_bytes(b"damaged")
    assert str(passport) in runtime.missing_weights(passport)


def test_weights_are_found_where_the_folder_of_downloads_may_not_be_looked_into(settings: Any) -> None:
    settings.TORCH_HOME = Path(settings.EMBEDDINGS_DIR) / ("x" * 300)  # no disk has it, and root may look everywhere
    builtin = builtin_weights().passport
    assert runtime.find_passport(builtin.fingerprint) == builtin
