"""Makes a folder of pictures an index: plans, embeds what is new, joins it with what is kept, publishes."""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from search.engine import durable, storage
from search.engine.build.contents import Contents
from search.engine.build.embedding import Chunk, Embedding, PictureReader, Read, chunk_size, libraries_of, made_by
from search.engine.build.match import Pictures as Files
from search.engine.build.match import fit_match
from search.engine.build.plan import (
    EMBED,
    SKIPPED,
    TIME_GRAIN_NS,
    PathsOfRows,
    Pictures,
    Places,
    Plan,
    is_indexed,
    is_to_embed,
    make_plan,
)
from search.engine.build.units import (
    EMBEDDED,
    LEFT,
    UNREADABLE,
    Embedded,
    Place,
    Report,
    Unit,
    UnitOrders,
    UnitResult,
    Units,
    embed_unit,
    read_result,
    write_known,
)
from search.engine.build.workspace import Workspace
from search.engine.errors import (
    ImageUnreadable,
    IndexNotBuilt,
    IndexUnusable,
    NotEnoughSpace,
    NothingToIndex,
    UnitRefused,
)
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.match_fit import MatchFit, still_serves
from search.engine.index.neighbours import Neighbours
from search.engine.index.records import ImageRecord, image_id
from search.engine.index.thresholds import thresholds_of
from search.engine.index.vector_file import StoredVectors
from search.engine.model.embedder import Embedder
from search.engine.pictures.folder import SkippedFile
from search.engine.pictures.folders import PictureFolder, as_folder
from search.engine.pictures.paths import ALLOWED_EXTENSIONS
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vectors

_SAME_VECTOR = 1e-5  # of each number; what a full rebuild may differ from an incremental one
_SAMPLES = 8
_FLUSH_SECONDS = 5.0  # of work that a killed build may lose
_FLUSH_PICTURES = 4096
_DAMAGED = "The previous index is damaged"
_IN_DOUBT = -1  # for the time of a file
_VECTOR_BYTES = 4 * DIMENSION
_OTHER_BYTES = 512  # of a picture, in the rest of the index
_NOTHING: Any = (np.empty((0, DIMENSION), np.float32), [], np.empty(0, SIGNATURE))


@dataclass(frozen=True, slots=True)
class BuildProgress:
    found: int = 0  # pictures in the folder
    embedded: int = 0
    reused: int = 0  # vectors kept from the previous index
    removed: int = 0  # pictures of the previous index that are gone
    skipped: int = 0

    @property
    def done(self) -> int:
        return self.embedded + self.reused + self.skipped


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    progress: BuildProgress
    skipped_files: list[SkippedFile] = field(repr=False)
    total_images: int
    full_reason: str  # why all pictures were processed; "" where vectors could be kept
    published: bool  # False: the previous index is already what this build would have made
    neighbours: Neighbours | None = None  # of the index that is there now


@dataclass(frozen=True, slots=True)
class BuildOptions:
    max_pixels: int
    batch_size: int = 32  # pictures a model run, at most
    workers: int = os.cpu_count() or 1  # threads, each of which decodes and embeds
    full: bool = False  # process all pictures, not only changed ones
    checksum: bool = False  # compare contents, not only sizes and times
    allow_empty: bool = False  # an empty folder empties the index
    keep_generations: int = 2
    embeddings_npy: bool = True  # see storage.IndexWriter


