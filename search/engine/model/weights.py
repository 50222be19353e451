"""Which weights are on this machine, and the fingerprint of what they make; without torch, which takes seconds."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from search.engine import durable
from search.engine.errors import WeightsUnavailable
from search.engine.model.names import BUILTIN, ENTRY_FILES, NAMES
from search.engine.model.passport import ModelPassport
from search.engine.model.transform import BUILTIN_TRANSFORM, TRANSFORMS, Transform
from search.engine.vectors import DIMENSION

BUILTIN_FILE = Path(__file__).with_name("builtin.pth")
BUILTIN_CARD = BUILTIN_FILE.with_suffix(".json")  # what they are, and their hash
COPY = re.compile(r"[0-9a-f]{64}\.pth")  # of weights, by their fingerprint; see kept.py


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that are at hand, with what belongs to them."""

    path: Path  # of a state_dict
    passport: ModelPassport
    transform: Transform


def find_weights(name: str, *, hub: Path) -> Weights | None:
    """Return the weights of one of NAMES or of a state_dict's path; None: an entry to download.

    hub: torch's hub folder, which holds the downloads. Reads the file once, for its hash.
    Raises WeightsUnavailable for any other name and for a file that cannot be read.
    """
    if name == BUILTIN:
        return builtin_weights()
    if name in ENTRY_FILES:
        path = entry_path(name, hub=hub)
        return _weights(path, label=name, transform=TRANSFORMS[name]) if _is_file(path) else None
    if _is_file(Path(name)):
        return _of_file(Path(name))
    raise WeightsUnavailable(
        f"IMAGESEARCH_WEIGHTS={name!r} is neither a file nor one of {', '.join(NAMES)}: "
        "give the path of a mobilenet_v3_large state_dict or one of these names"
    )


@cache
def builtin_weights() -> Weights:
    """Return the weights that come with the code. Raises WeightsUnavailable where their file is not as it was made."""
    digest = _digest(BUILTIN_FILE)
    if digest != json.loads(BUILTIN_CARD.read_text())["sha256"]:
        raise WeightsUnavailable(f"The weights file {BUILTIN_FILE} is damaged: take it from the repository again")
    passport = ModelPassport(BUILTIN, _fingerprint(digest, BUILTIN_TRANSFORM))
    return Weights(BUILTIN_FILE, passport, BUILTIN_TRANSFORM)


def entry_path(name: str, *, hub: Path) -> Path:
    """Return where torch keeps the download of a torchvision entry."""
    return hub / "checkpoints" / ENTRY_FILES[name]


def entries_at_hand(*, hub: Path) -> list[str]:
    """Return the torchvision entries that are already downloaded; none where hub may not be looked into."""
    return [name for name in ENTRY_FILES if _is_file(entry_path(name, hub=hub))]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # it may not be looked for
        return False


def _of_file(path: Path) -> Weights:
    if COPY.fullmatch(path.name) and (card := read_card(path)):
        return _weights(path, label=card[0], transform=card[1])
    return _weights(path, label=path.name, transform=TRANSFORMS["IMAGENET1K_V1"])


def read_card(copy: Path) -> tuple[str, Transform] | None:
    """Return what is noted beside a copy of weights: what they were called, and the pictures they are meant for."""
    try:
        card = json.loads(copy.with_suffix(".json").read_text())
        resize, crop = (int(card["transform"][name]) for name in ("resize_size", "crop_size"))
        mean, std = (_colour(card["transform"][name]) for name in ("mean", "std"))
        return str(card["weights"]), Transform(resize, crop, mean, std)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _colour(numbers: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, numbers)
    return red, green, blue


def _weights(path: Path, *, label: str, transform: Transform) -> Weights:
    return Weights(path, ModelPassport(label, fingerprint_of(path, transform)), transform)


def fingerprint_of(path: Path, transform: Transform) -> str:
    """Return the fingerprint of the weights in a file. Raises WeightsUnavailable where it cannot be read."""
    return _fingerprint(_digest(path), transform)


def _digest(path: Path) -> str:
    try:
        return durable.sha256(path).hex()
    except OSError as error:
        raise WeightsUnavailable(f"The weights file {path} cannot be read ({error}): replace it") from error


def _fingerprint(weights: str, transform: Transform) -> str:
    # What runs the model is not in it: torch and ONNX Runtime agree far closer than neighbours differ. Nor is the
    # preparation. The 360 was in it when it was part of the transform, and stays: it is in every index.
    meant_for = f"{transform}".removesuffix(")") + ", min_decoded_side=360)"
    return hashlib.sha256(f"mobilenet_v3_large {DIMENSION} {weights} {meant_for}".encode()).hexdigest()
