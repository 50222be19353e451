import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from search.engine import storage
from search.engine.embedder import Embedder, Vectors
from search.engine.errors import ImageUnreadable, IndexUnusable, NothingToIndex
from search.engine.images import ImageFile, SkippedFile, find_images, open_image
from search.engine.index import ImageRecord
from search.engine.transform import Pixels

_ID_NAMESPACE = uuid.UUID("5f0c7c2e-8f0e-4c39-9c2b-6a1f6f7b2a54")


@dataclass(frozen=True, slots=True)
class BuildProgress:
    found: int = 0  # pictures in the folder
    embedded: int = 0
    skipped: int = 0

    @property
    def done(self) -> int:
        return self.embedded + self.skipped


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    progress: BuildProgress
    skipped_files: list[SkippedFile] = field(repr=False)
    generation: str


def build_index(
    folder: Path,
    target: Path,
    *,
    embedder: Embedder,
    max_pixels: int,
    batch_size: int,
    keep_generations: int,
    report: Callable[[BuildProgress], None] = lambda progress: None,
    confirm: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> BuildOutcome:
    """Make the pictures below folder the index of target; until it is complete the old one serves.

    A picture that cannot be read is skipped and named in the outcome. report is called after each batch,
    confirm is entered around the publication; an exception from either ends the build and leaves the old index.
    Raises NothingToIndex where no picture could be indexed, and PublishRefused.
    """
    files, skipped = _scan(folder)
    progress = BuildProgress(found=len(files) + len(skipped), skipped=len(skipped))
    report(progress)
    identify = _identifier(target)
    with storage.IndexWriter(target) as writer:
        for batch in _batches(files, batch_size):
            read, unreadable = _prepare(batch, folder, embedder=embedder, max_pixels=max_pixels)
            if read:
                vectors, records = _embed(read, embedder), [identify(path) for path, _ in read]
                writer.add(vectors, records)
            skipped += unreadable
            progress = replace(progress, embedded=progress.embedded + len(read), skipped=len(skipped))
            report(progress)
        if not progress.embedded:
            raise NothingToIndex(_why_nothing(folder, skipped))
        published = writer.publish(embedder.passport, keep=keep_generations, confirm=confirm)
    return BuildOutcome(progress, skipped, published.generation)


def _scan(folder: Path) -> tuple[list[ImageFile], list[SkippedFile]]:
    files: list[ImageFile] = []
    skipped: list[SkippedFile] = []
    try:
        for entry in find_images(folder):
            if isinstance(entry, ImageFile):
                files.append(entry)
            else:
                skipped.append(entry)
    except OSError as error:
        raise NothingToIndex(f"The image folder {folder} cannot be read: {error.strerror}") from error
    if not files and not skipped:
        raise NothingToIndex(f"The image folder {folder} holds no pictures")
    files.sort(key=lambda file: file.path)
    return files, skipped


def _identifier(target: Path) -> Callable[[str], ImageRecord]:
    """Return how a path gets its record: the id it has in the index before, otherwise one made of its path."""

    def fresh(path: str) -> str:
        return str(uuid.uuid5(_ID_NAMESPACE, f"{target.name}/{path}"))

    try:
        before = storage.load(target).records
        kept = {record.path: record.id for record in before if record.id != fresh(record.path)}
    except IndexUnusable:
        kept = {}
    return lambda path: ImageRecord(path, kept.get(path) or fresh(path))


def _prepare(
    batch: Sequence[ImageFile], folder: Path, *, embedder: Embedder, max_pixels: int
) -> tuple[list[tuple[str, Pixels]], list[SkippedFile]]:
    read: list[tuple[str, Pixels]] = []
    unreadable: list[SkippedFile] = []
    for file in batch:
        try:
            image = open_image(folder / file.path, name=file.path, max_pixels=max_pixels)
            read.append((file.path, embedder.prepare(image)))
        except ImageUnreadable as error:
            unreadable.append(SkippedFile(file.path, str(error)))
    return read, unreadable


def _embed(read: list[tuple[str, Pixels]], embedder: Embedder) -> Vectors:
    vectors = embedder.embed([pixels for _, pixels in read])  # [len(read), 960]
    if not np.isfinite(vectors).all():
        raise ValueError(f"The weights {embedder.passport} give vectors that are not finite numbers")
    return vectors


def _batches(files: Sequence[ImageFile], size: int) -> Iterator[Sequence[ImageFile]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def _why_nothing(folder: Path, skipped: list[SkippedFile]) -> str:
    first = skipped[0]
    return f"None of the {len(skipped)} pictures in {folder} could be read; the first, {first.path}: {first.reason}"
