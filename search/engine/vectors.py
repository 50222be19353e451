"""Vectors of pictures, as the model makes them, the index keeps them and a search compares them."""

import numpy as np
import numpy.typing as npt

DIMENSION = 960

Vector = npt.NDArray[np.float32]  # [960], unit length
Vectors = npt.NDArray[np.float32]  # [N, 960], rows of unit length


def unit_length(vectors: Vectors) -> Vectors:
    """Return the rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)
