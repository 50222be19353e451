"""The network that is written from a state_dict; test_onnx_model.py compares what it computes with torch."""

from typing import Any

import numpy as np
import onnx
import pytest

from search.engine.model.network import OtherNetwork, network
from search.engine.model.state_file import read_state
from search.engine.model.transform import BUILTIN_TRANSFORM
from search.engine.model.weights import BUILTIN_FILE
from search.engine.vectors import DIMENSION

CLASSIFIER = {
    "classifier.0.weight": np.zeros((1280, 960), np.float32),
    "classifier.0.bias": np.zeros(1280, np.float32),
    "classifier.3.weight": np.zeros((1000, 1280), np.float32),
    "classifier.3.bias": np.zeros(1000, np.float32),
}


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return read_state(BUILTIN_FILE)


@pytest.fixture(scope="module")
def written(state: dict[str, Any]) -> bytes:
    return network(state, BUILTIN_TRANSFORM)


def test_it_is_sound_and_takes_any_number_of_pictures(written: bytes) -> None:
    model = onnx.load_from_string(written)
    onnx.checker.check_model(model, full_check=True)
    ((pixels,), (pooled,)) = model.graph.input, model.graph.output
    assert _shape(pixels) == ["pictures", 224, 224, 3]
    assert _shape(pooled) == ["pictures", DIMENSION]


def _shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def test_what_no_vector_depends_on_may_be_there_or_not(state: dict[str, Any], written: bytes) -> None:
    assert network(state | CLASSIFIER, BUILTIN_TRANSFORM) == written
    assert any("num_batches_tracked" in name for name in state)
    without = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    assert network(without, BUILTIN_TRANSFORM) == written


def test_equal_layers_are_written_once(state: dict[str, Any], written: bytes) -> None:
    first, second = (f"features.{block}.block.2.fc1.weight" for block in (14, 15))
    shorter = network(state | {second: state[first]}, BUILTIN_TRANSFORM)
    assert len(shorter) < len(written) - 4 * state[first].size + 100


@pytest.mark.parametrize("name", ["features.0.0.weight", "features.7.block.1.1.running_var", "features.16.1.bias"])
def test_a_tensor_that_is_missing_is_named(state: dict[str, Any], name: str) -> None:
    rest = {each: value for each, value in state.items() if each != name}
    with pytest.raises(OtherNetwork, match=f"^{name} is missing$"):
        network(rest, BUILTIN_TRANSFORM)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("features.0.0.weight", np.zeros((16, 3, 3, 1))),
        ("features.1.block.0.1.weight", np.zeros(1)),  # which NumPy would spread over the channels
        ("features.4.block.2.fc1.bias", np.zeros((24, 1))),
        ("features.16.1.bias", 3),
        ("classifier.3.bias", np.zeros(10)),
    ],
)
def test_a_tensor_of_another_shape_is_named_with_the_right_one(state: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(OtherNetwork, match=rf"^{name} is not a tensor of the shape \(\d+"):
        network(state | CLASSIFIER | {name: value}, BUILTIN_TRANSFORM)


@pytest.mark.parametrize("extra", ["layer1.weight", "features.17.0.weight", "classifier.1.weight"])
def test_what_does_not_belong_there_is_named(state: dict[str, Any], extra: str) -> None:
    with pytest.raises(OtherNetwork, match=f"^{extra} is not of it$"):
        network(state | CLASSIFIER | {extra: np.zeros(3)}, BUILTIN_TRANSFORM)


@pytest.mark.parametrize("missing", CLASSIFIER)
def test_half_a_classifier_is_refused(state: dict[str, Any], missing: str) -> None:
    half = {name: value for name, value in CLASSIFIER.items() if name != missing}
    with pytest.raises(OtherNetwork, match=f"^{missing} is missing$"):
        network(state | half, BUILTIN_TRANSFORM)


@pytest.mark.parametrize(
    ("part", "number"), [("0.weight", np.nan), ("1.running_var", -1), ("1.weight", 3e38)], ids=["none", "root", "large"]
)
def test_numbers_that_make_no_vector_are_refused(state: dict[str, Any], part: str, number: float) -> None:
    name = f"features.3.block.2.{part}"
    hostile = np.full(state[name].shape, number, np.float32)
    with pytest.raises(OtherNetwork, match=r"^features\.3\.block\.2\.(weight|bias) holds numbers that are not finite$"):
        network(state | {name: hostile}, BUILTIN_TRANSFORM)