def build_index(
    folder: Path | PictureFolder,
    target: Path,
    *,
    embedder: Embedder,
    options: BuildOptions,
    live_sequence: int | None = None,
    company: str = "",
    owner: str = "",
    before: Path | None = None,
    units: Units | None = None,
    publish: storage.Publish | None = None,
    report: Callable[[BuildProgress], None] = lambda progress: None,
) -> BuildOutcome:
    """Build the index of target from the pictures below folder; until it is complete searches use the old one.

    Pictures that have not changed keep their vectors, and so do those moved; the result is that of a full build.
    What a stopped build has embedded is found again by the next. A picture that cannot be read is skipped and
    named in the outcome. live_sequence: the last live change whose picture lies in folder.
    company: whose pictures' ids they get, by default the one that target is named after. owner: see
    storage.workspace. before: where the files of the previous index are, by default those that target leads to.
    units: who hands out parts of a large build to other workers; the vectors are those that this process alone makes.
    publish: makes the finished files the index, by default by a link at target.
    report is called after each batch and during long steps; an exception from it, or from publish, ends the build and
    leaves the old index.
    Raises NothingToIndex where no picture could be indexed, NotEnoughSpace, PublishRefused and StoreError.
    """
    build = _Build(folder, target, embedder, options, live_sequence, report, company, owner, before, units)
    return build.run(publish or partial(storage.publish_by_link, target, keep=options.keep_generations))


@dataclass(frozen=True, slots=True)
class BuildEstimate:
    plan: Plan
    full_reason: str
    to_embed: int
    seconds: float | None  # None where no picture could be tried


def estimate_build(
    folder: Path | PictureFolder,
    target: Path,
    *,
    embedder: Embedder,
    options: BuildOptions,
    before: Path | None = None,
) -> BuildEstimate:
    """Return what build_index would do, and how long it would take, from trying a few pictures; nothing is written."""
    build = _Build(folder, target, embedder, options, None, lambda progress: None, before=before)
    plan = build.make_plan()
    to_embed = plan.to_embed
    seconds = build.time_embedding(plan, to_embed)
    return BuildEstimate(plan, build.full_reason, to_embed, None if seconds is None else seconds * to_embed)


