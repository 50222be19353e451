"""Reads picture files and embeds them, a few at a time, on threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import PIL

from search.engine import durable
from search.engine.errors import ImageUnreadable, StoreError
from search.engine.model.embedder import Embedder, Hashed, read_hashed
from search.engine.pictures.folders import PictureFolder
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vector

_CHUNKS_AHEAD = 4  # for each thread: while a large picture is decoded, the others go on with those behind it

Chunk = Sequence[tuple[int, str]]  # the number and the path of each picture


@dataclass(frozen=True, slots=True)
class Read:
    """A picture file that was read: now embedded, or of known content, or unreadable."""

    number: int
    signature: Any  # SIGNATURE
    hashed: Hashed | None = None  # until it is embedded
    vector: Vector | None = None
    perceptual_hash: int = 0
    is_known: bool = False  # its content, so that it was not embedded
    cannot_open: bool = False  # the file could not even be opened or read, for a reason that may lie in this machine
    reason: str = ""


def libraries_of(embedder: Embedder) -> dict[str, str]:
    """Return the versions of the libraries that make the embedder's vectors of picture files."""
    return {"pillow": PIL.__version__, **embedder.libraries}


def made_by(embedder: Embedder) -> dict[str, Any]:
    """Return what decides, beside its picture file, what a vector is."""
    return {
        "fingerprint": embedder.passport.fingerprint,
        "preparation": embedder.preparation,
        "libraries": libraries_of(embedder),
    }


@dataclass(frozen=True, slots=True)
class PictureReader:
    """What turns picture files into vectors. Threads share it."""

    folder: PictureFolder
    embedder: Embedder
    max_pixels: int
    is_known: Callable[[bytes], bool] = lambda sha256: False  # safe to call from many threads

    def embed(self, chunk: Chunk) -> list[Read]:
        """Return what became of each picture; those that are embedded are so in one call of the embedder.

        Raises StoreError.
        """
        reads = [self._read(number, path) for number, path in chunk]
        pixels = [read.hashed.pixels for read in reads if read.hashed]
        vectors = self.embedder.embed(pixels) if pixels else np.empty((0, DIMENSION), np.float32)
        if not np.isfinite(vectors).all():
            raise ValueError(f"The weights {self.embedder.passport} produce vectors that are not finite numbers")
        made = iter(vectors)
        return [_embedded(read, read.hashed, next(made)) if read.hashed else read for read in reads]

    def hashed(self, file: BinaryIO, path: str) -> Hashed:
        """Return an open picture file as the model's input. Raises ImageUnreadable."""
        return read_hashed(self.embedder, file, name=path, max_pixels=self.max_pixels)

    def _read(self, number: int, path: str) -> Read:
        signature = np.zeros((), SIGNATURE)
        try:
            with self.folder.open(path) as file:
                look = self.folder.look(file)
                sha256 = durable.sha256(file)
                signature["size"], signature["mtime_ns"] = look.size, look.mtime_ns
                signature["sha256"] = np.frombuffer(sha256, np.uint8)
                if self.is_known(sha256):
                    return Read(number, signature, is_known=True)
                hashed = self.hashed(file, path)
                after = self.folder.look(file)
                if (after.size, after.mtime_ns) != (look.size, look.mtime_ns):
                    signature["sha256"] = 0  # it was written meanwhile: nobody knows the hash of what was decoded
                return Read(number, signature, hashed=hashed)
        except ImageUnreadable as error:
            return Read(number, signature, reason=str(error))
        except StoreError:  # nothing is known of the picture: an index without it would lose it
            raise
        except Exception as error:  # whatever one file does, the others are indexed
            why = getattr(error, "strerror", None) or type(error).__name__
            cannot_open = isinstance(error, OSError)
            return Read(number, signature, cannot_open=cannot_open, reason=f"The file cannot be read: {why}")


class Embedding:
    """The threads that embed the pictures of one build or unit, and what they are ahead.

    Used as a context manager: left, it waits for what has begun, and forgets what has not.
    """

    def __init__(self, reader: PictureReader, *, workers: int) -> None:
        """workers: threads, each of which decodes and embeds."""
        self._reader, self._workers = reader, workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="embed")
        self._waiting: deque[Future[list[Read]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def in_order(self, chunks: Iterable[Chunk]) -> Iterator[list[Read]]:
        """Yield what became of the pictures, chunk by chunk."""
        for chunk in chunks:
            self._waiting.append(self._threads.submit(self._reader.embed, chunk))
            if len(self._waiting) > _CHUNKS_AHEAD * self._workers:
                yield self._first()
        while self._waiting:
            yield self._first()

    def left_over(self) -> Iterator[list[Read]]:
        """Stop, and yield what the threads have done that in_order() has not yielded."""
        self._threads.shutdown(cancel_futures=True)
        for future in self._waiting:
            if not future.cancelled() and not future.exception():
                yield future.result()

    def _first(self) -> list[Read]:
        """Wait for the first; if that is interrupted it is still waiting, and is not lost."""
        reads = self._waiting[0].result()
        self._waiting.popleft()
        return reads


def chunk_size(pictures: int, embedder: Embedder, *, batch_size: int, workers: int) -> int:
    """Return how many pictures a thread takes at a time: as many as the model takes best, fewer if few are left."""
    share = -(-pictures // workers)
    return max(1, min(batch_size, embedder.pictures_a_run, share))


def _embedded(read: Read, hashed: Hashed, vector: Vector) -> Read:
    return replace(read, hashed=None, vector=vector, perceptual_hash=hashed.perceptual_hash)
