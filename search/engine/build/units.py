"""A build that many workers share: units, each the work of one of them, and what they make of it.

    <place>/<digest>.unit                 JSON: the paths of the pictures, and how they are to be embedded
    <place>/<digest>.<attempt>.result     .npz: what became of each picture, and the vectors of those embedded
    <place>/<digest>.known                uint64 [N], sorted: begins of the SHA-256 of contents that need no embedding

Digests are of what a file holds: a second publisher of the same build cuts the same units, and a torn file is refused.
"""

import hashlib
import io
import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.build.embedding import Embedding, PictureReader, Read, made_by
from search.engine.errors import MachineDiffers, UnitRefused
from search.engine.model.embedder import Embedder
from search.engine.objects import ObjectStore
from search.engine.pictures.folders import PictureFolder, as_folder
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vectors

_LARGEST = 1 << 36  # bytes of a file in a place
_DIGEST = 32  # hexadecimal digits of a name
EMBEDDED, LEFT, UNREADABLE = 0, 1, 2  # what became of a picture; LEFT: for the publisher to see to

Report = Callable[[int], None]  # is called with the number of pictures done


class Place(Hashable, Protocol):
    """Where the files of units lie, for all who work on them."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole for every reader."""
        ...

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError (OSError)."""
        ...

    def remove(self, names: Sequence[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class FolderPlace:
    directory: Path  # that all workers share; made when it is needed

    def write(self, name: str, content: bytes) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        durable.replace(self.directory / name, content)

    def read(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def remove(self, names: Sequence[str]) -> None:
        for name in names:
            (self.directory / name).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class StorePlace:
    store: ObjectStore

    def write(self, name: str, content: bytes) -> None:
        self.store.write(name, content)

    def read(self, name: str) -> bytes:
        return self.store.read(name, limit=_LARGEST)

    def remove(self, names: Sequence[str]) -> None:
        self.store.delete(names)


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a build that one worker does."""

    name: str  # of its file in the place
    pictures: int


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a worker has left in the place."""

    name: str
    sha256: str
    embedded: int
    skipped: int


class Units(Protocol):
    """Who hands out the units of a build."""

    @property
    def place(self) -> Place: ...

    @property
    def pictures(self) -> int:
        """How many pictures a unit has; a build of so many or fewer is not cut."""
        ...

    def finished(
        self, units: Sequence[Unit], embed: Callable[[Unit, str, Report], UnitResult]
    ) -> Iterator[tuple[Unit, UnitResult]]:
        """Offer units to the workers, and yield each as soon as its result is there, in any order.

        embed: embeds a unit here; the second argument is the attempt's name. An exception ends the build.
        """
        ...

    def refuse(self, unit: Unit, result: UnitResult, reason: str) -> None:
        """Have a unit made again whose result is of no use; finished() yields it once more."""
        ...


@dataclass(frozen=True, slots=True)
class _Order:
    """What a unit's file says."""

    paths: list[str]
    chunk: int  # pictures that are embedded together
    max_pixels: int
    known: str  # the file of known contents, "" where there are none
    made_by: dict[str, Any]

    def encoded(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    @classmethod
    def decoded(cls, content: bytes) -> Self:
        """Raises MachineDiffers for what another release has written in fields of its own."""
        entries = json.loads(content)
        if entries.keys() != {field.name for field in fields(cls)}:
            raise MachineDiffers("The build is another release's, which describes its units in other words")
        return cls(**entries)


@dataclass(frozen=True, slots=True)
class UnitOrders:
    """How a publisher writes the units of its build."""

    place: Place
    embedder: Embedder
    chunk: int  # pictures that are embedded together
    max_pixels: int
    known: str = ""  # see write_known

    def write(self, paths: list[str]) -> Unit:
        content = _Order(paths, self.chunk, self.max_pixels, self.known, made_by(self.embedder)).encoded()
        return Unit(_write(self.place, content, "unit"), len(paths))


def write_known(place: Place, begins: npt.NDArray[np.uint64]) -> str:
    """Write which contents need no embedding, and return the name of the file; "" where there are none.

    begins: [N], see Contents.begins.
    """
    return _write(place, np.unique(begins).astype("<u8").tobytes(), "known") if len(begins) else ""


def embed_unit(
    place: Place,
    unit: str,
    *,
    attempt: str,
    folder: Path | PictureFolder,
    embedder: Embedder,
    workers: int,
    publishes: bool = False,
    report: Report = lambda done: None,
) -> UnitResult:
    """Embed the pictures of a unit, as one worker would embed them within the whole build, and write the result.

    attempt: part of the result's name, so that nobody else writes it. folder: what the paths are relative to.
    workers: threads. publishes: this machine has found the pictures, so that one which cannot be opened is gone, or
    nobody's to read. report: an exception from it ends the work.
    Raises MachineDiffers where the publisher makes vectors or units otherwise, or where this machine does not see the
    unit's file or any of its pictures, or cannot write the result, UnitRefused where the unit's file is not what was
    written, StoreError, and OSError where the publisher's own result cannot be written.
    """
    order = _Order.decoded(_read(place, unit))
    here = made_by(embedder)
    if here != order.made_by:
        raise MachineDiffers(f"The build's vectors are made by {order.made_by}, here they would be by {here}")
    known = _known(place, order.known) if order.known else np.empty(0, np.uint64)
    is_known = partial(_holds, known)
    reader = PictureReader(as_folder(folder), embedder, order.max_pixels, is_known)
    made = _Made(len(order.paths))
    with Embedding(reader, workers=workers) as embedding:
        for reads in embedding.in_order(_chunks(order)):
            made.add(reads)
            report(made.done)
    if made.opens_nothing and not publishes:
        raise MachineDiffers(f"None of {made.done} pictures can be opened in {folder}: see that this machine has them")
    content = made.encoded(unit)
    name = f"{unit.removesuffix('.unit')}.{attempt}.result"
    try:
        place.write(name, content)
    except OSError as error:
        if publishes:
            raise
        raise MachineDiffers(f"The unit's result {name} cannot be written here ({error.strerror})") from error
    return UnitResult(name, hashlib.sha256(content).hexdigest(), made.count(EMBEDDED), made.count(UNREADABLE))


@dataclass(frozen=True, slots=True)
class Embedded:
    """What became of the pictures of a unit, by their places in it."""

    outcomes: npt.NDArray[np.uint8]  # [pictures]: EMBEDDED, LEFT or UNREADABLE
    signatures: npt.NDArray[np.void]  # SIGNATURE [pictures]
    hashes: npt.NDArray[np.uint64]  # [embedded]
    vectors: Vectors  # [embedded, 960]
    reasons: list[str]  # [unreadable]


def read_result(place: Place, unit: Unit, result: UnitResult) -> Embedded:
    """Return what a worker has made of a unit. Raises UnitRefused where it is not whole, or not of this unit."""
    try:
        content = place.read(result.name)
    except FileNotFoundError as error:
        raise UnitRefused(f"The result {result.name} is gone") from error
    if hashlib.sha256(content).hexdigest() != result.sha256:
        raise UnitRefused(f"The result {result.name} is not what its worker wrote")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}
    if found.pop("unit").tobytes().decode() != unit.name or len(found["outcomes"]) != unit.pictures:
        raise UnitRefused(f"The result {result.name} is of another unit than {unit.name}")
    return Embedded(**found | {"reasons": json.loads(found["reasons"].tobytes())})


