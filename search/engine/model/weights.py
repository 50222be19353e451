"""Which weights are on this machine, and the fingerprint of what they make; without torch, which takes seconds."""

import hashlib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from search.engine import durable
from search.engine.errors import WeightsUnavailable
from search.engine.model.passport import UNTRAINED, ModelPassport
from search.engine.model.transform import TRANSFORMS, Transform
from search.engine.vectors import DIMENSION

# The files of torchvision's MobileNet_V3_Large_Weights, by entry (a test compares the two).
ENTRY_FILES = {
    "IMAGENET1K_V1": "mobilenet_v3_large-8738ca79.pth",
    "IMAGENET1K_V2": "mobilenet_v3_large-5c1a4163.pth",
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that are at hand, with what belongs to them."""

    path: Path | None  # of a state_dict; None: random numbers from a fixed seed
    passport: ModelPassport
    transform: Transform


def find_weights(name: str, *, hub: Path) -> Weights | None:
    """Return the weights of a torchvision entry, of a state_dict's path or UNTRAINED; None: an entry to download.

    hub: torch's hub folder, which holds the downloads. Reads the file once, for its hash.
    Raises WeightsUnavailable for any other name and for a file that cannot be read.
    """
    if name == UNTRAINED:
        return untrained_weights()
    if name in ENTRY_FILES:
        path = entry_path(name, hub=hub)
        return _weights(path, label=name, transform=TRANSFORMS[name]) if path.is_file() else None
    if Path(name).is_file():
        return _weights(Path(name), label=Path(name).name, transform=TRANSFORMS["IMAGENET1K_V1"])
    raise WeightsUnavailable(
        f"IMAGESEARCH_WEIGHTS={name!r} is neither a file nor a weights entry of torchvision "
        f"({', '.join(ENTRY_FILES)}): "
        "give the path of a mobilenet_v3_large state_dict or the name of an entry"
    )


def untrained_weights() -> Weights:
    transform = TRANSFORMS["IMAGENET1K_V1"]
    fingerprint = _fingerprint(f"seed 0, torch {version('torch')}", transform)
    return Weights(None, ModelPassport(UNTRAINED, fingerprint), transform)


def entry_path(name: str, *, hub: Path) -> Path:
    """Return where torch keeps the download of a torchvision entry."""
    return hub / "checkpoints" / ENTRY_FILES[name]


def entries_at_hand(*, hub: Path) -> list[str]:
    """Return the torchvision entries that are already downloaded."""
    return [name for name in ENTRY_FILES if entry_path(name, hub=hub).is_file()]


def _weights(path: Path, *, label: str, transform: Transform) -> Weights:
    try:
        digest = durable.sha256(path).hex()
    except OSError as error:
        raise WeightsUnavailable(f"The weights file {path} cannot be read ({error}): replace it") from error
    return Weights(path, ModelPassport(label, _fingerprint(digest, transform)), transform)


def _fingerprint(weights: str, transform: Transform) -> str:
    # What runs the model is not in it: torch and ONNX Runtime agree far closer than neighbours differ.
    return hashlib.sha256(f"mobilenet_v3_large {DIMENSION} {weights} {transform}".encode()).hexdigest()
