"""Takes over an index that another program made, such as the Flask service's."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from search.engine import storage
from search.engine.embedder import Embedder, ModelPassport, unit_length
from search.engine.errors import ImageUnreadable, NothingToIndex
from search.engine.images import open_image
from search.engine.index import ImageIndex, IndexInfo

UNKNOWN_MODEL = ModelPassport("weights unknown here", "unknown")

_SAME_MODEL = 0.99  # cosine between a stored vector and the same picture embedded again
_SAMPLES = 8
_ROWS_AT_A_TIME = 4096


def take_over(source: Path, target: Path, *, passport: ModelPassport | None, move: bool, keep: int) -> int:
    """Publish the index in source, ids included, as that of target; return how many pictures it has.

    passport: the model that made it, None where nobody knows. move: source is removed afterwards.
    Raises IndexNotBuilt, IndexCorrupt and PublishRefused.
    """
    index = storage.load(source)
    row_of_path = {index.records[row].path: row for row in reversed(range(len(index)))}  # of doubles, the first
    rows = [row_of_path[path] for path in sorted(row_of_path)]
    with storage.IndexWriter(target) as writer:
        for start in range(0, len(rows), _ROWS_AT_A_TIME):
            some = rows[start : start + _ROWS_AT_A_TIME]
            writer.add(unit_length(index.vectors[some]), [index.records[row] for row in some])
        writer.publish(_info(passport), keep=keep)
    if move and source.resolve() != target.resolve() and source.exists():
        shutil.rmtree(source)
    return len(rows)


def _info(passport: ModelPassport | None) -> IndexInfo:
    info = IndexInfo(total_images=0)
    return replace(info, weights=passport.weights, fingerprint=passport.fingerprint) if passport else info


def agreement(index: ImageIndex, images: Path, embedders: Sequence[Embedder], *, max_pixels: int) -> list[float]:
    """Return, for each embedder, the median cosine between a few stored vectors and their pictures embedded again.

    images: the folder that the index's paths are relative to.
    Raises NothingToIndex where none of the pictures is there.
    """
    rows = np.linspace(0, len(index) - 1, num=min(_SAMPLES, len(index)), dtype=int)
    pictures = []
    for row in rows:
        path = images / index.records[row].path
        try:
            if path.resolve().is_relative_to(images.resolve()):
                pictures.append((row, open_image(path, name=path.name, max_pixels=max_pixels)))
        except (OSError, ImageUnreadable):
            continue
    if not pictures:
        raise NothingToIndex(f"None of the index's pictures tried can be read below {images}: give the right folder")
    stored = unit_length(index.vectors[[row for row, _ in pictures]])  # [pictures, 960]
    cosines = []
    for embedder in embedders:
        again = embedder.embed([embedder.prepare(picture) for _, picture in pictures])
        cosines.append(float(np.median(np.sum(stored * again, axis=1))))
    return cosines


def same_model(cosine: float) -> bool:
    """Return whether a cosine of agreement() is that of the model that made the index."""
    return cosine >= _SAME_MODEL
