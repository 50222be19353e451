"""What a search for duplicates has found, in one file beside the generations of a company.

A line of JSON that says how much follows and what its checksum is, then the arrays as they lie in memory. What is
found there is never needed: of a file that cannot be read, nobody has looked yet.
"""

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.damage import DamageNamed
from search.engine.errors import IndexCorrupt
from search.engine.index.duplicates import PAIR, SEEN, DuplicatePairs, Level
from search.engine.storage import parts
from search.engine.storage.layout import duplicates_file

logger = logging.getLogger(__name__)

_FORMAT = 1
_ARRAYS = {"seen": SEEN, "pairs": PAIR, "waiting": PAIR}
_COUNTS = ("looks", "looks_left_out", "unreadable")
_LARGEST = 2**53


def write_duplicates(directory: Path, pairs: DuplicatePairs) -> None:
    """Keep what was found in the index of directory, whole for every reader. Raises OSError."""
    path = duplicates_file(directory)
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(path, duplicates_content(pairs))


def duplicates_content(pairs: DuplicatePairs) -> bytes:
    arrays = {name: np.ascontiguousarray(getattr(pairs, name), kind) for name, kind in _ARRAYS.items()}
    content = b"".join(array.tobytes() for array in arrays.values())
    header = {
        "format": _FORMAT,
        "fingerprint": pairs.fingerprint,
        "ended": pairs.ended,
        "sizes": {name: len(array) for name, array in arrays.items()},
        "sha256": hashlib.sha256(content).hexdigest(),
        **{name: getattr(pairs, name) for name in _COUNTS},
    }
    return json.dumps(header).encode() + b"\n" + content


def read_duplicates(directory: Path) -> DuplicatePairs | None:
    """Return what was found; None where nobody has looked, or the file is of no use, which the log says."""
    path = duplicates_file(directory)
    if not path.exists():
        return None
    try:
        return parse_duplicates(parts.read(path), path)
    except IndexCorrupt as error:
        logger.warning("What was found of duplicates in %s is looked for anew: %s", directory, error)
        return None


def parse_duplicates(content: bytes, path: Path) -> DuplicatePairs:
    """Return what duplicates_content() was given. path: where it lies. Raises IndexCorrupt."""
    with DamageNamed(path):
        return _parse(content)


def duplicates_stamp(directory: Path) -> str:
    """Return a text that changes whenever something else was found; "" where nobody has looked."""
    try:
        stat = duplicates_file(directory).stat()
    except OSError:
        return ""
    return f"{stat.st_ino}-{stat.st_mtime_ns}-{stat.st_size}"


def _parse(content: bytes) -> DuplicatePairs:
    """Raises ValueError, and whatever else a crafted file can cause."""
    line, _, body = content.partition(b"\n")
    header = parts.parse_object(line)
    if header["format"] != _FORMAT or header["sha256"] != hashlib.sha256(body).hexdigest():
        raise ValueError("it is of another format, or damaged")
    if header["fingerprint"] is not None and not isinstance(header["fingerprint"], str):
        raise ValueError("its fingerprint is no text")
    if not isinstance(header["ended"], bool):
        raise ValueError("it does not say whether the search has come to its end")
    if any(type(header[name]) is not int or not 0 <= header[name] <= _LARGEST for name in _COUNTS):
        raise ValueError("a count is no number of anything")
    arrays, start = {}, 0
    for name, kind in _ARRAYS.items():
        arrays[name] = np.frombuffer(body, kind, header["sizes"][name], start)
        start += arrays[name].nbytes
    if start != len(body):
        raise ValueError("it is longer than it says")
    _require_sense(arrays)
    counts = {name: header[name] for name in _COUNTS}
    found = (arrays["seen"], arrays["pairs"], arrays["waiting"])
    return DuplicatePairs(header["fingerprint"], *found, **counts, ended=header["ended"])


def _require_sense(arrays: dict[str, npt.NDArray[np.void]]) -> None:
    if (np.diff(arrays["seen"]["key"]) == 0).any() or (arrays["seen"]["key"][1:] < arrays["seen"]["key"][:-1]).any():
        raise ValueError("its pictures are not in order")
    for pairs in (arrays["pairs"], arrays["waiting"]):
        if not np.isin(pairs["level"], list(Level)).all() or not (np.abs(pairs["score"]) <= 1.01).all():
            raise ValueError("a pair has a level or a score that cannot be")
