"""Copies of the weights that indexes were made with: the file they come from may be overwritten by another.

    <place>/<fingerprint>.pth     as the file was
    <place>/<fingerprint>.json    what the weights were called, and the pictures they are meant for

A copy without its card, or a card without its copy, is none.
"""

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from search.engine import durable
from search.engine.errors import WeightsUnavailable
from search.engine.model.passport import ModelPassport
from search.engine.model.weights import COPY, Weights, fingerprint_of, read_card

_UNFINISHED = ".copying-"


def keep(weights: Weights, place: Path) -> None:
    """Copy weights into place unless they are there. Raises WeightsUnavailable where their file is another by now."""
    copy = kept_path(weights.passport.fingerprint, place)
    if copy.exists() and read_card(copy) and fingerprint_of(copy, weights.transform) == copy.stem:
        os.utime(copy)  # see drop
        return
    place.mkdir(parents=True, exist_ok=True)
    unfinished = place / f"{_UNFINISHED}{secrets.token_hex(8)}"
    try:
        shutil.copyfile(weights.path, unfinished)
        if fingerprint_of(unfinished, weights.transform) != weights.passport.fingerprint:
            raise WeightsUnavailable(
                f"The weights {weights.passport} cannot be kept: {weights.path} is another file now"
            )
        durable.sync(unfinished)
        card = {"weights": weights.passport.weights, "transform": asdict(weights.transform)}
        durable.replace(copy.with_suffix(".json"), json.dumps(card).encode())
        unfinished.replace(copy)
        durable.sync(place)
    finally:
        unfinished.unlink(missing_ok=True)


def take(fingerprint: str, place: Path, *, card: bytes, write: Callable[[Path], object]) -> None:
    """Make what write puts into the file that it is given the copy of the weights of this fingerprint.

    card: what keep() wrote beside it. Raises WeightsUnavailable where they are others, and whatever write raises.
    """
    copy = kept_path(fingerprint, place)
    place.mkdir(parents=True, exist_ok=True)
    unfinished = place / f"{_UNFINISHED}{secrets.token_hex(8)}"
    try:
        write(unfinished)
        durable.replace(copy.with_suffix(".json"), card)
        said = read_card(copy)
        if said is None or fingerprint_of(unfinished, said[1]) != fingerprint:
            raise WeightsUnavailable(f"What is kept as the weights {fingerprint[:12]} are others")
        durable.sync(unfinished)
        unfinished.replace(copy)
        durable.sync(place)
    finally:
        unfinished.unlink(missing_ok=True)


def kept_path(fingerprint: str, place: Path) -> Path:
    """Return where a copy of the weights of this fingerprint lies in place, if there is one."""
    return place / f"{fingerprint}.pth"


def kept_passports(place: Path) -> dict[str, ModelPassport]:
    """Return of which weights there are copies in place, by fingerprint. The cards are read, not the copies."""
    copies = [path for path in place.glob("*.pth") if COPY.fullmatch(path.name)]
    return {copy.stem: ModelPassport(card[0], copy.stem) for copy in copies if (card := read_card(copy))}


def drop(place: Path, *, needed: Collection[str], older_than: float) -> list[str]:
    """Remove the copies of other fingerprints than those needed; return which.

    older_than: seconds; who has just kept weights needs them in a moment.
    """
    dropped = []
    for unfinished in place.glob(f"{_UNFINISHED}*"):
        if _is_older(unfinished, older_than):
            unfinished.unlink(missing_ok=True)
    for fingerprint in kept_passports(place):
        copy = kept_path(fingerprint, place)
        if fingerprint not in needed and _is_older(copy, older_than):
            copy.unlink(missing_ok=True)
            copy.with_suffix(".json").unlink(missing_ok=True)
            dropped.append(fingerprint)
    return dropped


def _is_older(file: Path, seconds: float) -> bool:
    try:
        return time.time() - file.stat().st_mtime >= seconds
    except OSError:
        return False
