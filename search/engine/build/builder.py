"""Makes a folder of pictures an index: plans, embeds what is new, joins it with what is kept, publishes."""

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL

from search.engine import durable, storage
from search.engine.build.match import Pictures, fit_match
from search.engine.build.plan import EMBED, TIME_GRAIN_NS, Plan, make_plan
from search.engine.build.workspace import Workspace
from search.engine.errors import (
    ImageUnreadable,
    IndexNotBuilt,
    IndexUnusable,
    NotEnoughSpace,
    NothingToIndex,
    StoreUnavailable,
)
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.match_fit import MatchFit, still_serves
from search.engine.index.neighbours import Neighbours
from search.engine.index.records import ImageRecord, image_id
from search.engine.index.thresholds import thresholds_of
from search.engine.index.vector_file import StoredVectors
from search.engine.model.embedder import Embedder, Hashed, read_hashed
from search.engine.pictures.folder import SkippedFile
from search.engine.pictures.folders import PictureFolder, as_folder
from search.engine.pictures.paths import ALLOWED_EXTENSIONS
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vector

_SAME_VECTOR = 1e-5  # of each number; what a full rebuild may differ from an incremental one
_SAMPLES = 8
_ROWS_A_BLOCK = 1024
_FLUSH_SECONDS = 5.0  # of work that a killed build may lose
_FLUSH_PICTURES = 4096
_CHUNKS_AHEAD = 4  # for each thread: while a large picture is decoded, the others go on with those behind it
_DAMAGED = "The previous index is damaged"
_IN_DOUBT = -1  # for the time of a file
_VECTOR_BYTES = 4 * DIMENSION
_OTHER_BYTES = 512  # of a picture, in the rest of the index


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
    publish: storage.Publish | None = None,
    report: Callable[[BuildProgress], None] = lambda progress: None,
) -> BuildOutcome:
    """Build the index of target from the pictures below folder; until it is complete searches use the old one.

    Pictures that have not changed keep their vectors, and so do those moved; the result is that of a full build.
    What a stopped build has embedded is found again by the next. A picture that cannot be read is skipped and
    named in the outcome. live_sequence: the last live change whose picture lies in folder.
    company: whose pictures' ids they get, by default the one that target is named after. owner: see
    storage.workspace. before: where the files of the previous index are, by default those that target leads to.
    publish: makes the finished files the index, by default by a link at target.
    report is called after each batch and during long steps; an exception from it, or from publish, ends the build and
    leaves the old index.
    Raises NothingToIndex where no picture could be indexed, NotEnoughSpace, PublishRefused and StoreUnavailable.
    """
    build = _Build(folder, target, embedder, options, live_sequence, report, company, owner, before)
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
    to_embed = np.flatnonzero(plan.rows == EMBED)
    tried = to_embed[np.linspace(0, len(to_embed) - 1, num=min(2 * options.batch_size, len(to_embed)), dtype=int)]
    seconds = build.time_embedding(plan, tried)
    return BuildEstimate(plan, build.full_reason, len(to_embed), None if seconds is None else seconds * len(to_embed))


