"""Finds the pairs of pictures that show the same."""

import time
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from search.engine.index.calibration import spread
from search.engine.index.compared import Keys, Places, compared, same_sketches
from search.engine.index.duplicates import ALL, PAIR, SEEN, DuplicatePairs, Level, Progress
from search.engine.index.index import ImageIndex
from search.engine.index.near_hashes import SAME_BITS, NearHashes
from search.engine.index.records import ImageRecord
from search.engine.index.self_search import SelfSearch
from search.engine.index.thresholds import Thresholds
from search.engine.pictures.second_look import Looks

MAX_LOOKS = 200_000  # second looks of one search for duplicates

_AGREE, _AGREE_SOMEWHAT = 0.85, 0.70  # of a second look; the less where the cosine is sure
_LOOKS_A_PICTURE = 5  # at its nearest ones by vector, and by hash
_LOOKS_AT_ONCE = 4096  # are put in an order in which few pictures are read twice
_PAIRS_AT_ONCE = 4096
_BEAT_SECONDS, _KEEP_SECONDS = 0.5, 60.0
_ODD = np.uint64(0x9E3779B97F4A7C15)  # spreads 64 bits over 64 bits


def find_pairs(
    index: ImageIndex,
    *,
    open_picture: Callable[[ImageRecord], Image.Image],
    known: DuplicatePairs | None = None,
    thresholds: Thresholds | None = None,
    levels: Set[Level] = ALL,
    report: Callable[[Progress], None] = lambda progress: None,
    keep: Callable[[DuplicatePairs], None] = lambda pairs: None,
) -> DuplicatePairs:
    """Return the pairs of pictures that show the same, with the live changes that lie over index.

    open_picture: returns a picture as RGB, upright, its shorter side at least second_look.MIN_SIDE where the file has
    as much (decode.open_image with that min_side does); OSError, PathRefused and ImageUnreadable leave it out.
    known: what an earlier search has found, also one that was stopped: only pictures that are not in there are
    compared with all. thresholds: by default those of the index. levels: without EDITED no picture is read, and what
    is worth a second look waits for the next search.
    report: called about once a second; an exception from it ends the search. keep: called about once a minute, and
    before such an exception goes on, with what was found so far, which is the known of a search that goes on.
    Raises IndexCorrupt.
    """
    limits = thresholds or index.info.thresholds or Thresholds()
    search = _Search(index, limits, known, report, keep)
    try:
        search.compare()
        if Level.EDITED in levels:
            search.look(open_picture)
    except BaseException:
        keep(search.found())
        raise
    return replace(search.found(), ended=True)


