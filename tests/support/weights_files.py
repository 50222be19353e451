"""Weights for tests, as good as the built-in ones, whose vectors nothing else's can be compared with."""

import zipfile
from pathlib import Path

import numpy as np

from search.engine.model.state_file import read_state
from search.engine.model.weights import BUILTIN_FILE
from search.engine.vectors import DIMENSION

_LAST = "features.16."  # the layer whose outputs, pooled, are the vector


def shuffled(path: Path, seed: int) -> Path:
    """Write the built-in weights to path with the numbers of each vector in another order, and return path.

    Two pictures are as alike to them as to the built-in ones. Vectors of two seeds have nothing to do with each other.
    """
    order = np.random.default_rng(seed).permutation(DIMENSION)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = read_state(BUILTIN_FILE)
    places = {
        _content(value): _content(value[order])
        for name, value in state.items()
        if name.startswith(_LAST) and value.shape[:1] == (DIMENSION,)
    }
    with zipfile.ZipFile(BUILTIN_FILE) as before, zipfile.ZipFile(path, "w") as after:
        for entry in before.infolist():
            content = before.read(entry)
            after.writestr(zipfile.ZipInfo(entry.filename), places.pop(content, content))
    assert not places, "not every tensor of the last layer was found"
    return path


def _content(tensor: np.ndarray) -> bytes:
    return np.ascontiguousarray(tensor).tobytes()
