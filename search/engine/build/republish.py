"""Writes an index that exists anew: one that another program made, or one with live changes laid over it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from search.engine import storage
from search.engine.errors import ImageUnreadable, NothingToIndex, PathRefused
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.records import ImageRecord, ids_no_path_gives
from search.engine.model.embedder import Embedder
from search.engine.model.passport import ModelPassport
from search.engine.pictures.decode import open_image
from search.engine.pictures.paths import require_path
from search.engine.pictures.shelf import open_picture
from search.engine.vectors import Vectors, unit_length

UNKNOWN_MODEL = ModelPassport("weights unknown here", "unknown")

_SAME_MODEL = 0.99  # cosine between a stored vector and the same picture embedded again
_SAMPLES = 8
_ROWS_A_BLOCK = 1024


def take_over(
    source: Path,
    target: Path,
    *,
    passport: ModelPassport | None,
    move: bool,
    publish: storage.Publish,
    embeddings_npy: bool = True,
) -> int:
    """Publish the index in source, ids included, as that of target; return how many pictures it has.

    passport: the model that made it, None where nobody knows. move: the index is removed from source afterwards.
    embeddings_npy: see storage.IndexWriter.
    Raises IndexNotBuilt, IndexCorrupt and PublishRefused.
    """
    storage.require_undamaged(source, copy=False)
    index = storage.load(source)
    info = IndexInfo(total_images=0, live_sequence=index.info.live_sequence)
    if passport:
        info = replace(info, weights=passport.weights, fingerprint=passport.fingerprint)
    index = replace(index, read_signatures=None, read_hashes=None)
    published = republish(index, target, info=info, publish=publish, embeddings_npy=embeddings_npy)
    if move and source.resolve() != target.resolve() and source.exists():
        storage.remove(source)
    return published.total_images


def republish(
    index: ImageIndex,
    target: Path,
    *,
    info: IndexInfo,
    publish: storage.Publish,
    embeddings_npy: bool = True,
    report: Callable[[int], None] = lambda written: None,
) -> storage.Published:
    """Publish index, with its live changes, as a generation of target.

    info: what is to be said of it. Of several pictures of one path the first stays. embeddings_npy: see
    storage.IndexWriter. report is called with the number of pictures written so far.
    """
    places = _places_by_path(index)
    paths = sorted(places)
    with storage.IndexWriter(target, embeddings_npy=embeddings_npy, before=index.coarse) as writer:
        for start in range(0, len(paths), _ROWS_A_BLOCK):
            block = np.array([places[path] for path in paths[start : start + _ROWS_A_BLOCK]])
            rows_before = np.where(block < len(index.records), block, -1)
            writer.add(
                _vectors(index, block),
                _records(index, block),
                _signatures(index, block),
                hashes=_hashes(index, block),
                rows_before=rows_before,
            )
            report(start + len(block))
        given_ids = storage.given_ids(target, target.name) | ids_no_path_gives(target.name, index.records)
        return writer.publish(info, publish, given_ids=given_ids, beat=lambda: report(len(paths)))


def _places_by_path(index: ImageIndex) -> dict[str, int]:
    """Return where each visible picture is: its row, or behind the rows its place among the live ones."""
    hidden = set(index.hidden.tolist())
    places: dict[str, int] = {}
    for row, record in enumerate(index.records):
        if row not in hidden:
            places.setdefault(record.path, row)
    return places | {record.path: len(index.records) + place for place, record in enumerate(index.added)}


def _records(index: ImageIndex, block: np.ndarray) -> list[ImageRecord]:
    rows = len(index.records)
    built = iter(index.records.of_rows([place for place in block.tolist() if place < rows]))
    return [next(built) if place < rows else index.added[place - rows] for place in block.tolist()]


def _vectors(index: ImageIndex, block: np.ndarray) -> Vectors:
    vectors = np.empty((len(block), index.info.embedding_dimension), np.float32)
    live = block >= len(index.records)
    vectors[~live] = index.vectors[block[~live]]
    vectors[live] = index.added_vectors[block[live] - len(index.records)]
    return unit_length(vectors)


def _signatures(index: ImageIndex, block: np.ndarray) -> np.ndarray | None:
    """Return what is known of the files; of live ones nothing, so that the next build looks at them again."""
    if index.signatures is None:
        return None
    signatures = np.zeros(len(block), storage.SIGNATURE)
    built = block < len(index.records)
    signatures[built] = index.signatures[block[built]]
    return signatures


def _hashes(index: ImageIndex, block: np.ndarray) -> np.ndarray | None:
    """Return the perceptual hashes; None where those of built pictures are not known."""
    if len(index.records) and index.hashes is None:
        return None
    hashes = np.empty(len(block), np.uint64)
    live = block >= len(index.records)
    hashes[live] = index.added_hashes[block[live] - len(index.records)]
    if index.hashes is not None:
        hashes[~live] = index.hashes[block[~live]]
    return hashes


def agreement(index: ImageIndex, images: Path, embedders: Sequence[Embedder], *, max_pixels: int) -> list[float]:
    """Return, for each embedder, the median cosine between a few stored vectors and their pictures embedded again.

    images: the folder that the index's paths are relative to.
    Raises NothingToIndex where none of the pictures is there.
    """
    rows = np.linspace(0, len(index.records) - 1, num=min(_SAMPLES, len(index.records)), dtype=int)
    pictures = []
    for row in rows.tolist():
        path = index.records[row].path
        try:
            require_path(path)
            with open_picture(images, path) as file:
                # Decoded whole, as by the Flask service: what is compared is the model.
                pictures.append((row, open_image(file, name=path, max_pixels=max_pixels)))
        except (OSError, ImageUnreadable, PathRefused):
            continue
    if not pictures:
        raise NothingToIndex(f"None of the pictures tried can be read in {images}: check the folder")
    stored = unit_length(index.vectors[np.array([row for row, _ in pictures])])  # [pictures, 960]
    cosines = []
    for embedder in embedders:
        again = embedder.embed([embedder.prepare(picture) for _, picture in pictures])
        cosines.append(float(np.median(np.sum(stored * again, axis=1))))
    return cosines


def same_model(cosine: float) -> bool:
    """Return whether a cosine of agreement() is that of the model that made the index."""
    return cosine >= _SAME_MODEL
