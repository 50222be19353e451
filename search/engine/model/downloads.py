"""python -m search.engine.model.downloads NAME HUB: torchvision's weights, downloaded without torch, and checked."""

import hashlib
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path

from search.engine import durable
from search.engine.errors import WeightsUnavailable
from search.engine.model.attempts import WEIGHTS_UNAVAILABLE, StepFailed, once
from search.engine.model.child import end_with_parent
from search.engine.model.weights import ENTRY_FILES, Weights, entry_path, find_weights

URL = "https://download.pytorch.org/models/"

_SILENCE_SECONDS = 20
_BLOCK = 1 << 20


class _Damaged(Exception):
    """A file that is not what its name says."""


def fetch(name: str, *, hub: Path, cache: Path, believed_seconds: float = 0) -> Weights:
    """Return the weights of one of NAMES or of a state_dict's path; a missing entry is downloaded.

    cache and believed_seconds: as in once(), which does it once for the machine. Raises WeightsUnavailable, whose
    message says which file is wanted, from where, and how to provide it without a network; StillUnavailable where that
    was tried a moment ago; LoadingStopped.
    """
    found = find_weights(name, hub=hub)
    if found is not None:
        return found
    try:
        return once(
            __name__,
            name,
            str(hub),
            cache=cache,
            says=f"Downloading {URL}{ENTRY_FILES[name]} to {hub}, once: about 21 MB",
            needs=str(entry_path(name, hub=hub)),
            done=lambda: find_weights(name, hub=hub),
            believed_seconds=believed_seconds,
        )
    except StepFailed as error:
        raise WeightsUnavailable(_message(name, hub, f"the download {error}")) from error
    except OSError:  # without a cache folder, everybody for himself
        download(name, hub=hub)
        return fetch(name, hub=hub, cache=cache)


def download(name: str, *, hub: Path) -> None:
    """Put the file of a torchvision entry, checked, where torch keeps it. Raises WeightsUnavailable."""
    path = entry_path(name, hub=hub)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(path)
    except (OSError, HTTPException, _Damaged) as error:
        raise WeightsUnavailable(_message(name, hub, str(error))) from error


def is_whole(weights: Weights) -> bool:
    """Tell whether the file of a torchvision entry has the SHA-256 that its name begins to tell; others are."""
    if weights.passport.weights not in ENTRY_FILES:
        return True
    return durable.sha256(weights.path).hex().startswith(_wanted_hash(weights.path))


def _download(path: Path) -> None:
    unfinished = path.with_name(f".{path.name}.part")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(URL + path.name, timeout=_SILENCE_SECONDS) as answer, unfinished.open("wb") as file:  # noqa: S310
            while block := answer.read(_BLOCK):
                digest.update(block)
                file.write(block)
            durable.sync(file)
        if not digest.hexdigest().startswith(_wanted_hash(path)):
            raise _Damaged(f"what came has the SHA-256 {digest.hexdigest()[:8]}..., not {_wanted_hash(path)}...")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _wanted_hash(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _message(name: str, hub: Path, reason: str) -> str:
    return (
        f"The weights {name} could not be downloaded ({reason}). "
        f"Wanted: {ENTRY_FILES[name]} from {URL}{ENTRY_FILES[name]}. "
        f"Without a network, download it elsewhere and put it at {entry_path(name, hub=hub)}, "
        "or set IMAGESEARCH_WEIGHTS to the path of a mobilenet_v3_large state_dict, or set IMAGESEARCH_WEIGHTS=builtin"
    )


def main(name: str, hub: str) -> int:
    try:
        download(name, hub=Path(hub))
    except WeightsUnavailable as error:
        sys.stdout.write(str(error))
        return WEIGHTS_UNAVAILABLE
    return 0


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:]))
