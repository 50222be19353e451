"""MobileNetV3-Large in torch. The only module that imports torch and torchvision; import it late, it takes seconds."""

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from search.engine.embedder import DIMENSION, UNTRAINED, ModelPassport, Vectors, unit_length
from search.engine.errors import DeviceUnavailable, WeightsUnavailable
from search.engine.transform import TRANSFORMS, Pixels, Transform

logger = logging.getLogger(__name__)


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
from torchvision.models import MobileNet_V3_Large_Weights, mobilenet_v3_large  # noqa: E402


class TorchEmbedder:
    """MobileNetV3-Large up to its average pool; see Embedder. Never changes once made, so threads share it."""

    def __init__(self, state: dict[str, Any] | None, passport: ModelPassport, transform: Transform, device: str):
        self.passport = passport
        self.libraries = {"torch": str(torch.__version__)}
        self._transform = transform
        self._device = _device(device)
        self._model = _model(state, passport).to(self._device)

    def prepare(self, image: Image.Image) -> Pixels:
        return self._transform.apply(image)

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        pixels = torch.from_numpy(np.stack(batch)).to(self._device)
        with torch.inference_mode():
            pooled = self._model(pixels)  # [N, 960]
        return unit_length(pooled.cpu().numpy())


def load_embedder(weights: str, *, device: str = "auto") -> TorchEmbedder:
    """Return the embedder of a torchvision weights entry or of a state_dict's path.

    An entry is downloaded once, with a progress bar, into torch's cache and its hash checked.
    Raises WeightsUnavailable, whose message says which file is wanted, from where, and how to provide it
    without a network, and DeviceUnavailable.
    """
    if weights in TRANSFORMS:
        entry = MobileNet_V3_Large_Weights[weights]
        path = _fetch(entry)
        return _load(path, label=weights, transform=TRANSFORMS[weights], device=device)
    if Path(weights).is_file():
        return _load(Path(weights), label=Path(weights).name, transform=TRANSFORMS["IMAGENET1K_V1"], device=device)
    raise WeightsUnavailable(
        f"IMAGESEARCH_WEIGHTS={weights!r} is neither a file nor a weights entry of torchvision "
        f"({', '.join(TRANSFORMS)}): "
        "give the path of a mobilenet_v3_large state_dict or the name of an entry"
    )


def load_untrained_embedder(*, device: str = "auto") -> TorchEmbedder:
    """Return an embedder with random weights from a fixed seed: it shows that the service runs, no more."""
    transform = TRANSFORMS["IMAGENET1K_V1"]
    passport = ModelPassport(UNTRAINED, _fingerprint(f"seed 0, torch {torch.__version__}", transform))
    return TorchEmbedder(None, passport, transform, device)


def entries_at_hand() -> list[str]:
    """Return the torchvision weights entries that are already in torch's cache."""
    return [entry.name for entry in MobileNet_V3_Large_Weights if _cached(entry).is_file()]


def _load(path: Path, *, label: str, transform: Transform, device: str) -> TorchEmbedder:
    state = _read_state(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return TorchEmbedder(state, ModelPassport(label, _fingerprint(digest, transform)), transform, device)


def _fetch(entry: Any) -> Path:
    path = _cached(entry)
    if path.is_file():
        return path
    logger.info("Downloading %s to %s", entry.url, path)
    try:
        entry.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, no such page, a full disk; a wrong hash
        raise WeightsUnavailable(
            f"The weights {entry.name} could not be downloaded ({error}). Wanted: {path.name} from {entry.url}. "
            f"Without a network, download it elsewhere and put it at {path}, "
            "or set IMAGESEARCH_WEIGHTS to the path of a mobilenet_v3_large state_dict"
        ) from error
    return path


def _cached(entry: Any) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", entry.url.rpartition("/")[2])


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its pickle, zip and file readers raise
        raise WeightsUnavailable(f"The weights file {path} cannot be read ({error}): provide it anew") from error
    return state


def _model(state: dict[str, Any] | None, passport: ModelPassport) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = mobilenet_v3_large(weights=None)
    if state is not None:
        try:
            classifier.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            reason = str(error).partition("\n")[0]
            raise WeightsUnavailable(
                f"The weights {passport.weights} are not a mobilenet_v3_large state_dict: {reason}"
            ) from error
    return torch.nn.Sequential(classifier.features, classifier.avgpool, torch.nn.Flatten(1)).eval()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailable("IMAGESEARCH_DEVICE=cuda, but torch sees no GPU: install a CUDA build or use cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _fingerprint(weights: str, transform: Transform) -> str:
    return hashlib.sha256(f"mobilenet_v3_large {DIMENSION} {weights} {transform}".encode()).hexdigest()