class _Build:
    def __init__(
        self,
        folder: Path | PictureFolder,
        target: Path,
        embedder: Embedder,
        options: BuildOptions,
        live_sequence: int | None,
        report: Callable[[BuildProgress], None],
        company: str = "",
        owner: str = "",
        before: Path | None = None,
        units: Units | None = None,
    ) -> None:
        self._folder, self._target, self._files_before = as_folder(folder), target, before or target
        self._units = units
        self._workspace = storage.workspace(target, owner)
        self._embedder, self._options = embedder, options
        self._live_sequence = live_sequence
        self._report = report
        self._progress = BuildProgress()
        self._libraries = libraries_of(embedder)
        self._scanned_at_ns = time.time_ns()
        self._company = company or target.name
        self._given_ids = storage.given_ids(target, self._company, self._files_before)
        self._before, self._why_unusable = self._load_before()
        self.full_reason = self._why_full()
        self._kept = None if self.full_reason else self._before
        self._rows_by_content = _contents_of(self._kept)

    def run(self, publish: storage.Publish) -> BuildOutcome:
        plan = self.make_plan(_existing_parent(self._target))
        self._require_pictures(plan)
        self._advance(found=plan.found, reused=plan.kept, removed=plan.removed, skipped=len(plan.skipped))
        if self._is_done_already(plan):
            return self._outcome(plan, len(plan), None)
        self._require_space(plan)
        with (
            storage.IndexWriter(
                self._target,
                embeddings_npy=self._options.embeddings_npy,
                before=self._kept.coarse if self._kept else None,
            ) as writer,
            self._open_workspace() as workspace,
        ):
            kept = plan.kept
            self._embed(plan, workspace)
            indexed = plan.indexed
            if not indexed and plan.found:
                raise NothingToIndex(_why_nothing(self._folder, plan.skipped))
            # What was tried may all have been unreadable.
            published = None
            if indexed > kept or not self._is_done_already(plan):
                paths = self._write(plan, workspace, writer)
                fit = partial(self._fit_match, paths, kept=plan.kept)
                published = writer.publish(self._info(), publish, given_ids=self._given_ids, fit=fit, beat=self._beat)
            workspace.clear()
        return self._outcome(plan, indexed, published)

    def make_plan(self, directory: Path | None = None) -> Plan:
        """Return what is to be done; a previous index of which something may be kept has been compared by then.

        directory: see Plan.
        """
        try:
            plan = self._compare(directory)
            if self._kept is not None:
                # What is kept from it gets checksums of its own: damage must not be handed on as sound.
                storage.require_undamaged(self._files_before, copy=False, beat=self._beat)
        except IndexUnusable:
            self.full_reason = self.full_reason or _DAMAGED
            self._before = self._kept = None
            self._rows_by_content = _contents_of(None)
            plan = self._compare(directory)
        return plan

    def _compare(self, directory: Path | None) -> Plan:
        in_order = self._before is not None and self._before.signatures is not None  # as builds write them
        return make_plan(
            self._folder,
            self._before if in_order else None,
            keep=self._kept is not None,
            checksum=self._options.checksum,
            beat=lambda found: self._advance(found=found),
            directory=directory,
        )

    def time_embedding(self, plan: Plan, to_embed: int) -> float | None:
        """Return the seconds that a picture takes, from embedding a few of those that are to be embedded."""
        few = min(2 * self._options.batch_size, to_embed)
        if not few:
            return None
        chosen = set(np.linspace(0, to_embed - 1, num=few, dtype=int).tolist())
        tried = [picture for number, picture in enumerate(_to_embed(plan)) if number in chosen]
        started = time.perf_counter()
        with Embedding(self._reader(None), workers=self._options.workers) as embedding:
            deque(embedding.in_order(self._chunks(tried, few)), maxlen=0)
        return (time.perf_counter() - started) / few

    # What can be kept

    def _load_before(self) -> tuple[ImageIndex | None, str]:
        """Return the previous index, or why there is none to use."""
        try:
            before = storage.load(self._files_before)
            _ = before.signatures, before.hashes  # are read now, and whole
        except IndexNotBuilt:
            return None, "First build"
        except IndexUnusable:
            return None, _DAMAGED
        return before, ""

    def _why_full(self) -> str:
        """Return why no vector of the previous index can be kept, or ""."""
        if self._options.full:
            return "Full build requested"
        if self._before is None:
            return self._why_unusable
        if self._before.signatures is None:
            return "The previous index was imported and does not record its files"
        if self._before.hashes is None:
            return "The previous index does not record what its pictures look like"
        passport = self._before.info.passport
        if passport != self._embedder.passport:
            return f"The model changed from {passport} to {self._embedder.passport}"
        if self._before.info.preparation != self._embedder.preparation:
            before = self._before.info.preparation or "that of an earlier release"
            return f"The preparation of pictures changed (now: {self._embedder.preparation}; before: {before})"
        if self._before.info.libraries != self._libraries and self._vectors_differ(self._before):
            return f"The libraries changed from {self._before.info.libraries} to {self._libraries}"
        return ""

    def _vectors_differ(self, before: ImageIndex) -> bool:
        """Return whether a few of the pictures get other vectors today, or none is there to tell."""
        compared = 0
        reader = self._reader(None)
        for row in np.linspace(0, len(before.records) - 1, num=min(_SAMPLES, len(before.records)), dtype=int):
            try:
                path = before.records[int(row)].path
                with self._folder.open(path) as file:
                    if durable.sha256(file) != before.signatures[row]["sha256"].tobytes():
                        continue
                    hashed = reader.hashed(file, path)
            except (OSError, ImageUnreadable, IndexUnusable):
                continue
            today = self._embedder.embed([hashed.pixels])[0]
            if np.abs(today - before.vectors.at(int(row))).max() > _SAME_VECTOR:
                return True
            compared += 1
        return not compared

    def _is_done_already(self, plan: Plan) -> bool:
        """Return whether the previous index is what the pictures make that the plan finds unchanged."""
        return (
            self._kept is not None
            and self._has_these_rows(self._kept, plan)
            and self._kept.info.libraries == self._libraries
            and self._kept.info.live_sequence == self._live_sequence
            and still_serves(self._kept.info.match, images=len(self._kept.records))
            and storage.has_copy_as_wanted(
                self._files_before, wanted=self._options.embeddings_npy, beat=self._beat
            )  # at last: it takes long
        )

    def _has_these_rows(self, kept: ImageIndex, plan: Plan) -> bool:
        """Return whether the pictures, those apart that cannot be read, are the rows of an index, one after another."""
        row = 0
        for _, pictures in plan.blocks():
            pictures = pictures[pictures["number"] != SKIPPED]
            stop = row + len(pictures)
            same = np.array_equal(pictures["row"], np.arange(row, stop))
            if not same or not np.array_equal(pictures["signature"], kept.signatures[row:stop]):
                return False
            row = stop
        return row == len(kept.records)

    # Refusals before anything is written

    def _require_pictures(self, plan: Plan) -> None:
        if plan.found or self._options.allow_empty:
            return
        others = self._folder.other_types()
        there = f", only other files ({others}; allowed are {', '.join(ALLOWED_EXTENSIONS)})" if others else ""
        raise NothingToIndex(
            f"The image folder {self._folder} contains no pictures{there}: "
            "add some, or allow an empty index with build_embeddings --allow-empty"
        )

    def _require_space(self, plan: Plan) -> None:
        to_embed = len(plan) - plan.kept
        copies = 2 if self._options.embeddings_npy else 1
        needed = len(plan) * (copies * _VECTOR_BYTES + _OTHER_BYTES) + to_embed * _VECTOR_BYTES
        place = _existing_parent(self._target)
        free = shutil.disk_usage(place).free
        if free < needed:
            raise NotEnoughSpace(
                f"The index of {len(plan)} pictures needs {needed / 2**20:.0f} MB, "
                f"{place} has {free / 2**20:.0f} MB left: free up space, or lower IMAGESEARCH_KEEP_GENERATIONS"
            )

    # Embedding

    def _open_workspace(self) -> Workspace:
        return Workspace(self._workspace, made_by=made_by(self._embedder), beat=self._beat)

    def _embed(self, plan: Plan, workspace: Workspace) -> None:
        """Embed what the plan says, and note in it where the vectors are."""
        skipped = len(plan.skipped)
        self._find_again(plan, workspace)
        if self._units and plan.to_embed > self._units.pictures:
            self._embed_in_units(self._units, plan, workspace)
        self._embed_here(plan, workspace)
        plan.skipped[skipped:] = sorted(plan.skipped[skipped:], key=lambda file: file.path)

    def _embed_here(self, plan: Plan, workspace: Workspace) -> None:
        pending: list[Read] = []  # embedded, but not in the workspace yet
        flushed_at = time.monotonic()
        with Embedding(self._reader(workspace), workers=self._options.workers) as embedding:
            try:
                for reads in embedding.in_order(self._chunks(_to_embed(plan), plan.to_embed)):
                    done = self._take_in(reads, plan, workspace)
                    pending += _embedded(reads)
                    if time.monotonic() - flushed_at > _FLUSH_SECONDS or len(pending) >= _FLUSH_PICTURES:
                        self._flush(pending, plan, workspace)
                        flushed_at = time.monotonic()
                    self._count(done)
            finally:  # a build that is stopped keeps all its work
                for reads in embedding.left_over():
                    self._take_in(reads, plan, workspace)
                    pending += _embedded(reads)
                self._flush(pending, plan, workspace)

    def _flush(self, pending: list[Read], plan: Plan, workspace: Workspace) -> None:
        """Move what was embedded to the workspace."""
        if pending:
            vectors = np.stack([read.vector for read in pending if read.vector is not None])  # [pending, 960]
            hashes = np.array([read.perceptual_hash for read in pending], np.uint64)
            self._keep(_places(pending), _signatures(pending), hashes, vectors, plan, workspace)
        pending.clear()

    def _keep(
        self,
        places: Places,
        signatures: np.ndarray,
        hashes: np.ndarray,
        vectors: Vectors,
        plan: Plan,
        workspace: Workspace,
    ) -> None:
        """Keep in the workspace what was embedded of the pictures at these places of the plan."""
        # Of a file this young size and time prove nothing: the next build finds it by its content.
        signatures["mtime_ns"][signatures["mtime_ns"] >= self._scanned_at_ns - TIME_GRAIN_NS] = _IN_DOUBT
        numbers = workspace.add([plan.path(place) for place in places.tolist()], signatures, hashes.tolist(), vectors)
        plan.update(places, number=np.array(numbers))

    def _find_again(self, plan: Plan, workspace: Workspace) -> None:
        """Note where the vectors are of the pictures that a stopped build has embedded already."""
        if self._options.checksum or not len(workspace):
            return  # those of the same content are found when it is read
        embedded = 0
        for start, pictures in plan.blocks():
            numbers = workspace.find(plan.paths(range(start, start + len(pictures))), pictures["signature"])
            found = np.flatnonzero(is_to_embed(pictures) & (numbers >= 0))
            plan.update(start + found, number=numbers[found], signature=workspace.signatures(numbers[found]))
            embedded += len(found)
            self._advance(embedded=embedded)

    def _reader(self, workspace: Workspace | None) -> PictureReader:
        def is_known(sha256: bytes) -> bool:
            if self._rows_by_content.find(sha256) is not None:
                return True
            return workspace is not None and workspace.find_content(sha256) is not None

        return PictureReader(self._folder, self._embedder, self._options.max_pixels, is_known)

    def _chunks(self, pictures: Iterable[tuple[int, str]], count: int) -> Iterator[Chunk]:
        """Yield what a thread takes at a time; count: how many pictures there are."""
        remaining, size = iter(pictures), self._chunk_size(count)
        while chunk := list(islice(remaining, size)):
            yield chunk

    def _chunk_size(self, pictures: int) -> int:
        options = self._options
        return chunk_size(pictures, self._embedder, batch_size=options.batch_size, workers=options.workers)

    def _take_in(self, reads: list[Read], plan: Plan, workspace: Workspace) -> BuildProgress:
        """Note what became of the pictures of a chunk, and return how many of them were embedded, reused and so on."""
        plan.update(_places(reads), signature=_signatures(reads))
        known = [read.number for read in reads if read.is_known]
        unreadable = {read.number: read.reason for read in reads if read.reason}
        return self._note(known, unreadable, len(_embedded(reads)), plan, workspace)

    def _note(
        self, known: list[int], unreadable: dict[int, str], embedded: int, plan: Plan, workspace: Workspace
    ) -> BuildProgress:
        """Note where pictures are whose content is known, and which cannot be read; return these counts with others."""
        reused = 0
        for place in known:
            sha256 = plan.pictures(range(place, place + 1))["signature"]["sha256"].tobytes()
            if (row := self._rows_by_content.find(sha256)) is not None:
                plan.update(np.array([place]), row=np.array([row]))
                reused += 1
            elif (number := workspace.find_content(sha256)) is not None:
                plan.update(np.array([place]), number=np.array([number]))
                embedded += 1
        for place, reason in unreadable.items():
            plan.skipped.append(SkippedFile(plan.path(place), reason))
        plan.update(np.array(list(unreadable), np.int64), number=np.full(len(unreadable), SKIPPED))
        return BuildProgress(embedded=embedded, reused=reused, skipped=len(unreadable))

    def _count(self, done: BuildProgress) -> None:
        before = self._progress
        self._advance(
            embedded=before.embedded + done.embedded,
            reused=before.reused + done.reused,
            skipped=before.skipped + done.skipped,
        )

    # With other workers

    def _embed_in_units(self, units: Units, plan: Plan, workspace: Workspace) -> None:
        """Have other workers embed what the plan says, as chunks that this process alone would make; do some of it."""
        spans = self._cut(units, plan, workspace)
        for unit, result in units.finished(list(spans), partial(self._embed_unit, units.place)):
            try:
                embedded = read_result(units.place, unit, result)
            except UnitRefused as error:
                units.refuse(unit, result, str(error))
            else:
                self._take_in_unit(spans[unit], embedded, plan, workspace)

    def _cut(self, units: Units, plan: Plan, workspace: Workspace) -> dict[Unit, range]:
        """Write the units; return for each the places of the plan in which its pictures are, among others."""
        begins = self._rows_by_content.begins
        if self._options.checksum:  # else a stopped build's work is found by its looks, and the units stay the same
            begins = np.concatenate([begins, workspace.begins])
        chunk = self._chunk_size(plan.to_embed)
        orders = UnitOrders(
            units.place, self._embedder, chunk, self._options.max_pixels, write_known(units.place, begins)
        )
        spans: dict[Unit, range] = {}
        for span in _spans(plan, max(chunk, units.pictures - units.pictures % chunk)):
            paths = [path for _, path in _to_embed(plan, span)]
            if paths:
                spans[orders.write(paths)] = span
            self._beat()
        return spans

    def _embed_unit(self, place: Place, unit: Unit, attempt: str, report: Report) -> UnitResult:
        return embed_unit(
            place,
            unit.name,
            attempt=attempt,
            folder=self._folder,
            embedder=self._embedder,
            workers=self._options.workers,
            publishes=True,
            report=report,
        )

    def _take_in_unit(self, span: range, made: Embedded, plan: Plan, workspace: Workspace) -> None:
        """Note what became of the pictures of a unit; those that looked otherwise by then are left to be embedded here.

        The unit may have been made for a publisher before, and what is planned counts: a later change has its own way.
        """
        places = np.array([place for place, _ in _to_embed(plan, span)])
        planned = plan.pictures(span)["signature"][places - span.start]
        same = np.all([planned[name] == made.signatures[name] for name in ("size", "mtime_ns")], axis=0)
        embedded, unreadable = made.outcomes == EMBEDDED, made.outcomes == UNREADABLE
        of_same = same[embedded]
        plan.update(places[same], signature=made.signatures[same])
        embedded_places, signatures = places[embedded & same], made.signatures[embedded & same]
        self._keep(embedded_places, signatures, made.hashes[of_same], made.vectors[of_same], plan, workspace)
        why = dict(zip(places[unreadable].tolist(), made.reasons, strict=True))
        why = {place: why[place] for place in places[unreadable & same].tolist()}
        left = places[(made.outcomes == LEFT) & same].tolist()
        self._count(self._note(left, why, len(embedded_places), plan, workspace))

    # Writing

    def _write(self, plan: Plan, workspace: Workspace, writer: storage.IndexWriter) -> PathsOfRows:
        """Write the pictures of the plan that have a vector, in the order of their paths, and return these."""
        left_out: list[int] = []
        writer.add(*_NOTHING, hashes=np.empty(0, np.uint64))  # an empty index has, empty, signatures too
        for start, pictures in plan.blocks():
            paths, indexed = plan.paths(range(start, start + len(pictures))), is_indexed(pictures)
            records = [self._identify(paths[place]) for place in np.flatnonzero(indexed)]
            left_out += (start + np.flatnonzero(~indexed)).tolist()
            self._write_block(pictures[indexed], records, workspace, writer)
            self._report(self._progress)
        return PathsOfRows(plan, left_out)

    def _write_block(
        self, pictures: Pictures, records: list[ImageRecord], workspace: Workspace, writer: storage.IndexWriter
    ) -> None:
        rows = pictures["row"]
        vectors, hashes = np.empty((len(rows), DIMENSION), np.float32), np.empty(len(rows), np.uint64)
        kept = rows != EMBED
        if self._kept is not None and self._kept.hashes is not None:  # else nothing of it is kept
            vectors[kept], hashes[kept] = self._kept.vectors[rows[kept]], self._kept.hashes[rows[kept]]
        new = pictures["number"][~kept]
        vectors[~kept], hashes[~kept] = workspace.vectors(new), workspace.hashes(new)
        writer.add(vectors, records, pictures["signature"], hashes=hashes, rows_before=rows)

    def _identify(self, path: str) -> ImageRecord:
        return ImageRecord(path, self._given_ids.get(path) or image_id(self._company, path))

    def _info(self) -> IndexInfo:
        passport = self._embedder.passport
        return IndexInfo(
            total_images=0,
            weights=passport.weights,
            fingerprint=passport.fingerprint,
            preparation=self._embedder.preparation,
            libraries=self._libraries,
            thresholds=thresholds_of(passport.fingerprint),
            scanned_at_ns=self._scanned_at_ns,
            live_sequence=self._live_sequence,
        )

    def _fit_match(self, paths: PathsOfRows, vectors: StoredVectors, *, kept: int) -> MatchFit | None:
        """Return how scores become percentages in the index of these vectors.

        paths: of each row. kept: how many of the pictures are from the previous index.
        """
        before = self._kept.info.match if self._kept else None
        if self._kept and 2 * kept >= len(paths) and still_serves(before, images=len(paths)):
            return before
        pictures = Files(self._folder, paths, self._options.max_pixels)
        return fit_match(vectors, pictures, embedder=self._embedder, workers=self._options.workers, beat=self._beat)

    # Progress

    def _advance(self, **counts: int) -> None:
        self._progress = replace(self._progress, **counts)
        self._beat()

    def _beat(self) -> None:
        self._report(self._progress)

    def _outcome(self, plan: Plan, total: int, published: storage.Published | None) -> BuildOutcome:
        """published: None where the previous index stays."""
        before = self._kept.info.neighbours if self._kept else None
        neighbours = published.neighbours if published else before
        return BuildOutcome(self._progress, plan.skipped, total, self.full_reason, bool(published), neighbours)


