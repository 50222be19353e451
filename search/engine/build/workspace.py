"""What an unfinished build has embedded so far, kept so that the next one continues there.

    <workspace>/<hex>.jsonl    a header with the model, then a line a picture: [path, size, mtime_ns, sha256, hash]
    <workspace>/<hex>.f32      float32 [pictures, 960], raw

Every build appends to files of its own name, so that a worker which was only asleep disturbs nobody. Vectors are
written before their lines: a line without a vector cannot be, and what follows the last whole line is ignored.
"""

import contextlib
import json
import secrets
import shutil
from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vectors

_ROW_BYTES = 4 * DIMENSION
_SHA256_BYTES = 32


class Workspace:
    """The pictures that builds with the same model have embedded. Pictures are numbered: first those found here.

    One thread writes; find() and find_content() are safe to call from others meanwhile.
    """

    def __init__(self, directory: Path, *, made_by: dict[str, Any]) -> None:
        """made_by: what identifies the model, its pictures and libraries; work of another is removed."""
        self._directory = directory
        self._header = json.dumps(made_by, sort_keys=True)
        self._found: list[Vectors] = []  # a segment each
        self._segment_starts: list[int] = []
        self._signatures = np.empty(0, SIGNATURE)  # of the pictures found
        self._hashes = array("Q")  # of all, also those added
        self._by_path: dict[str, int] = {}
        self._by_content: dict[bytes, int] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for lines in sorted(directory.glob("*.jsonl")):
            self._read_segment(lines)
        name = secrets.token_hex(8)
        self._lines = (directory / f"{name}.jsonl").open("wb", buffering=0)
        self._floats = (directory / f"{name}.f32").open("w+b", buffering=0)
        self._rows = 0
        self._lines_end = _write_durably(self._lines, f"{self._header}\n".encode(), 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._floats.close()

    def signature(self, number: int) -> Any:
        """Return the SIGNATURE of a picture found here."""
        return self._signatures[number]

    def find(self, path: str, size: int, mtime_ns: int) -> int | None:
        """Return the number of the picture found under this path, if its file looks the same."""
        number = self._by_path.get(path)
        if number is None or (self._signatures[number]["size"], self._signatures[number]["mtime_ns"]) != (
            size,
            mtime_ns,
        ):
            return None
        return number

    def find_content(self, sha256: bytes) -> int | None:
        """Return the number of a picture found here with this content."""
        return self._by_content.get(sha256)

    def add(self, paths: Sequence[str], signatures: np.ndarray, hashes: Sequence[int], vectors: Vectors) -> range:
        """Keep what was embedded, safe from a crash, and return the pictures' numbers.

        signatures: SIGNATURE [n]; hashes: perceptual ones, [n]; vectors: float32 [n, 960].
        """
        # At places of their own, so that what a full disk cut short does not shift what comes after it.
        rows = np.ascontiguousarray(vectors, dtype="<f4")
        _write_durably(self._floats, rows.tobytes(), self._rows * _ROW_BYTES)
        lines = "".join(map(_line, paths, signatures, hashes))
        self._lines_end = _write_durably(self._lines, lines.encode(), self._lines_end)
        first = len(self._signatures) + self._rows
        self._rows += len(paths)
        self._hashes.extend(hashes)
        return range(first, first + len(paths))

    def vectors(self, numbers: np.ndarray) -> Vectors:
        """Return the vectors of pictures by number, float32 [len(numbers), 960]."""
        vectors = np.empty((len(numbers), DIMENSION), np.float32)
        starts = [*self._segment_starts, len(self._signatures)]
        segments = [*self._found, _map(self._floats, self._rows)]
        places = np.searchsorted(starts, numbers, side="right") - 1
        for place in np.unique(places):
            chosen = places == place
            vectors[chosen] = segments[place][numbers[chosen] - starts[place]]
        return vectors

    def hashes(self, numbers: np.ndarray) -> npt.NDArray[np.uint64]:
        """Return the perceptual hashes of pictures by number, [len(numbers)]."""
        return np.array([self._hashes[number] for number in numbers.tolist()], np.uint64)

    def clear(self) -> None:
        """Remove all work: it has become an index. A build that still writes here loses nothing but its work."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _read_segment(self, path: Path) -> None:
        floats = path.with_suffix(".f32")
        lines = path.read_text(encoding="ascii", errors="replace").splitlines(keepends=True)
        if not lines or lines[0].rstrip("\n") != self._header or not floats.exists():
            for file in (path, floats):
                file.unlink(missing_ok=True)
            return
        entries = _whole_entries(lines[1:])[: floats.stat().st_size // _ROW_BYTES]
        if not entries:
            return
        first = len(self._signatures)
        signatures = np.empty(len(entries), SIGNATURE)
        for row, (image, size, mtime_ns, sha256, hashed) in enumerate(entries):
            signatures[row] = size, mtime_ns, np.frombuffer(sha256, np.uint8)
            self._by_path[image] = first + row
            self._by_content[sha256] = first + row
            self._hashes.append(hashed)
        self._signatures = np.concatenate([self._signatures, signatures])
        self._segment_starts.append(first)
        with floats.open("rb") as opened:
            self._found.append(_map(opened, len(entries)))


def _whole_entries(lines: list[str]) -> list[tuple[str, int, int, bytes, int]]:
    """Return the entries up to the first line that a crash has torn."""
    entries = []
    with contextlib.suppress(ValueError, TypeError):
        for line in lines:
            if not line.endswith("\n"):
                break
            entries.append(_parse(line))
    return entries


def _line(path: str, signature: Any, hashed: int) -> str:
    entry = [path, int(signature["size"]), int(signature["mtime_ns"]), signature["sha256"].tobytes().hex(), hashed]
    return f"{json.dumps(entry)}\n"


def _parse(line: str) -> tuple[str, int, int, bytes, int]:
    """Raises ValueError and TypeError; for a line of a release before, too, which kept no perceptual hash."""
    path, size, mtime_ns, sha256, hashed = json.loads(line)
    if len(bytes.fromhex(sha256)) != _SHA256_BYTES:
        raise ValueError(sha256)
    if not 0 <= int(hashed) < 2**64:
        raise ValueError(hashed)
    return path, int(size), int(mtime_ns), bytes.fromhex(sha256), int(hashed)


def _map(file: IO[bytes], rows: int) -> Vectors:
    if not rows:
        return np.empty((0, DIMENSION), np.float32)
    return np.memmap(file, dtype="<f4", mode="r", shape=(rows, DIMENSION))


def _write_durably(file: IO[bytes], data: bytes, start: int) -> int:
    """Write data from start on, the last thing in file; return where it ends."""
    file.truncate(start)
    file.seek(start)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    durable.sync(file)
    return start + len(data)
