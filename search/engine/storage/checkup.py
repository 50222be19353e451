"""Looks an index over, file by file and vector by vector, in flat memory and without touching what is served."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from search.engine.errors import IndexCorrupt, StoreError
from search.engine.index.calibration import MIN_RECALL, NEIGHBOURS
from search.engine.index.exact import ROUNDING, best_scores
from search.engine.index.index import ImageIndex
from search.engine.index.records import LineRecords
from search.engine.index.vector_file import StoredVectors
from search.engine.pictures.folders import PictureFolder
from search.engine.storage.checksums import damaged_files, has_checksums
from search.engine.storage.layout import CODES, FAISS_INDEX, ID_KEYS, METADATA
from search.engine.storage.reading import load
from search.engine.vectors import Vectors

logger = logging.getLogger(__name__)

_SAMPLES = 100
_ROWS_A_BLOCK = 8192
_UNIT = 1e-3  # how far a vector's length may be from 1
_SAMPLING_ERROR = 0.01  # of the recall over 100 pictures, other ones than the build has measured it over


@dataclass(frozen=True, slots=True)
class Checkup:
    """What is known of an index after a look at all of it."""

    images: int
    checksums: bool  # recorded at publication, and compared
    problems: list[str]  # each names the file; none: the index is sound
    recall: float | None  # of the sample's neighbours, how many a search finds; None where none could be searched
    sampled: int
    pictures_missing: int | None  # of the sample, in the folder of pictures; None where a store cannot tell


def examine(directory: Path, *, pictures: PictureFolder | None = None) -> Checkup:
    """Look over the index in directory. Raises IndexNotBuilt.

    pictures: the folder that the index's paths are relative to, to look for a sample's files.
    """
    try:
        return _examine(directory, load(directory), pictures)
    except IndexCorrupt as error:
        problems = list(dict.fromkeys([str(error), *damaged_files(directory)]))
        return Checkup(0, has_checksums(directory), problems, None, 0, 0)


def _examine(directory: Path, index: ImageIndex, pictures: PictureFolder | None) -> Checkup:
    """Raises IndexCorrupt where vectors cannot be read."""
    sample = np.unique(np.linspace(0, len(index.vectors) - 1, num=min(_SAMPLES, len(index.vectors)), dtype=int))
    problems = [*damaged_files(directory), *_code_problems(index), *_record_problems(index)]
    unfit, best = _scan(index.vectors, sample)
    recall = None
    if unfit:
        problems.append(f"{FAISS_INDEX}: {unfit} vectors are not finite numbers of length 1")
    elif not problems and len(sample):
        recall, lost = _search_sample(index, sample, best)
        problems += _search_problems(recall, lost)
    return Checkup(
        images=len(index.vectors),
        checksums=has_checksums(directory),
        problems=problems,
        recall=recall,
        sampled=len(sample),
        pictures_missing=_missing(index, sample, pictures) if pictures and not problems else 0,
    )


def _code_problems(index: ImageIndex) -> Iterator[str]:
    if index.info.coarse is not None and index.coarse is None:
        yield f"{CODES} cannot be read: every search scans all vectors"


def _record_problems(index: ImageIndex) -> Iterator[str]:
    """Yield the first entry that is unreadable, out of order, not found by its id, or no path of a picture."""
    in_order, before = isinstance(index.records, LineRecords), ""
    for row in range(len(index.records)):
        try:
            record = index.records[row]
            found = index.records.rows_of_id(record.id)
        except IndexCorrupt as error:
            yield str(error)
            return
        if in_order and row and record.path <= before:
            yield f"{METADATA}: {record.path!r} comes after {before!r}"
            return
        if found != [row]:
            yield f"{ID_KEYS if in_order else METADATA}: the id of {record.path!r} leads elsewhere"
            return
        if record.path.startswith("/") or ".." in PurePosixPath(record.path).parts:
            yield f"{METADATA}: {record.path!r} leads out of the image folder"
            return
        before = record.path


def _scan(vectors: StoredVectors, sample: npt.NDArray[np.int64]) -> tuple[int, Vectors]:
    """Return how many vectors are unfit, and the scores of the closest ten to each of the sample, in any order.

    scores: float32 [sample, at most 10].
    """
    queries = vectors[sample]
    best = np.empty((len(sample), 0), np.float32)
    unfit = 0
    with np.errstate(all="ignore"):  # what is no number is counted
        for block in vectors.blocks(size=_ROWS_A_BLOCK):
            lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
            unfit += int(np.count_nonzero(~(np.abs(lengths - 1) <= _UNIT)))
            best = best_scores(best, queries, block, NEIGHBOURS)
    return unfit, best


def _search_sample(index: ImageIndex, sample: npt.NDArray[np.int64], best: Vectors) -> tuple[float, int]:
    """Return the share of true neighbours that searches find, and how many of the sample do not find themselves.

    What scores as high as the last true neighbour is one: of several copies of a picture any will do.
    """
    found = lost = 0
    for row, scores in zip(sample.tolist(), best, strict=True):
        vector = index.vectors.at(row)
        matches = index.search(vector, len(scores))
        found += sum(match.score >= scores.min() - ROUNDING for match in matches)
        lost += not matches or matches[0].score < float(vector @ vector) - ROUNDING
    return float(found / best.size), lost


def _search_problems(recall: float, lost: int) -> Iterator[str]:
    if lost:
        yield f"{CODES}: {lost} of the sampled pictures do not find themselves"
    if recall < MIN_RECALL - _SAMPLING_ERROR:
        yield f"{CODES}: searches find {recall:.4f} of the true neighbours, less than {MIN_RECALL}"


def _missing(index: ImageIndex, sample: npt.NDArray[np.int64], pictures: PictureFolder) -> int | None:
    try:
        return pictures.missing([index.records[row].path for row in sample.tolist()])
    except StoreError as error:
        logger.warning("The index's pictures could not be looked for: %s", error)
        return None