def _contents_of(index: ImageIndex | None) -> Contents:
    return Contents(None if index is None else index.signatures)


def _existing_parent(path: Path) -> Path:
    return next(parent for parent in path.absolute().parents if parent.exists())


def _to_embed(plan: Plan, places: range | None = None) -> Iterator[tuple[int, str]]:
    """Yield the places, of these or of all, and the paths of the pictures that are to be embedded."""
    for start, pictures in plan.blocks(places):
        if (chosen := is_to_embed(pictures)).any():
            paths = plan.paths(range(start, start + len(pictures)))
            yield from ((start + place, paths[place]) for place in np.flatnonzero(chosen).tolist())


def _spans(plan: Plan, pictures: int) -> Iterator[range]:
    """Cut the plan into parts, in each of which so many pictures were to be embedded at first; the last may have fewer.

    A build that goes on with the work of another cuts it alike.
    """
    start = waiting = 0
    for first, block in plan.blocks():
        for place in np.flatnonzero(block["row"] == EMBED).tolist():
            waiting += 1
            if waiting == pictures:
                yield range(start, first + place + 1)
                start, waiting = first + place + 1, 0
    yield range(start, len(plan))


def _embedded(reads: list[Read]) -> list[Read]:
    return [read for read in reads if read.vector is not None]


def _places(reads: list[Read]) -> Places:
    return np.array([read.number for read in reads], np.int64)


def _signatures(reads: list[Read]) -> np.ndarray:
    return np.array([read.signature for read in reads], SIGNATURE)


def _why_nothing(folder: PictureFolder, skipped: list[SkippedFile]) -> str:
    first = skipped[0]
    return f"None of the {len(skipped)} pictures in {folder} could be read; the first, {first.path}: {first.reason}"