class _Search:
    """A search for duplicates that is under way."""

    def __init__(
        self,
        index: ImageIndex,
        limits: Thresholds,
        known: DuplicatePairs | None,
        report: Callable[[Progress], None],
        keep: Callable[[DuplicatePairs], None],
    ) -> None:
        self._limits, self._report, self._keep = limits, report, keep
        self._kept_at, self._reported_at = time.monotonic(), 0.0
        self._pictures = compared(index)
        self._progress = Progress(looking=False, done=0, total=len(self._pictures))
        self._sketches = self._pictures.sketches(self._beat)
        if known is None or known.fingerprint != index.info.fingerprint:
            known = DuplicatePairs(index.info.fingerprint)
        self._found = known
        self._searched = self._were_searched(known)
        self._twin_pairs, self._are_alone = self._find_twins()
        # What was found of pictures that are twins now, or no longer as they were, is of no use.
        searched = self._pictures.keys[self._searched]
        self._pairs = [_among(known.pairs[~known.pairs["twin"]], searched)]
        self._waiting = [_among(known.waiting, searched)]

    def found(self) -> DuplicatePairs:
        seen = np.zeros(len(self._pictures), SEEN)
        seen["key"], seen["sketch"], seen["searched"] = self._pictures.keys, self._sketches, self._searched
        seen = seen[self._searched | ~self._are_alone]
        pairs = _without_repeats(np.concatenate(self._pairs))
        waiting = _without_repeats(np.concatenate(self._waiting))
        waiting = waiting[~np.isin(_names(waiting), _names(pairs))]
        most = waiting[np.argsort(-waiting["score"], kind="stable")]
        return replace(
            self._found,
            seen=np.sort(seen, order="key"),
            pairs=np.concatenate([self._twin_pairs, pairs]),
            waiting=most[:MAX_LOOKS],
            looks_left_out=self._found.looks_left_out + max(0, len(most) - MAX_LOOKS),
        )

    # What need not be compared

    def _were_searched(self, known: DuplicatePairs) -> npt.NDArray[np.bool_]:
        """Return of which pictures, as they are now, all pairs with those of then are known."""
        places = np.searchsorted(known.seen["key"], self._pictures.keys)
        places[places == len(known.seen)] = 0
        if not len(known.seen):
            return np.zeros(len(self._pictures), bool)
        entries = known.seen[places]
        is_known = (entries["key"] == self._pictures.keys) & same_sketches(entries["sketch"], self._sketches)
        return np.asarray(is_known & entries["searched"])

    def _find_twins(self) -> tuple[npt.NDArray[np.void], npt.NDArray[np.bool_]]:
        """Return pairs of the first of equal pictures with each other one, and which pictures are not such others.

        Of equal vectors, one is compared with all; thousands of copies would make millions of pairs.
        """
        contents = self._pictures.contents().view("<u8").reshape(-1, 4)
        known = np.flatnonzero(contents.any(axis=1))
        first_file = np.arange(len(self._pictures))
        first_file[known] = known[_first_of_equals(contents[known], self._searched[known])]
        files = np.flatnonzero(first_file == np.arange(len(first_file)))
        sketches = np.ascontiguousarray(self._sketches[files]).view("<u8").reshape(-1, 2)
        first_vector = np.arange(len(self._pictures))
        first_vector[files] = files[_first_of_equals(sketches, self._searched[files])]
        first = np.concatenate([first_file, first_vector])
        second = np.tile(np.arange(len(self._pictures)), 2)
        level = np.repeat([Level.EXACT, Level.SAME], len(self._pictures))
        is_pair = first != second
        pairs = self._pair(first[is_pair], second[is_pair], np.ones(int(is_pair.sum()), np.float32), level[is_pair])
        pairs["twin"] = True
        are_alone = np.ones(len(self._pictures), bool)
        are_alone[second[is_pair]] = False
        self._searched &= are_alone
        return pairs, are_alone

    # Comparing

    def compare(self) -> None:
        """Compare the pictures that are new with all."""
        among = np.flatnonzero(self._are_alone)
        new = np.flatnonzero(self._are_alone & ~self._searched)
        self._advance(looking=False, done=0, total=len(new))
        if not len(new):
            return
        vectors = SelfSearch(self._pictures, among, queries=len(new), beat=self._beat)
        hashes = None if self._pictures.hashes is None else NearHashes(self._pictures.hashes, among, beat=self._beat)
        for chunk in vectors.chunks(new):
            self._compare_chunk(chunk, vectors, hashes)
            self._searched[chunk] = True
            self._advance(done=self._progress.done + len(chunk))

    def _compare_chunk(self, chunk: Places, vectors: SelfSearch, hashes: NearHashes | None) -> None:
        limits = self._limits
        nearest = vectors.nearest(chunk, above=limits.near)
        is_crowded = nearest.scores[:, -1] >= limits.same
        rows, columns = np.nonzero(nearest.numbers >= 0)
        scores = nearest.scores[rows, columns]
        is_same = scores >= limits.same
        may_be = ~is_same & (columns < _LOOKS_A_PICTURE)
        first, second = chunk[rows], nearest.numbers[rows, columns]
        self._add(first[is_same], second[is_same], scores[is_same])
        self._wait(first[may_be], second[may_be], scores[may_be])
        if hashes is not None:
            is_crowded |= self._compare_hashes(chunk, hashes)
        self._gather(chunk[is_crowded], vectors, hashes)

    def _compare_hashes(self, chunk: Places, hashes: NearHashes) -> npt.NDArray[np.bool_]:
        """Return of which pictures not all that have nearly the same hash were found."""
        rows, others, is_crowded = hashes.near(chunk)
        first, bits = chunk[rows], hashes.bits(chunk[rows], others)
        scores = self._scores(first, others)
        agree = scores >= self._limits.hashed
        is_same = agree & (bits <= SAME_BITS)
        self._add(first[is_same], others[is_same], scores[is_same])
        may_be = agree & ~is_same & (_rank_within(rows) < _LOOKS_A_PICTURE)
        self._wait(first[may_be], others[may_be], scores[may_be])
        return is_crowded

    def _gather(self, crowded: Places, vectors: SelfSearch, hashes: NearHashes | None) -> None:
        """Pair a few of the pictures that have more alike than were found with all of these, until each is in a pair.

        So thousands alike are one group, of one leader, and not millions of pairs. Each round tries twice as many.
        """
        count = 8
        while len(crowded):
            leaders = np.sort(crowded[spread(len(crowded), count)])
            rows, others, scores = vectors.all_above(leaders, above=self._limits.same)
            self._add(leaders[rows], others, scores)
            gathered = [leaders, others]
            if hashes is not None:
                rows, others = hashes.all_same(leaders)
                scores = self._scores(leaders[rows], others)
                agree = scores >= self._limits.hashed
                self._add(leaders[rows[agree]], others[agree], scores[agree])
                gathered.append(others[agree])
            crowded = np.setdiff1d(crowded, np.concatenate(gathered))
            count *= 2

    def _scores(self, first: Places, second: Places) -> npt.NDArray[np.float32]:
        """Return the cosines of pairs, [pairs]."""
        scores = np.empty(len(first), np.float32)
        for start in range(0, len(first), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            numbers, places = np.unique(np.concatenate([first[part], second[part]]), return_inverse=True)
            ones, others = np.split(self._pictures.vectors(numbers)[places], 2)
            scores[part] = np.einsum("ij,ij->i", ones, others)
            self._beat()
        return scores

    # Looking

    def look(self, open_picture: Callable[[ImageRecord], Image.Image]) -> None:
        """Have a second look at the pairs that wait for one, at most MAX_LOOKS, the most alike first."""
        found = self.found()
        todo, self._waiting = found.waiting, [found.waiting]
        self._found = replace(self._found, looks_left_out=found.looks_left_out)
        looks = Looks(open_picture)
        self._advance(looking=True, done=0, total=len(todo))
        for start in range(0, len(todo), _LOOKS_AT_ONCE):
            block = np.sort(todo[start : start + _LOOKS_AT_ONCE], order=["first", "second"])
            agreements = np.empty(len(block), np.float32)
            for place, pictures in enumerate(zip(*map(self._records, (block["first"], block["second"])), strict=True)):
                agreements[place] = looks.agreement(*pictures)
                self._progress = replace(self._progress, done=start + place + 1)
                self._beat()
            is_sure = block["score"] >= self._limits.sure
            self._pairs.append(block[agreements >= np.where(is_sure, _AGREE_SOMEWHAT, _AGREE)])
            self._waiting = [todo[start + len(block) :]]
            unreadable = self._found.unreadable + int(np.isnan(agreements).sum())
            self._found = replace(self._found, looks=self._found.looks + len(block), unreadable=unreadable)
            self._advance()

    def _records(self, keys: Keys) -> list[ImageRecord]:
        order = np.argsort(self._pictures.keys)
        return self._pictures.records(order[np.searchsorted(self._pictures.keys, keys, sorter=order)])

    # What was found

    def _add(self, first: Places, second: Places, scores: npt.NDArray[np.float32]) -> None:
        self._pairs.append(self._pair(first, second, scores, Level.SAME))

    def _wait(self, first: Places, second: Places, scores: npt.NDArray[np.float32]) -> None:
        """Note what is worth a second look; of very many only the most alike."""
        self._waiting.append(self._pair(first, second, scores, Level.EDITED))
        if sum(map(len, self._waiting)) > 4 * MAX_LOOKS:
            waiting = _without_repeats(np.concatenate(self._waiting))
            most = waiting[np.argsort(-waiting["score"], kind="stable")]
            left_out = max(0, len(most) - 2 * MAX_LOOKS)
            self._found = replace(self._found, looks_left_out=self._found.looks_left_out + left_out)
            self._waiting = [most[: 2 * MAX_LOOKS]]

    def _pair(self, first: Places, second: Places, scores: npt.NDArray[np.float32], level: Any) -> npt.NDArray[np.void]:
        pairs = np.zeros(len(first), PAIR)
        pairs["first"], pairs["second"] = self._pictures.keys[first], self._pictures.keys[second]
        pairs["score"], pairs["level"] = scores, level
        return pairs

    def _advance(self, **progress: Any) -> None:
        self._progress = replace(self._progress, **progress)
        if time.monotonic() - self._kept_at > _KEEP_SECONDS:
            self._keep(self.found())
            self._kept_at = time.monotonic()
        self._beat()

    def _beat(self) -> None:
        if time.monotonic() - self._reported_at > _BEAT_SECONDS:
            self._reported_at = time.monotonic()
            self._report(self._progress)


def _first_of_equals(values: npt.NDArray[np.uint64], preferred: npt.NDArray[np.bool_]) -> Places:
    """Return for each row of values the first that equals it, a preferred one where there is one, [N]."""
    order = np.lexsort((np.arange(len(values)), ~preferred, *values.T))
    ordered = values[order]
    is_start = np.ones(len(values), bool)
    is_start[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(values), np.int64)
    first[order] = order[np.flatnonzero(is_start)[np.cumsum(is_start) - 1]] if len(values) else order
    return first


def _rank_within(rows: Places) -> Places:
    """Return which of its row's entries each entry is, from 0 on. rows: ascending."""
    starts = np.searchsorted(rows, rows)
    return np.arange(len(rows)) - starts


def _among(pairs: npt.NDArray[np.void], keys: Keys) -> npt.NDArray[np.void]:
    return pairs[np.isin(pairs["first"], keys) & np.isin(pairs["second"], keys)]


def _names(pairs: npt.NDArray[np.void]) -> Keys:
    """Return 64 bits that stand for each pair, whichever of the two is its first."""
    names: Keys = np.minimum(pairs["first"], pairs["second"]) * _ODD ^ np.maximum(pairs["first"], pairs["second"])
    return names


def _without_repeats(pairs: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    """Return each pair once, at the strictest level at which it was found."""
    ordered = pairs[np.argsort(pairs["level"], kind="stable")]
    return ordered[np.unique(_names(ordered), return_index=True)[1]]
