"""MobileNetV3-Large in torch. The only module that imports torch and torchvision; import it late, it takes seconds."""

import copy
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from search.engine.errors import DeviceUnavailable, WeightsUnavailable
from search.engine.model.downloads import download
from search.engine.model.preparation import MIN_DECODED_SIDE, PREPARATION
from search.engine.model.probes import probe_pictures
from search.engine.model.transform import Pixels, Transform
from search.engine.model.weights import Weights, find_weights
from search.engine.vectors import Vectors, unit_length

logger = logging.getLogger(__name__)

_ON_A_CPU, _ON_A_GPU = 4, 1024  # pictures a run; a GPU idles unless they are many
_HALF_AGREES = 0.9999  # cosine between half precision and float32, of every picture tried


def _import_torchvision() -> Any:
    """Return torchvision, also beside a CPU-only torch.

    torchvision's wheel links its C++ operators to CUDA. Without CUDA's libraries they do not load and the import
    fails on the missing schemas of two of them, which nothing here calls: declared first, it succeeds.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _declared_operators.define(schema)
        import torchvision
    return torchvision


_declared_operators = torch.library.Library("torchvision", "FRAGMENT")
torchvision = _import_torchvision()
from torchvision.models import mobilenet_v3_large  # noqa: E402
from torchvision.ops.misc import Conv2dNormActivation  # noqa: E402


class TorchEmbedder:
    """MobileNetV3-Large up to its average pool; see Embedder. Never changes once made, so threads share it."""

    def __init__(self, weights: Weights, device: str):
        self.passport = weights.passport
        self.libraries = {"torch": str(torch.__version__)}
        self.min_side, self.preparation = MIN_DECODED_SIDE, PREPARATION
        self.transform = weights.transform
        self._device = _device(device)
        self.pictures_a_run = _ON_A_CPU if self._device.type == "cpu" else _ON_A_GPU
        self._network = _Network(_model(weights), weights.transform).eval().to(self._device)
        if self._device.type == "cuda":
            self._halve_if_it_agrees()

    def prepare(self, image: Image.Image) -> Pixels:
        return self.transform.apply(image)

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        pixels = torch.from_numpy(np.stack(batch)).to(self._device)
        with torch.inference_mode():
            pooled = self._network(pixels)  # [N, 960]
        return unit_length(pooled.cpu().numpy())

    def _halve_if_it_agrees(self) -> None:
        pictures = list(probe_pictures(self.transform))
        exact, network = self.embed(pictures), self._network
        self._network = copy.deepcopy(network).compute_in(torch.float16)
        cosine = np.sum(exact * self.embed(pictures), axis=1).min()
        if not cosine >= _HALF_AGREES:  # also where it is not a number
            logger.warning("Half precision differs from float32 (cosine %.4f) and is not used", cosine)
            self._network = network


class _Network(nn.Module):
    """Normalisation, the features and the average pool: uint8 [N, side, side, 3] to float32 [N, 960]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, features: nn.Module, transform: Transform) -> None:
        super().__init__()
        mean, std = torch.tensor(transform.mean), torch.tensor(transform.std)
        self.register_buffer("scale", (1 / (255 * std)).view(1, 3, 1, 1))
        self.register_buffer("shift", (-mean / std).view(1, 3, 1, 1))
        self.features = features
        self._type = torch.float32

    def compute_in(self, kind: torch.dtype) -> "_Network":
        self.features.to(kind)
        self._type = kind
        return self

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        normalised = pixels.permute(0, 3, 1, 2).to(torch.float32) * self.scale + self.shift  # [N, 3, side, side]
        features: torch.Tensor = self.features(normalised.to(self._type))  # [N, 960, 7, 7]
        return features.to(torch.float32).mean((2, 3))


def load_embedder(weights: str, *, device: str = "auto", hub: Path | None = None) -> TorchEmbedder:
    """Return the embedder of a torchvision weights entry, of BUILTIN or of a state_dict's path.

    An entry is downloaded once into hub (torch's own folder) and its hash checked.
    Raises WeightsUnavailable, whose message says which file is wanted, from where, and how to provide it
    without a network, and DeviceUnavailable.
    """
    hub = hub or Path(torch.hub.get_dir())
    found = find_weights(weights, hub=hub)
    if found is None:
        download(weights, hub=hub)
        found = find_weights(weights, hub=hub)
    assert found is not None
    return TorchEmbedder(found, device)


def sees_gpu() -> bool:
    return torch.cuda.is_available()


def read_arrays(path: Path) -> dict[str, Any]:
    """Return what a weights file holds by name, tensors as arrays; nothing if it is not a dict.

    Raises WeightsUnavailable.
    """
    state = _read_state(path)
    if not isinstance(state, dict):
        return {}
    return {name: _array(value) if isinstance(value, torch.Tensor) else value for name, value in state.items()}


def _array(tensor: torch.Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().float().numpy()
    return array


def _read_state(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its pickle, zip and file readers raise
        raise WeightsUnavailable(
            f"The weights file {path} cannot be read as a state_dict of tensors ({type(error).__name__}): replace it"
        ) from error


def _model(weights: Weights) -> nn.Module:
    classifier = mobilenet_v3_large(weights=None)
    try:
        classifier.load_state_dict(_with_some_classifier(_read_state(weights.path), classifier))
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise WeightsUnavailable(
            f"The weights {weights.passport.weights} are not a mobilenet_v3_large state_dict: {reason}"
        ) from error
    return _with_batch_norm_folded(classifier.features.eval())


def _with_some_classifier(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """Return the state with the model's own classifier where it has none: nothing here asks the classifier.

    What a file notes beside its tensors stays behind: it would have load_state_dict ask for more of some files.
    """
    if any(name.startswith("classifier.") for name in state):
        return {**state}
    return {name: value for name, value in model.state_dict().items() if name.startswith("classifier.")} | state


def _with_batch_norm_folded(features: nn.Module) -> nn.Module:
    """Return features with every BatchNorm in the weights of the convolution before it: the same, faster."""
    for block in features.modules():
        if isinstance(block, Conv2dNormActivation) and isinstance(block[1], nn.BatchNorm2d):
            block[0] = fuse_conv_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
    return features


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("IMAGESEARCH_DEVICE=cuda, but torch sees no GPU: install a CUDA build or use cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
