"""The model in torch: its transform beside torchvision's own, its vectors, and what goes wrong without weights."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from search.engine.errors import DeviceUnavailable, WeightsUnavailable
from search.engine.model.embedder import Embedder
from search.engine.model.transform import TRANSFORMS, Transform
from search.engine.model.weights import BUILTIN, BUILTIN_CARD, BUILTIN_FILE, ENTRY_FILES, builtin_weights, find_weights
from tests.conftest import NO_NETWORK, TRAINED

pytestmark = pytest.mark.slow  # torch takes seconds to import


@pytest.fixture(scope="module")
def torch_model() -> Any:
    from search.engine.model import torch_model  # late: other tests are collected without torch

    return torch_model


@pytest.fixture(scope="module", params=TRAINED)
def weights(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def trained(torch_model: Any, weights: str) -> Any:
    return torch_model.load_embedder(weights, device="cpu")


@pytest.fixture(scope="module")
def state(torch_model: Any) -> dict[str, Any]:
    """Return a state_dict of the right shape with numbers of no worth."""
    torch_model.torch.manual_seed(1)
    weights: dict[str, Any] = torch_model.mobilenet_v3_large(weights=None).state_dict()
    return weights


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def entries(torch_model: Any) -> Any:
    return torch_model.torchvision.models.MobileNet_V3_Large_Weights


# The transform


@pytest.mark.parametrize(
    "size", [(256, 256), (640, 427), (427, 640), (1000, 31), (31, 1000), (8, 8), (1, 3), (257, 255)]
)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_is_torchvisions_but_for_rounding(torch_model: Any, name: str, size: tuple[int, int]) -> None:
    image = noise(*size)
    expected = entries(torch_model)[name].transforms()(image).numpy().transpose(1, 2, 0)  # [side, side, 3]
    transform = TRANSFORMS[name]
    pixels = transform.apply(image)
    theirs = (expected * np.array(transform.std) + np.array(transform.mean)) * 255
    apart = np.abs(pixels - theirs.round())
    assert apart.max() <= 2
    assert np.mean(apart > 0) < 0.05  # of noise; of a photograph a thousandth


def test_there_is_a_transform_for_each_of_torchvisions_entries(torch_model: Any) -> None:
    theirs = {}
    for entry in entries(torch_model):
        preset = entry.transforms()
        (resize,), (crop,) = preset.resize_size, preset.crop_size
        theirs[entry.name] = Transform(resize, crop, tuple(preset.mean), tuple(preset.std))
    assert theirs == TRANSFORMS


# Vectors


def test_vectors_are_960_floats_of_unit_length(trained: Embedder) -> None:
    vectors = trained.embed([trained.prepare(noise(300, 200)), trained.prepare(noise(64, 64))])
    assert (vectors.shape, vectors.dtype) == ((2, 960), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_vectors_are_those_of_torchvisions_features_and_pool(trained: Any, weights: str, torch_model: Any) -> None:
    from torchvision.transforms._presets import ImageClassification

    torch, image = torch_model.torch, noise(300, 200)
    model = torch_model.mobilenet_v3_large(weights=None)
    file = BUILTIN_FILE if weights == BUILTIN else weights
    keys = model.load_state_dict(torch.load(file, weights_only=True), strict=False)  # builtin.pth has no classifier
    assert not keys.unexpected_keys
    assert {key.partition(".")[0] for key in keys.missing_keys} <= {"classifier"}
    model.eval()
    preset = ImageClassification(crop_size=trained.transform.crop_size, resize_size=trained.transform.resize_size)
    pixels = preset(image)[None]
    with torch.inference_mode():
        pooled = model.avgpool(model.features(pixels)).flatten().numpy()  # [960]
    (vector,) = trained.embed([trained.prepare(image)])
    np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=1e-5)


def test_a_batch_and_single_pictures_give_the_same(trained: Embedder) -> None:
    pixels = [trained.prepare(noise(100 + n, 90)) for n in range(4)]
    alone = np.concatenate([trained.embed([one]) for one in pixels])
    np.testing.assert_allclose(trained.embed(pixels), alone, atol=1e-5)


def test_threads_give_the_same(trained: Embedder) -> None:
    images = [noise(100 + n, 90) for n in range(4)]

    def embed(image: Image.Image) -> Any:
        return trained.embed([trained.prepare(image)])[0]

    expected = [embed(image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        np.testing.assert_allclose(list(threads.map(embed, images)), expected, atol=1e-5)


def test_a_state_dict_without_a_classifier_makes_the_same_vectors(
    torch_model: Any, state: dict[str, Any], tmp_path: Path
) -> None:
    torch_model.torch.save(state, tmp_path / "whole.pth")
    features = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    torch_model.torch.save(features, tmp_path / "features.pth")
    whole, without = (
        torch_model.load_embedder(str(tmp_path / f"{n}.pth"), device="cpu") for n in ("whole", "features")
    )
    pixels = [whole.prepare(noise(40, 40))]
    np.testing.assert_array_equal(whole.embed(pixels), without.embed(pixels))


def test_the_built_in_weights_are_those_that_their_card_tells_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = json.loads(BUILTIN_CARD.read_text())
    assert hashlib.sha256(BUILTIN_FILE.read_bytes()).hexdigest() == card["sha256"]
    assert builtin_weights().passport.weights == BUILTIN

    damaged = tmp_path / "builtin.pth"
    damaged.write_bytes(BUILTIN_FILE.read_bytes()[:-1])
    monkeypatch.setattr("search.engine.model.weights.BUILTIN_FILE", damaged)
    with pytest.raises(WeightsUnavailable, match="is damaged"):
        builtin_weights.__wrapped__()


# Fingerprints


def test_fingerprint_is_that_of_the_weights_and_the_transform(
    torch_model: Any, state: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(path: Path) -> str:
        text: str = torch_model.load_embedder(str(path), device="cpu").passport.fingerprint
        return text

    first, copy, other = (tmp_path / name for name in ("first.pth", "copy.pth", "other.pth"))
    torch_model.torch.save(state, first)
    copy.write_bytes(first.read_bytes())
    torch_model.torch.save({**state, "classifier.3.bias": state["classifier.3.bias"] + 1}, other)
    before = fingerprint(first)
    assert fingerprint(copy) == before
    assert fingerprint(other) != before

    monkeypatch.setitem(TRANSFORMS, "IMAGENET1K_V1", replace(TRANSFORMS["IMAGENET1K_V1"], resize_size=232))
    assert fingerprint(first) != before


def test_a_weights_file_is_called_by_its_name(torch_model: Any, state: dict[str, Any], tmp_path: Path) -> None:
    torch_model.torch.save(state, tmp_path / "ours.pth")
    assert torch_model.load_embedder(str(tmp_path / "ours.pth"), device="cpu").passport.weights == "ours.pth"


# What goes wrong


@pytest.fixture(params=["torch", "ONNX Runtime"])
def load(request: pytest.FixtureRequest, torch_model: Any, tmp_path: Path) -> Callable[[Path], object]:
    """Return how weights are loaded to run in torch, or exported to run in ONNX Runtime."""
    if request.param == "torch":
        return lambda path: torch_model.load_embedder(str(path), device="cpu")
    from search.engine.model import export

    return lambda path: export.export(find_weights(str(path), hub=tmp_path), cache=tmp_path)


def test_weights_that_are_missing_say_what_to_give(torch_model: Any, tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailable, match=r"missing\.pth.*neither a file.*give the path of a mobilenet_v3"):
        torch_model.load_embedder(str(tmp_path / "missing.pth"))


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half a zip"])
def test_a_damaged_weights_file_is_named_with_the_way_out(
    load: Callable[[Path], object], tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsUnavailable, match=rf"(?s){path} cannot be read .*: replace it"):
        load(path)


def test_a_truncated_weights_file_is_refused(
    torch_model: Any, load: Callable[[Path], object], state: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    torch_model.torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsUnavailable, match=r"weights\.pth cannot be read"):
        load(path)


def test_weights_of_another_model_are_refused(
    torch_model: Any, load: Callable[[Path], object], state: dict[str, Any], tmp_path: Path
) -> None:
    tensor = torch_model.torch.zeros(3)
    foreign: list[Any] = [
        {"layer1.weight": tensor},
        {**state, "extra.weight": tensor},
        {**state, "epoch": 3},
        {**state, "features.0.0.weight": tensor},
        {name: value for name, value in state.items() if "features.16" not in name},
        {name: value for name, value in state.items() if "classifier.3" not in name},
        [tensor],
        tensor,
        {"state_dict": state},
    ]
    for number, content in enumerate(foreign):
        path = tmp_path / f"foreign{number}.pth"
        torch_model.torch.save(content, path)
        with pytest.raises(WeightsUnavailable, match=rf"{path.name} are not a mobilenet_v3_large state_dict"):
            load(path)


def test_weights_that_would_run_code_are_refused(
    torch_model: Any, load: Callable[[Path], object], tmp_path: Path
) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    torch_model.torch.save({"weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(WeightsUnavailable):
        load(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def own_cache(torch_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give torch an empty cache of its own and no network; return where it keeps weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setenv("HTTPS_PROXY", NO_NETWORK)
    monkeypatch.setenv("https_proxy", NO_NETWORK)
    return tmp_path / "torch/hub/checkpoints"


@pytest.mark.parametrize("name", ENTRY_FILES)
def test_an_unreachable_download_names_the_file_where_from_and_where_to(
    torch_model: Any, own_cache: Path, name: str
) -> None:
    url = entries(torch_model)[name].url
    file = url.rpartition("/")[2]
    with pytest.raises(WeightsUnavailable) as caught:
        torch_model.load_embedder(name)
    message = str(caught.value)
    for part in (file, url, str(own_cache / file), "or set IMAGESEARCH_WEIGHTS=builtin", "Connection refused"):
        assert part in message
    assert not list(own_cache.glob("*"))


def test_a_file_put_into_the_cache_is_used_without_a_network(
    torch_model: Any, own_cache: Path, state: dict[str, Any]
) -> None:
    own_cache.mkdir(parents=True)
    torch_model.torch.save(state, own_cache / ENTRY_FILES["IMAGENET1K_V1"])
    assert torch_model.load_embedder("IMAGENET1K_V1", device="cpu").passport.weights == "IMAGENET1K_V1"


def test_a_gpu_that_is_not_there_is_said(torch_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(DeviceUnavailable, match="IMAGESEARCH_DEVICE=cuda"):
        torch_model.load_embedder(BUILTIN, device="cuda")