@dataclass(frozen=True, slots=True)
class _Read:
    """A picture file that was read: now embedded, or of known content, or unreadable."""

    number: int  # in the plan
    signature: Any  # SIGNATURE
    hashed: Hashed | None = None  # until it is embedded
    vector: Vector | None = None
    perceptual_hash: int = 0
    known_row: int | None = None  # of the previous index
    known_number: int | None = None  # in the workspace
    reason: str = ""


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
    ) -> None:
        self._folder, self._target, self._files_before = as_folder(folder), target, before or target
        self._workspace = storage.workspace(target, owner)
        self._embedder, self._options = embedder, options
        self._live_sequence = live_sequence
        self._report = report
        self._progress = BuildProgress()
        self._libraries = {"pillow": PIL.__version__, **embedder.libraries}
        self._scanned_at_ns = time.time_ns()
        self._company = company or target.name
        self._given_ids = storage.given_ids(target, self._company, self._files_before)
        self._before, self._why_unusable = self._load_before()
        self.full_reason = self._why_full()
        self._kept = None if self.full_reason else self._before
        self._rows_by_content = _RowsByContent(self._kept)

    def run(self, publish: storage.Publish) -> BuildOutcome:
        plan = self.make_plan()
        self._require_pictures(plan)
        self._advance(found=plan.found, reused=plan.kept, removed=plan.removed, skipped=len(plan.skipped))
        rows_by_path = plan.rows.copy()
        if self._is_done_already(rows_by_path, plan.signatures):
            return self._outcome(plan, len(plan.paths), None)
        self._require_space(plan)
        with (
            storage.IndexWriter(
                self._target,
                embeddings_npy=self._options.embeddings_npy,
                before=self._kept.coarse if self._kept else None,
            ) as writer,
            self._open_workspace() as workspace,
        ):
            numbers = self._embed(plan, workspace)
            indexed = np.flatnonzero((plan.rows != EMBED) | (numbers != EMBED))
            if not len(indexed) and plan.found:
                raise NothingToIndex(_why_nothing(self._folder, plan.skipped))
            # What was tried may all have been unreadable.
            published = None
            if not self._is_done_already(rows_by_path[indexed], plan.signatures[indexed]):
                self._write(plan, workspace, numbers, indexed, writer)
                paths = [plan.paths[number] for number in indexed]
                fit = partial(self._fit_match, paths, kept=int(np.count_nonzero(plan.rows[indexed] != EMBED)))
                published = writer.publish(self._info(), publish, given_ids=self._given_ids, fit=fit, beat=self._beat)
            workspace.clear()
        return self._outcome(plan, len(indexed), published)

    def make_plan(self) -> Plan:
        """Return what is to be done; a previous index of which something may be kept has been compared by then."""
        try:
            plan = self._compare()
            if self._kept is not None:
                # What is kept from it gets checksums of its own: damage must not be handed on as sound.
                storage.require_undamaged(self._files_before, copy=False, beat=self._beat)
        except IndexUnusable:
            self.full_reason = self.full_reason or _DAMAGED
            self._before = self._kept = None
            self._rows_by_content = _RowsByContent(None)
            plan = self._compare()
        return plan

    def _compare(self) -> Plan:
        in_order = self._before is not None and self._before.signatures is not None  # as builds write them
        return make_plan(
            self._folder,
            self._before if in_order else None,
            keep=self._kept is not None,
            checksum=self._options.checksum,
            beat=lambda found: self._advance(found=found),
        )

    def time_embedding(self, plan: Plan, numbers: np.ndarray) -> float | None:
        """Return the seconds that a picture takes, from embedding those with these numbers in the plan."""
        if not len(numbers):
            return None
        started = time.perf_counter()
        with self._threads() as threads:
            deque(threads.map(lambda chunk: self._embed_chunk(chunk, plan, None), self._chunks(numbers)), maxlen=0)
        return (time.perf_counter() - started) / len(numbers)

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
        for row in np.linspace(0, len(before.records) - 1, num=min(_SAMPLES, len(before.records)), dtype=int):
            try:
                path = before.records[int(row)].path
                with self._folder.open(path) as file:
                    if durable.sha256(file) != before.signatures[row]["sha256"].tobytes():
                        continue
                    hashed = self._read_hashed(file, path)
            except (OSError, ImageUnreadable, IndexUnusable):
                continue
            today = self._embedder.embed([hashed.pixels])[0]
            if np.abs(today - before.vectors.at(int(row))).max() > _SAME_VECTOR:
                return True
            compared += 1
        return not compared

    def _is_done_already(self, rows_by_path: np.ndarray, signatures: np.ndarray) -> bool:
        """Return whether the previous index is what these pictures make; rows by content may be of other paths."""
        return (
            self._kept is not None
            and np.array_equal(rows_by_path, np.arange(len(self._kept.records)))
            and np.array_equal(signatures, self._kept.signatures)
            and self._kept.info.libraries == self._libraries
            and self._kept.info.live_sequence == self._live_sequence
            and still_serves(self._kept.info.match, images=len(self._kept.records))
            and storage.has_copy_as_wanted(
                self._files_before, wanted=self._options.embeddings_npy, beat=self._beat
            )  # at last: it takes long
        )

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
        to_embed = len(plan.paths) - plan.kept
        copies = 2 if self._options.embeddings_npy else 1
        needed = len(plan.paths) * (copies * _VECTOR_BYTES + _OTHER_BYTES) + to_embed * _VECTOR_BYTES
        place = next(parent for parent in self._target.absolute().parents if parent.exists())
        free = shutil.disk_usage(place).free
        if free < needed:
            raise NotEnoughSpace(
                f"The index of {len(plan.paths)} pictures needs {needed / 2**20:.0f} MB, "
                f"{place} has {free / 2**20:.0f} MB left: free up space, or lower IMAGESEARCH_KEEP_GENERATIONS"
            )

    # Embedding

    def _open_workspace(self) -> Workspace:
        made_by = {
            "fingerprint": self._embedder.passport.fingerprint,
            "preparation": self._embedder.preparation,
            "libraries": self._libraries,
        }
        return Workspace(self._workspace, made_by=made_by)

    def _embed(self, plan: Plan, workspace: Workspace) -> np.ndarray:
        """Embed what the plan says; return, for each of its pictures, the number in the workspace or EMBED."""
        numbers = np.full(len(plan.paths), EMBED, np.int64)
        self._find_again(plan, workspace, numbers)
        todo = np.flatnonzero((plan.rows == EMBED) & (numbers == EMBED))
        pending: list[_Read] = []  # embedded, but not in the workspace yet
        flushed_at = time.monotonic()
        waiting: deque[Future[list[_Read]]] = deque()
        with self._threads() as threads:
            try:
                for reads in self._embed_in_order(todo, plan, workspace, threads, waiting):
                    pending += self._take_in(reads, plan, numbers)
                    if time.monotonic() - flushed_at > _FLUSH_SECONDS or len(pending) >= _FLUSH_PICTURES:
                        self._flush(pending, plan, workspace, numbers)
                        flushed_at = time.monotonic()
                    self._count(reads, plan)
            finally:  # a build that is stopped keeps all its work
                threads.shutdown(cancel_futures=True)
                for future in waiting:
                    if not future.cancelled() and not future.exception():
                        pending += self._take_in(future.result(), plan, numbers)
                self._flush(pending, plan, workspace, numbers)
        return numbers

    def _flush(self, pending: list[_Read], plan: Plan, workspace: Workspace, numbers: np.ndarray) -> None:
        """Move what was embedded to the workspace."""
        if pending:
            vectors = np.stack([read.vector for read in pending if read.vector is not None])  # [pending, 960]
            signatures = np.array([read.signature for read in pending], SIGNATURE)
            # Of a file this young size and time prove nothing: the next build finds it by its content.
            signatures["mtime_ns"][signatures["mtime_ns"] >= self._scanned_at_ns - TIME_GRAIN_NS] = _IN_DOUBT
            paths, hashes = zip(*((plan.paths[read.number], read.perceptual_hash) for read in pending), strict=True)
            added = workspace.add(paths, signatures, hashes, vectors)
            numbers[[read.number for read in pending]] = added
        pending.clear()

    def _find_again(self, plan: Plan, workspace: Workspace, numbers: np.ndarray) -> None:
        """Set the numbers of the pictures that a stopped build has embedded already."""
        if self._options.checksum:
            return  # those of the same content are found when it is read
        for number in np.flatnonzero(plan.rows == EMBED):
            signature = plan.signatures[number]
            found = workspace.find(plan.paths[number], int(signature["size"]), int(signature["mtime_ns"]))
            if found is not None:
                numbers[number] = found
                plan.signatures[number] = workspace.signature(found)
        self._advance(embedded=int(np.count_nonzero(numbers != EMBED)))

    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._options.workers, thread_name_prefix="embed")

    def _chunks(self, numbers: np.ndarray) -> Iterator[list[int]]:
        """Yield what a thread takes at a time: as many pictures as the model takes best, fewer if few are left."""
        share = -(-len(numbers) // self._options.workers)
        size = max(1, min(self._options.batch_size, self._embedder.pictures_a_run, share))
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size].tolist()

    def _embed_in_order(
        self,
        numbers: np.ndarray,
        plan: Plan,
        workspace: Workspace,
        threads: ThreadPoolExecutor,
        waiting: deque[Future[list[_Read]]],
    ) -> Iterator[list[_Read]]:
        """Yield the pictures with these numbers, chunk by chunk; waiting: what the threads are ahead, a little."""
        for chunk in self._chunks(numbers):
            waiting.append(threads.submit(self._embed_chunk, chunk, plan, workspace))
            if len(waiting) > _CHUNKS_AHEAD * self._options.workers:
                yield _first_of(waiting)
        while waiting:
            yield _first_of(waiting)

    def _embed_chunk(self, chunk: list[int], plan: Plan, workspace: Workspace | None) -> list[_Read]:
        reads = [self._read(plan.paths[number], number, workspace) for number in chunk]
        pixels = [read.hashed.pixels for read in reads if read.hashed]
        vectors = self._embedder.embed(pixels) if pixels else np.empty((0, DIMENSION), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError(f"The weights {self._embedder.passport} produce vectors that are not finite numbers")
        made = iter(vectors)
        return [_embedded(read, read.hashed, next(made)) if read.hashed else read for read in reads]

    def _read(self, path: str, number: int, workspace: Workspace | None) -> _Read:
        signature = np.zeros((), SIGNATURE)
        try:
            with self._folder.open(path) as file:
                look = self._folder.look(file)
                sha256 = durable.sha256(file)
                signature["size"], signature["mtime_ns"] = look.size, look.mtime_ns
                signature["sha256"] = np.frombuffer(sha256, np.uint8)
                if (row := self._rows_by_content.find(sha256)) is not None:
                    return _Read(number, signature, known_row=row)
                if workspace and (known := workspace.find_content(sha256)) is not None:
                    return _Read(number, signature, known_number=known)
                hashed = self._read_hashed(file, path)
                after = self._folder.look(file)
                if (after.size, after.mtime_ns) != (look.size, look.mtime_ns):
                    signature["sha256"] = 0  # it was written meanwhile: nobody knows the hash of what was decoded
                return _Read(number, signature, hashed=hashed)
        except ImageUnreadable as error:
            return _Read(number, signature, reason=str(error))
        except StoreUnavailable:  # nothing is known of the picture: an index without it would lose it
            raise
        except Exception as error:  # whatever one file does, the others are indexed
            why = getattr(error, "strerror", None) or type(error).__name__
            return _Read(number, signature, reason=f"The file cannot be read: {why}")

    def _read_hashed(self, file: BinaryIO, path: str) -> Hashed:
        return read_hashed(self._embedder, file, name=path, max_pixels=self._options.max_pixels)

    def _take_in(self, reads: list[_Read], plan: Plan, numbers: np.ndarray) -> list[_Read]:
        """Note what became of the pictures of a chunk; return those that were embedded."""
        for read in reads:
            plan.signatures[read.number] = read.signature
            if read.known_row is not None:
                plan.rows[read.number] = read.known_row
            elif read.known_number is not None:
                numbers[read.number] = read.known_number
            elif read.vector is None:
                plan.skipped.append(SkippedFile(plan.paths[read.number], read.reason))
        return [read for read in reads if read.vector is not None]

    def _count(self, reads: list[_Read], plan: Plan) -> None:
        reused = sum(read.known_row is not None for read in reads)
        skipped = len(plan.skipped) - self._progress.skipped
        self._advance(
            embedded=self._progress.embedded + len(reads) - reused - skipped,
            reused=self._progress.reused + reused,
            skipped=len(plan.skipped),
        )

    # Writing

    def _write(
        self, plan: Plan, workspace: Workspace, numbers: np.ndarray, indexed: np.ndarray, writer: storage.IndexWriter
    ) -> None:
        """Write the pictures of the plan that have a vector, in the order of their paths."""
        for start in range(0, max(1, len(indexed)), _ROWS_A_BLOCK):  # an empty index has, empty, signatures too
            block = indexed[start : start + _ROWS_A_BLOCK]
            rows = plan.rows[block]
            vectors, hashes = np.empty((len(block), DIMENSION), np.float32), np.empty(len(block), np.uint64)
            kept = rows != EMBED
            if self._kept is not None and self._kept.hashes is not None:  # else nothing of it is kept
                vectors[kept], hashes[kept] = self._kept.vectors[rows[kept]], self._kept.hashes[rows[kept]]
            new = numbers[block[~kept]]
            vectors[~kept], hashes[~kept] = workspace.vectors(new), workspace.hashes(new)
            records = [self._identify(plan.paths[number]) for number in block]
            writer.add(vectors, records, plan.signatures[block], hashes=hashes, rows_before=rows)
            self._report(self._progress)

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

    def _fit_match(self, paths: list[str], vectors: StoredVectors, *, kept: int) -> MatchFit | None:
        """Return how scores become percentages in the index of these vectors.

        paths: of each row. kept: how many of the pictures are from the previous index.
        """
        before = self._kept.info.match if self._kept else None
        if self._kept and 2 * kept >= len(paths) and still_serves(before, images=len(paths)):
            return before
        pictures = Pictures(self._folder, paths, self._options.max_pixels)
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


class _RowsByContent:
    """Finds the row of an index by its file's SHA-256. Never changes, so threads share it."""

    def __init__(self, index: ImageIndex | None) -> None:
        self._signatures = None if index is None else index.signatures
        if self._signatures is not None:
            keys = self._signatures["sha256"][:, :8].copy().view("<u8").ravel()  # [N]
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]

    def find(self, sha256: bytes) -> int | None:
        if self._signatures is None:
            return None
        key = np.frombuffer(sha256[:8], "<u8")[0]
        place = int(np.searchsorted(self._keys, key))
        while place < len(self._keys) and self._keys[place] == key:
            row = int(self._order[place])
            if self._signatures[row]["sha256"].tobytes() == sha256:
                return row
            place += 1
        return None


def _embedded(read: _Read, hashed: Hashed, vector: Vector) -> _Read:
    return replace(read, hashed=None, vector=vector, perceptual_hash=hashed.perceptual_hash)


def _first_of(waiting: deque[Future[list[_Read]]]) -> list[_Read]:
    """Wait for the first; if that is interrupted it is still waiting, and is not lost."""
    reads = waiting[0].result()
    waiting.popleft()
    return reads


def _why_nothing(folder: PictureFolder, skipped: list[SkippedFile]) -> str:
    first = skipped[0]
    return f"None of the {len(skipped)} pictures in {folder} could be read; the first, {first.path}: {first.reason}"
