"""What is wrong with a file of an index, whatever it holds."""

import contextlib
from pathlib import Path
from types import TracebackType

from search.engine import durable
from search.engine.errors import IndexCorrupt, IndexUnusable

_POINTER = b"version https://git-lfs"
_LONGEST = 200  # letters of what a parser says


class DamageNamed:
    """A block that makes sense of a file: whatever goes wrong in it becomes IndexCorrupt, which names the file.

    json, NumPy and FAISS raise whatever a crafted file makes them stumble over (TokenError, RecursionError,
    OverflowError, MemoryError), and no list of that is ever complete: this is why every kind is caught here.
    """

    def __init__(self, path: Path, part: str = "") -> None:
        """part: which part of the file the block reads, where that is worth telling."""
        self._path, self._part = path, part

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, IndexUnusable):
            raise unreadable(_path_of(error) or self._path, error, part=self._part) from error


def _path_of(error: Exception) -> Path | None:
    """Return the file that the disk refuses, where it says which."""
    return Path(error.filename) if isinstance(error, OSError) and isinstance(error.filename, str) else None


def unreadable(path: Path, error: Exception, *, part: str = "") -> IndexCorrupt:
    """Return what is wrong with a file of an index, in words that name it without its directory."""
    if isinstance(error, FileNotFoundError):
        return IndexCorrupt(f"{path.name} is missing")
    if isinstance(error, OSError):
        return IndexCorrupt(f"{path.name} cannot be read: {error.strerror or first_words(error)}")
    with contextlib.suppress(OSError), durable.open_plain(path) as file:
        if file.read(len(_POINTER)) == _POINTER:
            return IndexCorrupt(f"{path.name} is a Git LFS pointer: run `git lfs pull` at its source")
    place = f"{path.name}: {part}" if part else path.name
    return IndexCorrupt(f"{place} cannot be read: {first_words(error, without=path.parent)}")


def first_words(error: Exception, *, without: Path | None = None) -> str:
    """Return what a parser says, in one short line that can be shown. without: a directory that is not to be named."""
    text = str(error).replace(f"{without}/", "") if without else str(error)
    text = " ".join(text.split())[:_LONGEST] or type(error).__name__
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
