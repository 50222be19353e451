"""fetch_weights, without a network: what is there is checked, and what is not is said where to put."""

import hashlib
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from search.engine.model import weights
from search.engine.model.weights import entry_path
from tests.conftest import NO_NETWORK


@pytest.fixture(autouse=True)
def hub(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings.WEIGHTS, settings.TORCH_HOME, settings.CACHE_DIR = "IMAGENET1K_V1", tmp_path / "torch", tmp_path / "cache"
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, NO_NETWORK)
    return tmp_path / "torch/hub"


def fetch(*arguments: str) -> str:
    out = StringIO()
    call_command("fetch_weights", *arguments, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("name", ["IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_without_a_network_it_says_where_the_file_belongs(hub: Path, name: str) -> None:
    with pytest.raises(CommandError) as caught:
        fetch(*([] if name == "IMAGENET1K_V1" else [name]))
    assert f"put it at {entry_path(name, hub=hub)}" in str(caught.value)
    assert not list(hub.rglob("*.pth*"))


def test_a_file_carried_over_by_hand_is_checked(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"weights"
    name = f"mobilenet_v3_large-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(weights.ENTRY_FILES, "IMAGENET1K_V1", name)
    path = entry_path("IMAGENET1K_V1", hub=hub)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    assert f"are at {path}" in fetch()
    path.write_bytes(content[:-1])
    with pytest.raises(CommandError, match="is damaged, or another file"):
        fetch()


def test_the_built_in_weights_are_there() -> None:
    assert "The weights builtin" in fetch("builtin")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CommandError, match="neither a file nor one of IMAGENET1K_V1, IMAGENET1K_V2, builtin"):
        fetch("IMAGENET1K_V3")
