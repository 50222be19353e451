"""MobileNetV3-Large up to its average pool, as ONNX, from a state_dict of torchvision's mobilenet_v3_large.

Imports onnx, which is for the process that writes the network and not for those that run it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from search.engine.model.transform import Transform
from search.engine.vectors import DIMENSION

_OPSET, _IR_VERSION = 20, 9
_EPSILON = 0.001  # of torchvision's BatchNorm
_CLASSIFIER = {"0.weight": (1280, 960), "0.bias": (1280,), "3.weight": (1000, 1280), "3.bias": (1000,)}


class OtherNetwork(Exception):
    """A state_dict of another network. Says where it differs."""


@dataclass(frozen=True, slots=True)
class _Block:
    """An inverted residual; the widths are in channels."""

    width: int  # of what comes in
    kernel: int
    expanded: int
    out: int
    squeezed: int  # 0: without squeeze and excitation
    activation: str
    stride: int


_BLOCKS = [
    _Block(16, 3, 16, 16, 0, "Relu", 1),
    _Block(16, 3, 64, 24, 0, "Relu", 2),
    _Block(24, 3, 72, 24, 0, "Relu", 1),
    _Block(24, 5, 72, 40, 24, "Relu", 2),
    _Block(40, 5, 120, 40, 32, "Relu", 1),
    _Block(40, 5, 120, 40, 32, "Relu", 1),
    _Block(40, 3, 240, 80, 0, "HardSwish", 2),
    _Block(80, 3, 200, 80, 0, "HardSwish", 1),
    _Block(80, 3, 184, 80, 0, "HardSwish", 1),
    _Block(80, 3, 184, 80, 0, "HardSwish", 1),
    _Block(80, 3, 480, 112, 120, "HardSwish", 1),
    _Block(112, 3, 672, 112, 168, "HardSwish", 1),
    _Block(112, 5, 672, 160, 168, "HardSwish", 2),
    _Block(160, 5, 960, 160, 240, "HardSwish", 1),
    _Block(160, 5, 960, 160, 240, "HardSwish", 1),
]


@np.errstate(all="ignore")  # numbers beyond float32 are refused as such
def network(state: Mapping[str, Any], transform: Transform) -> bytes:
    """Return the network as ONNX: "pixels" uint8 [N, side, side, 3] to "pooled" float32 [N, 960], any N.

    state: arrays by their torchvision names, with or without those of the classifier. Raises OtherNetwork.
    """
    graph = _Graph(state)
    features = graph.features(graph.normalised("pixels", transform))  # [N, 960, 7, 7]
    graph.require_nothing_left()
    pooled = graph.node("GlobalAveragePool", features)
    graph.nodes.append(helper.make_node("Flatten", [pooled], ["pooled"]))
    side = transform.crop_size
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mobilenet_v3_large",
            [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["pictures", side, side, 3])],
            [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["pictures", DIMENSION])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    return bytes(model.SerializeToString())


class _Graph:
    """What is written so far. Values are known by name; methods that add to them return the name of the result.

    Each array of the state is taken out when it is used: what is left does not belong to this network.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._state = dict(state)
        self._names: dict[tuple[tuple[int, ...], bytes], str] = {}  # of constants, by shape and numbers

    def normalised(self, pixels: str, transform: Transform) -> str:
        mean, std = (np.array(each).reshape(1, 3, 1, 1) for each in (transform.mean, transform.std))
        planes = self.node("Cast", self.node("Transpose", pixels, perm=[0, 3, 1, 2]), to=TensorProto.FLOAT)
        scaled = self.node("Mul", planes, self._constant("scale", 1 / (255 * std)))
        return self.node("Add", scaled, self._constant("shift", -mean / std))

    def features(self, planes: str) -> str:
        value = self._layer("features.0", planes, shape=(16, 3, 3, 3), stride=2, activation="HardSwish")
        for number, block in enumerate(_BLOCKS, start=1):
            value = self._block(f"features.{number}", value, block)
        return self._layer("features.16", value, shape=(DIMENSION, 160, 1, 1), activation="HardSwish")

    def require_nothing_left(self) -> None:
        """Raise OtherNetwork unless the classifier, whole or not there at all, is what was not used."""
        if any(str(name).startswith("classifier.") for name in self._state):
            for name, shape in _CLASSIFIER.items():
                self._take(f"classifier.{name}", shape)
        if self._state:
            raise OtherNetwork(f"{next(iter(self._state))} is not of it")

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        result = f"{len(self.nodes)} {kind}"
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result

    def _block(self, name: str, before: str, block: _Block) -> str:
        value, parts = before, (f"{name}.block.{number}" for number in count())
        if block.expanded != block.width:
            shape = (block.expanded, block.width, 1, 1)
            value = self._layer(next(parts), value, shape=shape, activation=block.activation)
        shape = (block.expanded, 1, block.kernel, block.kernel)
        value = self._layer(next(parts), value, shape=shape, stride=block.stride, activation=block.activation)
        if block.squeezed:
            value = self._excited(next(parts), value, block)
        value = self._layer(next(parts), value, shape=(block.out, block.expanded, 1, 1))
        is_residual = block.stride == 1 and block.out == block.width
        return self.node("Add", value, before) if is_residual else value

    def _excited(self, name: str, value: str, block: _Block) -> str:
        pooled = self.node("GlobalAveragePool", value)
        squeezed = self._biased(f"{name}.fc1", pooled, shape=(block.squeezed, block.expanded, 1, 1))
        excited = self._biased(f"{name}.fc2", self.node("Relu", squeezed), shape=(block.expanded, block.squeezed, 1, 1))
        return self.node("Mul", self.node("HardSigmoid", excited, alpha=1 / 6, beta=0.5), value)

    def _biased(self, name: str, value: str, *, shape: tuple[int, ...]) -> str:
        weight, bias = self._take(f"{name}.weight", shape), self._take(f"{name}.bias", shape[:1])
        return self._convolution(name, value, weight, bias)

    def _layer(
        self, name: str, value: str, *, shape: tuple[int, ...], stride: int = 1, activation: str | None = None
    ) -> str:
        """Add a convolution with its BatchNorm folded into it, and the activation."""
        weight = self._take(f"{name}.0.weight", shape)
        gain, offset, mean, variance = (
            self._take(f"{name}.1.{part}", shape[:1]) for part in ("weight", "bias", "running_mean", "running_var")
        )
        self._state.pop(f"{name}.1.num_batches_tracked", None)  # for training alone
        scale = gain / np.sqrt(variance + _EPSILON)
        weight, bias = weight * scale.reshape(-1, 1, 1, 1), offset - mean * scale
        value = self._convolution(name, value, weight, bias, stride=stride)
        return self.node(activation, value) if activation else value

    def _convolution(self, name: str, value: str, weight: np.ndarray, bias: np.ndarray, *, stride: int = 1) -> str:
        out, inward, kernel, _ = weight.shape
        return self.node(
            "Conv",
            value,
            self._constant(f"{name}.weight", weight),
            self._constant(f"{name}.bias", bias),
            group=out if inward == 1 else 1,
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )

    def _take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array as torch would have it, for computing with more digits."""
        value = self._state.pop(name, None)
        if value is None:
            raise OtherNetwork(f"{name} is missing")
        if not isinstance(value, np.ndarray) or value.shape != shape:
            raise OtherNetwork(f"{name} is not a tensor of the shape {shape}")
        return value.astype(np.float32).astype(np.float64)

    def _constant(self, name: str, value: np.ndarray) -> str:
        """Add float32 numbers; those of another constant, as in layers that were never trained, take its name."""
        numbers = value.astype(np.float32)
        if not np.isfinite(numbers).all():
            raise OtherNetwork(f"{name} holds numbers that are not finite")
        known = self._names.setdefault((numbers.shape, numbers.tobytes()), name)
        if known == name:
            self.constants.append(numpy_helper.from_array(numbers, name))
        return known
