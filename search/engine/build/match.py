"""Fits what makes scores percentages to a company's own pictures, without labels.

A few pictures are altered, as those that people search with are. Each altered copy is searched for twice: with its
original in the index, where the first result should be that one, and with it left out, where the first result is wrong.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from search.engine.errors import EngineError, StoreError
from search.engine.index.match_fit import (
    MIN_ALTERED,
    MIN_IMAGES,
    Line,
    MatchFit,
    background_of,
    contrast,
    fit_line,
    held_out_error,
    usual_line,
)
from search.engine.index.thresholds import thresholds_of
from search.engine.index.vector_file import StoredVectors
from search.engine.model.embedder import Embedder, read_prepared
from search.engine.pictures.altered import LONGEST_SIDE, MIN_SIDE, altered_copy
from search.engine.pictures.decode import open_image
from search.engine.pictures.folders import PictureFolder
from search.engine.vectors import DIMENSION, Vectors

_SEED = 12
_PICTURES = 60
_COPIES = 3  # of each
_DEPTH = 50  # results of a search, as deep as searches look for the background
_NEAREST = 500  # pictures whose neighbours are looked at
_NEIGHBOURS = 5  # of each; the fifth is the background
_ROWS_A_BLOCK = 1024
_DIGITS = 4  # behind these, two builds may differ by rounding


@dataclass(frozen=True, slots=True)
class Pictures:
    """The files of an index's pictures."""

    folder: PictureFolder
    paths: Sequence[str]  # below folder, by row
    max_pixels: int


@dataclass(frozen=True, slots=True)
class _Copies:
    """Altered copies of pictures."""

    vectors: Vectors  # [N, 960]
    originals: npt.NDArray[np.int64]  # [N], the row that each was made of


@dataclass(frozen=True, slots=True)
class _Found:
    """The best of all rows, or of those scanned so far, in no order."""

    scores: Vectors  # [N, at most _DEPTH], for each copy
    rows: npt.NDArray[np.int64]  # the same
    neighbours: Vectors  # [M, _NEIGHBOURS], the scores of each picture's neighbours; -inf where there are fewer


@dataclass(frozen=True, slots=True)
class _Search:
    """One of an altered copy, and what came first."""

    original: int
    contrast: float
    is_match: bool


def fit_match(
    vectors: StoredVectors, pictures: Pictures, *, embedder: Embedder, workers: int, beat: Callable[[], None]
) -> MatchFit | None:
    """Return the fit of an index that has these vectors, None where they are too few; for the same pictures the same.

    pictures: those of the vectors; one that cannot be read any more is passed over. workers: threads that alter and
    embed. beat: called now and then; an exception from it ends the fit. Raises StoreError.
    """
    if len(vectors) < MIN_IMAGES:
        return None
    fingerprint = embedder.passport.fingerprint
    same, usual = thresholds_of(fingerprint).same, usual_line(fingerprint)
    copies = _embed_copies(_some_rows(len(vectors), _PICTURES), pictures, embedder, workers, beat)
    found = _scan(vectors, copies, vectors[_some_rows(len(vectors), _NEAREST)], same, beat)
    return _fitted(_unfitted(usual, len(vectors), found), list(_searches(vectors, copies, found, same)))


