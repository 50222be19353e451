"""What an unfinished build has embedded so far, kept so that the next one continues there.

    <workspace>/<hex>.jsonl    a header with the model, then a line a picture: [path, size, mtime_ns, sha256, hash]
    <workspace>/<hex>.f32      float32 [pictures, 960], raw

Every build appends to files of its own name, so that a worker which was only asleep disturbs nobody. Vectors are
written before their lines: a line without a vector cannot be, and what follows the last whole line is ignored.
"""

import contextlib
import hashlib
import json
import secrets
import shutil
import struct
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import numpy.typing as npt

from search.engine import durable
from search.engine.build.contents import Contents
from search.engine.storage import SIGNATURE
from search.engine.vectors import DIMENSION, Vectors

_ROW_BYTES = 4 * DIMENSION
_SHA256_BYTES = 32


_PATH = np.dtype([("begin", "<u8"), ("end", "<u8")])  # of a hash of the path
_FOUND = np.dtype([("path", _PATH), ("signature", SIGNATURE), ("hash", "<u8")])
_AS_FOUND = struct.Struct("<16sqq32sQ")  # the same
_LINES_A_BEAT = 4096


class Workspace:
    """The pictures that builds with the same model have embedded. Pictures are numbered: first those found here.

    Of these 104 bytes are in memory each, of others the perceptual hash.

    One thread writes; find() and find_content() are safe to call from others meanwhile.
    """

    def __init__(self, directory: Path, *, made_by: dict[str, Any], beat: Callable[[], None] = lambda: None) -> None:
        """made_by: what identifies the model, its pictures and libraries; work of another is removed.

        beat is called now and then.
        """
        self._directory = directory
        self._header = json.dumps(made_by, sort_keys=True)
        self._found: list[Vectors] = []  # a segment each
        self._segment_starts: list[int] = []
        self._hashes = array("Q")  # of all, also those added
        segments: list[npt.NDArray[np.void]] = []  # _FOUND
        directory.mkdir(parents=True, exist_ok=True)
        for lines in sorted(directory.glob("*.jsonl")):
            segments += self._read_segment(lines, beat)
        found = np.concatenate([np.empty(0, _FOUND), *segments])
        self._signatures, self._contents = found["signature"], Contents(found["signature"])
        self._paths = found["path"]
        self._path_order = np.argsort(self._paths["begin"], kind="stable")
        self._path_begins = self._paths["begin"][self._path_order]
        self._hashes.frombytes(found["hash"].tobytes())
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

    def __len__(self) -> int:
        """Return how many pictures were found here."""
        return len(self._signatures)

    @property
    def begins(self) -> npt.NDArray[np.uint64]:
        """The beginnings of the contents found here; see Contents."""
        return self._contents.begins

    def signatures(self, numbers: npt.NDArray[np.int64]) -> np.ndarray:
        """Return the SIGNATURE of pictures found here, by number."""
        found: np.ndarray = self._signatures[numbers]
        return found

    def find(self, paths: Sequence[str], looks: np.ndarray) -> npt.NDArray[np.int64]:
        """Return the numbers of the pictures found under these paths whose files look the same, and -1 for others.

        looks: SIGNATURE [len(paths)], of which sizes and times count.
        """
        numbers = np.full(len(paths), -1)
        keys = np.frombuffer(b"".join(map(_path_key, paths)), _PATH)
        firsts = np.searchsorted(self._path_begins, keys["begin"])
        ends = np.searchsorted(self._path_begins, keys["begin"], side="right")
        for later in range(int((ends - firsts).max(initial=0))):  # one that changed was embedded again
            waiting = np.flatnonzero((numbers < 0) & (firsts + later < ends))
            candidates = self._path_order[firsts[waiting] + later]
            same = self._paths[candidates] == keys[waiting]
            for name in ("size", "mtime_ns"):
                same &= self._signatures[name][candidates] == looks[name][waiting]
            numbers[waiting[same]] = candidates[same]
        return numbers

    def find_content(self, sha256: bytes) -> int | None:
        """Return the number of a picture found here with this content."""
        return self._contents.find(sha256)

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

    def _read_segment(self, path: Path, beat: Callable[[], None]) -> list[npt.NDArray[np.void]]:
        """Return the pictures of a segment, _FOUND [N], in one array, or in none where it holds none of this model."""
        floats = path.with_suffix(".f32")
        with path.open("rb") as lines:
            if lines.readline().rstrip(b"\n") != self._header.encode() or not floats.exists():
                for file in (path, floats):
                    file.unlink(missing_ok=True)
                return []
            found = _whole_entries(lines, beat)[: floats.stat().st_size // _ROW_BYTES]
        if not len(found):
            return []
        self._segment_starts.append(sum(map(len, self._found)))
        with floats.open("rb") as opened:
            self._found.append(_map(opened, len(found)))
        return [found]


def _whole_entries(lines: IO[bytes], beat: Callable[[], None]) -> npt.NDArray[np.void]:
    """Return the entries, _FOUND [N], up to the first line that a crash has torn."""
    entries = bytearray()
    with contextlib.suppress(ValueError, TypeError):
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                break
            entries += _parse(line)
            if not number % _LINES_A_BEAT:
                beat()
    return np.frombuffer(entries, _FOUND)


def _path_key(path: str) -> bytes:
    """Return 128 bits that stand for a path, a _PATH."""
    return hashlib.blake2b(path.encode("utf-8", "surrogatepass"), digest_size=_PATH.itemsize).digest()


def _line(path: str, signature: Any, hashed: int) -> str:
    entry = [path, int(signature["size"]), int(signature["mtime_ns"]), signature["sha256"].tobytes().hex(), hashed]
    return f"{json.dumps(entry)}\n"


def _parse(line: bytes) -> bytes:
    """Return a _FOUND.

    Raises ValueError and TypeError; for a line of a release before, too, which kept no perceptual hash.
    """
    path, size, mtime_ns, sha256, hashed = json.loads(line.decode("ascii"))
    content = bytes.fromhex(sha256)
    if len(content) != _SHA256_BYTES:
        raise ValueError(sha256)
    try:
        return _AS_FOUND.pack(_path_key(path), int(size), int(mtime_ns), content, int(hashed))
    except struct.error as error:
        raise ValueError(line) from error


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
