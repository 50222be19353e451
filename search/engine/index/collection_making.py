"""Makes the collection of a generation in Milvus from its files, and tries it before anybody relies on it."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np

from search.engine.errors import IndexCorrupt, PublishRefused
from search.engine.index.calibration import (
    MANY_NEIGHBOURS,
    MIN_RECALL,
    NEIGHBOURS,
    Sample,
    spread,
    take_sample,
)
from search.engine.index.coarse import MIN_IMAGES
from search.engine.index.collection import (
    Card,
    Collection,
    folder_keys,
    text_key,
    text_of,
    text_of_card,
    text_of_folder,
)
from search.engine.index.exact import ROUNDING
from search.engine.index.index import ImageIndex
from search.engine.index.records import SortedRecords
from search.engine.milvus import Milvus, StoredRow

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 1000  # some 4 MB
_EFFORTS = 128, 256, 512, 1024, 2048  # in turn, until enough is found
_LEFT_OUT = MANY_NEIGHBOURS  # the most copies of a sample that are left out of its results
_TRIED = 20  # pictures that must find themselves
_WAIT_SECONDS = 0.5
_MOST_WAITS = 7200

Beat = Callable[[], None]


def make_collection(server: Milvus, name: str, index: ImageIndex, *, beat: Beat = lambda: None) -> Card:
    """Make the collection of index, which is read from a generation's files, in place of any of this name.

    beat is called about once a second; an exception from it leaves a collection without a card.
    Raises EngineUnavailable, and PublishRefused where the index was not made here, or the collection does not find what
    it should.
    """
    if not isinstance(index.records, SortedRecords):
        raise PublishRefused("Another program made this index: run manage.py build_embeddings first")
    server.create(name)
    for rows in _pictures(index):
        server.insert(name, rows, beat)
    server.flush(name, beat)
    server.index(name, beat)
    card = _card(server, name, index, beat)
    about = [text_of_folder(folder, count) for folder, count in sorted(index.records.count_by_location().items())]
    for start in range(0, len(about), _ROWS_AT_ONCE):
        texts = about[start : start + _ROWS_AT_ONCE]
        server.insert(name, [StoredRow(-1 - start - place, text) for place, text in enumerate(texts)], beat)
    _require_sound(server, name, index, beat)
    server.insert(name, [StoredRow(-1 - len(about), text_of_card(card))], beat)
    server.flush(name, beat)
    return card


def _pictures(index: ImageIndex) -> Iterator[list[StoredRow]]:
    for start in range(0, len(index.records), _ROWS_AT_ONCE):
        rows = range(start, min(start + _ROWS_AT_ONCE, len(index.records)))
        vectors = index.vectors[start : rows.stop]
        yield [
            StoredRow(
                row,
                text_of(record),
                sha256="" if index.signatures is None else bytes(index.signatures[row]["sha256"]).hex(),
                perceptual_hash=0 if index.hashes is None else int(index.hashes[row].astype(np.int64)),
                path_key=text_key(record.path),
                image_key=text_key(record.id),
                folder_keys=folder_keys(record.path),
                vector=vector,
            )
            for row, record, vector in zip(rows, index.records.of_rows(rows), vectors, strict=True)
        ]


def _card(server: Milvus, name: str, index: ImageIndex, beat: Beat) -> Card:
    """Return the card with the least effort that finds MIN_RECALL of the true neighbours."""
    hashes, signatures = index.hashes is not None, index.signatures is not None
    card = Card(len(index.records), hashes, signatures, effort=_EFFORTS[-1])
    if len(index.records) < MIN_IMAGES:  # all of them are looked at, or nearly so
        return card
    sample = take_sample(index.vectors, beat)
    for effort in _EFFORTS:
        at_10, at_50 = _recalls(server, name, sample, effort, beat)
        card = replace(card, effort=effort, recall_at_10=round(at_10, 4), recall_at_50=round(at_50, 4))
        if min(at_10, at_50) >= MIN_RECALL:
            return card
    logger.warning(
        "Searches of %s find %s of the 10 and %s of the 50 closest", name, card.recall_at_10, card.recall_at_50
    )
    return card


def _recalls(server: Milvus, name: str, sample: Sample, effort: int, beat: Beat) -> tuple[float, float]:
    """Return which share of the 10 and of the 50 true neighbours is found."""
    found = {NEIGHBOURS: 0, MANY_NEIGHBOURS: 0}
    for number, query in enumerate(sample.queries):
        hits = server.nearest(name, query, MANY_NEIGHBOURS + _LEFT_OUT, folder_key=None, effort=effort)
        scores = np.array([hit.vector for hit in hits], np.float32) @ query
        if sample.are_left_out[number]:
            scores = scores[scores < 1 - ROUNDING]
        for count in found:
            least = sample.least_scores[count][number, 0]
            found[count] += int(np.count_nonzero(np.sort(scores)[::-1][:count] >= least - ROUNDING))
        beat()
    tried = len(sample.queries)
    return found[NEIGHBOURS] / (tried * NEIGHBOURS), found[MANY_NEIGHBOURS] / (tried * MANY_NEIGHBOURS)


def _require_sound(server: Milvus, name: str, index: ImageIndex, beat: Beat) -> None:
    """Raise PublishRefused unless all pictures are there, in the graph, and some of them find themselves."""
    if (count := server.count(name)) != len(index.records):
        raise PublishRefused(f"The collection {name} in Milvus holds {count} pictures, not {len(index.records)}")
    waits = 0
    while not server.is_indexed(name):
        waits += 1
        if waits > _MOST_WAITS:
            raise PublishRefused(f"Milvus has not made the index of the collection {name}")
        time.sleep(_WAIT_SECONDS)
        beat()
    rows = spread(len(index.records), _TRIED) if len(index.records) else np.empty(0, np.int64)
    for stored in server.rows(name, rows.tolist(), vectors=True):
        vector = index.vectors.at(stored.row)
        if stored.vector is None or not np.array_equal(stored.vector, vector):
            raise PublishRefused(f"The collection {name} in Milvus has another vector in row {stored.row}")
        hits = server.nearest(name, vector, 1, folder_key=None, effort=_EFFORTS[-1])
        if not hits or hits[0].vector is None or hits[0].vector @ vector < 1 - ROUNDING:
            raise PublishRefused(f"In the collection {name} in Milvus, {index.records[stored.row].path} is not found")
        beat()


def is_complete(server: Milvus, name: str, images: int) -> bool:
    """Return whether there is a whole collection of so many pictures. Raises EngineUnavailable."""
    with suppress(IndexCorrupt):
        if name in server.names(name):
            collection = Collection(server, name)
            collection.require_all_pictures()
            return collection.card.images == images
    return False