class _Made:
    """What became of a unit's pictures so far."""

    def __init__(self, pictures: int) -> None:
        self.done = self._unopened = 0
        self._outcomes = np.zeros(pictures, np.uint8)
        self._signatures = np.zeros(pictures, SIGNATURE)
        self._hashes: list[int] = []
        self._vectors = [np.empty((0, DIMENSION), np.float32)]
        self._reasons: list[str] = []

    def add(self, reads: list[Read]) -> None:
        for read in reads:
            self._signatures[read.number] = read.signature
            self._outcomes[read.number] = _outcome(read)
        embedded = [read for read in reads if read.vector is not None]
        self._hashes += [read.perceptual_hash for read in embedded]
        self._vectors += [np.stack([read.vector for read in embedded if read.vector is not None])] if embedded else []
        self._reasons += [read.reason for read in reads if _outcome(read) == UNREADABLE]
        self.done += len(reads)
        self._unopened += sum(read.cannot_open for read in reads)

    @property
    def opens_nothing(self) -> bool:
        return self._unopened == self.done

    def count(self, outcome: int) -> int:
        return int(np.count_nonzero(self._outcomes == outcome))

    def encoded(self, unit: str) -> bytes:
        file = io.BytesIO()
        np.savez(
            file,
            unit=np.frombuffer(unit.encode(), np.uint8),
            outcomes=self._outcomes,
            signatures=self._signatures,
            hashes=np.array(self._hashes, np.uint64),
            vectors=np.concatenate(self._vectors),
            reasons=np.frombuffer(json.dumps(self._reasons).encode(), np.uint8),
        )
        return file.getvalue()


def _outcome(read: Read) -> int:
    if read.is_known or read.cannot_open:
        return LEFT
    return UNREADABLE if read.vector is None else EMBEDDED


def _chunks(order: _Order) -> Iterator[list[tuple[int, str]]]:
    pictures = list(enumerate(order.paths))
    for start in range(0, len(pictures), order.chunk):
        yield pictures[start : start + order.chunk]


def _holds(known: npt.NDArray[np.uint64], sha256: bytes) -> bool:
    begin = np.frombuffer(sha256[:8], "<u8")[0]
    place = int(np.searchsorted(known, begin))
    return place < len(known) and known[place] == begin


@lru_cache(maxsize=1)  # the units of a build have the same one: 80 MB for ten million pictures
def _known(place: Place, name: str) -> npt.NDArray[np.uint64]:
    return np.frombuffer(_read(place, name), "<u8")


def _write(place: Place, content: bytes, kind: str) -> str:
    name = f"{hashlib.sha256(content).hexdigest()[:_DIGEST]}.{kind}"
    place.write(name, content)
    return name


def _read(place: Place, name: str) -> bytes:
    """Return a file that is named by what it holds.

    Raises UnitRefused where it holds something else, and MachineDiffers where it is not to be seen here.
    """
    try:
        content = place.read(name)
    except OSError as error:
        raise MachineDiffers(
            f"The unit's file {name} cannot be read here ({error.strerror}): see that all machines share its directory"
        ) from error
    if hashlib.sha256(content).hexdigest()[:_DIGEST] != name.partition(".")[0]:
        raise UnitRefused(f"{name} is not what was written")
    return content
