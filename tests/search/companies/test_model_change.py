"""What the demo does without the configured weights, and when they come; what no other company does."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from search import runtime
from search.companies.model_change import move_demo, warm_up_now_or_later
from search.engine.model.passport import ModelPassport
from search.engine.model.weights import builtin_weights, entry_path
from search.tasks import carry_out_build
from tenants.models import Company
from tests.conftest import NO_NETWORK, paint, picture
from tests.support.fakes import RED, FakeEmbedder

pytestmark = pytest.mark.django_db

BUILTIN = builtin_weights().passport


@pytest.fixture(autouse=True)
def wanted(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let there be no weights but the built-in ones, and no network; return where the configured ones belong."""
    settings.WEIGHTS, settings.DEVICE = "IMAGENET1K_V1", "cpu"
    settings.TORCH_HOME, settings.CACHE_DIR = tmp_path / "torch", tmp_path / "cache"
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, NO_NETWORK)
    runtime.use_as_builtin(fake(BUILTIN))
    return entry_path("IMAGENET1K_V1", hub=tmp_path / "torch/hub")


def fake(passport: ModelPassport) -> FakeEmbedder:
    embedder = FakeEmbedder()
    embedder.passport = passport
    return embedder


def build(name: str) -> None:
    paint(Company(name=name).image_directory / "red.png", RED)
    call_command("build_embeddings", company=name)


def bring_weights(wanted: Path) -> None:
    """Put a file where the configured weights belong, and load what it would be."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_bytes(b"weights")
    weights = runtime.configured_weights()
    assert weights is not None
    runtime.use(fake(weights.passport))


def weights_of(client: Client, company: str) -> str:
    weights: str = client.get(f"/api/stats/{company}").json()["stats"]["index_info"]["weights"]
    return weights


def status_of_search(client: Client, company: str) -> int:
    return client.post(f"/api/search/{company}", {"image": picture(RED)}).status_code


def test_the_demo_falls_back_on_the_built_in_weights_in_one_line(
    client: Client, wanted: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build("demo")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert "built-in weights" in line
    assert f"put it at {wanted}" in line
    assert "\n" not in line
    assert (weights_of(client, "demo"), status_of_search(client, "demo")) == ("builtin", 200)


def test_no_other_company_does_and_the_way_out_is_told() -> None:
    with pytest.raises(CommandError, match=r"could not be downloaded .* or set IMAGESEARCH_WEIGHTS=builtin$"):
        build("acme")


def test_every_company_has_them_where_they_are_configured(client: Client, settings: Any) -> None:
    settings.WEIGHTS = "builtin"
    runtime.use(fake(BUILTIN))
    build("acme")
    assert (weights_of(client, "acme"), status_of_search(client, "acme")) == ("builtin", 200)


def test_the_demo_moves_once_the_configured_weights_are_there(client: Client, wanted: Path) -> None:
    build("demo")
    demo = Company.objects.get()
    move_demo()
    assert not demo.builds.active().exists()
    bring_weights(wanted)
    move_demo()
    move_demo()
    queued = demo.builds.active().get()
    assert status_of_search(client, "demo") == 200  # until then
    carry_out_build.func(queued.pk)
    assert (weights_of(client, "demo"), status_of_search(client, "demo")) == ("IMAGENET1K_V1", 200)
    move_demo()
    assert not demo.builds.active().exists()


def test_only_the_demo_moves(client: Client, settings: Any, wanted: Path) -> None:
    settings.WEIGHTS = "builtin"
    runtime.use(fake(BUILTIN))
    build("acme")
    settings.WEIGHTS = "IMAGENET1K_V1"
    bring_weights(wanted)
    move_demo()
    assert not Company.objects.get().builds.active().exists()
    assert status_of_search(client, "acme") == 200  # its index tells which model it needs


def test_a_demo_of_the_untrained_weights_of_earlier_versions_is_made_anew_by_prepare(client: Client) -> None:
    runtime.use(fake(ModelPassport("untrained", "0" * 64)))
    build("demo")
    runtime.use(fake(BUILTIN))
    assert status_of_search(client, "demo") == 503
    call_command("prepare")
    assert (weights_of(client, "demo"), status_of_search(client, "demo")) == ("builtin", 200)


def test_a_start_with_the_same_weights_builds_nothing(wanted: Path, caplog: pytest.LogCaptureFixture) -> None:
    build("demo")
    caplog.clear()
    call_command("prepare")
    assert Company.objects.get().builds.count() == 1
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 1


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what a server's process does when it starts, as one that waits for weights in vain."""
    monkeypatch.setattr(runtime, "_lives_long", True)
    return lambda: warm_up_now_or_later(look_again_seconds=1000)


def test_ready_with_the_built_in_weights_while_only_the_demo_is_searched(
    client: Client, starts: Callable[[], None]
) -> None:
    build("demo")
    starts()
    assert client.get("/api/health/ready").status_code == 200
    runtime.use(fake(ModelPassport("IMAGENET1K_V1", "1" * 64)))
    build("acme")
    runtime.reset()
    runtime.use_as_builtin(fake(BUILTIN))
    starts()
    assert client.get("/api/health/ready").json()["error"] == "Not ready: model"


def test_the_next_process_neither_tries_again_nor_repeats_it(
    starts: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    starts()
    assert [r.levelname for r in caplog.records if "could not be downloaded" in r.getMessage()] == ["ERROR"]
    caplog.clear()
    starts()
    assert "Downloading" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
