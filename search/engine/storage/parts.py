"""One file of an index at a time, read without trusting it: what is wrong with it is IndexCorrupt, which names it."""

import io
import json
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.damage import DamageNamed

_CARD_BYTES = 1 << 20  # that a file has at most which says a few words of an index
_HEADER_BYTES = 1 << 14  # at the beginning of an array, with its header


def read(path: Path) -> bytes:
    """Return what the file holds."""
    with DamageNamed(path), durable.open_plain(path) as file:
        return file.read()


def read_card(path: Path) -> bytes:
    """Return what a file holds that is small wherever it is sound."""
    with DamageNamed(path), durable.open_plain(path) as file:
        content = file.read(_CARD_BYTES + 1)
        if len(content) > _CARD_BYTES:
            raise ValueError(f"it has more than {_CARD_BYTES} bytes")
        return content


def parse_object(text: bytes) -> dict[str, Any]:
    """Return the entries of a JSON object. Raises ValueError and whatever else json does."""
    entries = json.loads(text)
    if not isinstance(entries, dict):
        raise ValueError("it is not a JSON object")
    return entries


def read_array(path: Path, kind: np.dtype) -> npt.NDArray[Any]:
    """Return the one-dimensional array of this kind in a .npy file, to be read only."""
    content = read(path)
    with DamageNamed(path):
        start, count = _parse_header(content, len(content), kind)
        return np.frombuffer(content, kind, count, start)


def array_length(path: Path, kind: np.dtype) -> int:
    """Return how many values the array of this kind in a .npy file has, by its header and its length."""
    with DamageNamed(path), durable.open_plain(path) as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(0)
        return _parse_header(file.read(_HEADER_BYTES), length, kind)[1]


def _parse_header(content: bytes, length: int, kind: np.dtype) -> tuple[int, int]:
    """Return where the values begin in a file of this length, and how many they are.

    content: the beginning of the file. Raises ValueError, and whatever else NumPy does, for any other array than one
    as IndexWriter writes it: no size is believed that the file does not have.
    """
    file: IO[bytes] = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"its format is {version}")
    shape, _, found = np.lib.format.read_array_header_1_0(file)
    if found != kind or len(shape) != 1:
        raise ValueError(f"it holds {found} {shape}")
    if length != file.tell() + shape[0] * kind.itemsize:
        raise ValueError(f"it is {length} bytes long, its header says {shape[0]} values")
    return file.tell(), shape[0]