def _some_rows(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most so many rows of count, in order: each time the same ones, from all over the index."""
    return np.sort(np.random.default_rng(_SEED).choice(count, min(most, count), replace=False))


# Altered copies -----------------------------------------------------------------------------------------------------


def _embed_copies(
    rows: npt.NDArray[np.int64], pictures: Pictures, embedder: Embedder, workers: int, beat: Callable[[], None]
) -> _Copies:
    """Return the copies of the pictures in these rows, none where these are too few to be fitted on."""
    made: dict[int, Vectors] = {}
    if len(rows) >= MIN_ALTERED:
        with ThreadPoolExecutor(workers, thread_name_prefix="match") as threads:
            futures = {row: threads.submit(_embed_copies_of, pictures, row, embedder) for row in rows.tolist()}
            try:
                for row, future in futures.items():
                    made[row] = future.result()
                    beat()
            finally:
                threads.shutdown(cancel_futures=True)
    if np.count_nonzero([len(each) for each in made.values()]) < MIN_ALTERED:
        made = {}
    vectors = np.concatenate([np.empty((0, DIMENSION), np.float32), *made.values()])
    originals = np.repeat(np.array(list(made), np.int64), [len(each) for each in made.values()])
    return _Copies(vectors, originals)


def _embed_copies_of(pictures: Pictures, row: int, embedder: Embedder) -> Vectors:
    """Return the vectors of a picture's copies, float32 [_COPIES, 960]; of one that cannot be read, [0, 960]."""
    path = pictures.paths[row]
    try:
        with pictures.folder.open(path) as file:
            image = open_image(file, name=path, max_pixels=pictures.max_pixels, min_side=MIN_SIDE)
        image.thumbnail((2 * MIN_SIDE, MIN_SIDE) if image.width > image.height else (MIN_SIDE, 2 * MIN_SIDE))
        copies = [altered_copy(image, seed=f"{path} {number}") for number in range(_COPIES)]
        # As a query is read: what JPEG does to it is part of the alteration.
        pixels = [read_prepared(embedder, copy, name="copy.jpg", max_pixels=LONGEST_SIDE**2) for copy in copies]
    except StoreError:  # with another fit the same pictures would make another index
        raise
    except (OSError, EngineError):
        return np.empty((0, DIMENSION), np.float32)
    return embedder.embed(pixels)


# What is found for them ---------------------------------------------------------------------------------------------


def _scan(vectors: StoredVectors, copies: _Copies, pictures: Vectors, same: float, beat: Callable[[], None]) -> _Found:
    """Scan all vectors once for what the copies find, and for the neighbours of some pictures, float32 [M, 960].

    same: the cosine from which on two are the same picture, and no neighbours.
    """
    count = len(copies.vectors)
    queries = np.concatenate([copies.vectors, pictures])
    found = _Found(
        np.empty((count, 0), np.float32),
        np.empty((count, 0), np.int64),
        np.full((len(pictures), _NEIGHBOURS), -np.inf, np.float32),
    )
    start = 0
    for block in vectors.blocks(size=_ROWS_A_BLOCK):
        products = queries @ block.T  # [N + M, block]
        found = _with_block(found, products[:count], products[count:], start, same)
        start += len(block)
        beat()
    return found


def _with_block(found: _Found, of_copies: Vectors, of_pictures: Vectors, start: int, same: float) -> _Found:
    """Return the best of what was found and of a block of rows; start: the first of these."""
    scores = np.hstack([found.scores, of_copies])  # [N, found + block]
    rows = np.arange(start, start + of_copies.shape[1])
    rows = np.hstack([found.rows, np.broadcast_to(rows, of_copies.shape)])
    best = np.argpartition(scores, -min(_DEPTH, scores.shape[1]), axis=1)[:, -_DEPTH:]
    others = np.where(of_pictures < same, of_pictures, -np.inf)  # neither itself nor its copies
    return _Found(
        np.take_along_axis(scores, best, axis=1),
        np.take_along_axis(rows, best, axis=1),
        np.partition(np.hstack([found.neighbours, others]), -_NEIGHBOURS, axis=1)[:, -_NEIGHBOURS:],
    )


def _searches(vectors: StoredVectors, copies: _Copies, found: _Found, same: float) -> Iterator[_Search]:
    """Yield each copy's two searches, those apart that find too few different pictures."""
    for original, scores, rows in zip(copies.originals.tolist(), found.scores, found.rows, strict=True):
        order = np.lexsort((rows, -scores))
        scores, stored = scores[order], vectors[rows[order]]  # [found], [found, 960]
        is_original = stored @ vectors.at(original) >= same  # or a copy of it
        for there in (np.ones_like(is_original), ~is_original):
            first = stored[there][:1]
            is_same = (stored[there] @ first.T).ravel() >= same
            background = background_of(scores[there].tolist(), is_same.__getitem__)
            if background is not None:
                yield _Search(original, contrast(float(scores[there][0]), background), bool(is_original[there][0]))


# The fit ------------------------------------------------------------------------------------------------------------


def _unfitted(line: Line, images: int, found: _Found) -> MatchFit:
    """Return what is said of an index of so many pictures with the usual line."""
    nearest, fifth = found.neighbours.max(axis=1), found.neighbours.min(axis=1)
    return MatchFit(
        *line,
        images=images,
        pictures=0,
        calibration_error=None,
        background=_quantile(fifth, 0.5),
        nearest_low=_quantile(nearest, 0.01),
        nearest_median=_quantile(nearest, 0.5),
        altered_low=_quantile(found.scores.max(axis=1, initial=-1), 0.03),
    )


def _quantile(scores: Vectors, share: float) -> float | None:
    there = scores[np.isfinite(scores)]
    return round(float(np.clip(np.quantile(there, share), -1, 1)), _DIGITS) if len(there) else None


def _fitted(usual: MatchFit, searches: list[_Search]) -> MatchFit:
    """Return the same with the line that these searches give, where they are enough for one."""
    originals, pictures = np.unique([each.original for each in searches], return_inverse=True)
    if len(originals) < MIN_ALTERED:
        return usual
    contrasts = np.array([each.contrast for each in searches])
    is_match = np.array([each.is_match for each in searches])
    slope, offset = fit_line(contrasts, is_match, usual=(usual.slope, usual.offset))
    return replace(
        usual,
        slope=round(slope, _DIGITS),
        offset=round(offset, _DIGITS),
        pictures=len(originals),
        calibration_error=round(held_out_error(contrasts, is_match, pictures), _DIGITS),
    )
