"""One file that holds a company: a plain tar whose last member lists all the others and their checksums.

    images/<path>    the pictures, where they were wanted
    index/<file>     the files of its index
    MANIFEST         a JSON object a line: what this is; each member, by name; the checksum of the lines before

The manifest comes last because it is known last. Names are in ascending order, so that none comes twice and nothing
has to be remembered. Whatever an archive holds, reading it takes little memory and no more disk than it has bytes.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from search.engine import durable
from search.engine.damage import first_words
from search.engine.durable import BoundedReads
from search.engine.errors import ArchiveRefused, EngineError, PathRefused
from search.engine.pictures.folder import Look
from search.engine.pictures.paths import require_path
from search.engine.storage.layout import PARTS

IMAGES = "images"
INDEX = "index"

_MANIFEST = "MANIFEST"
_FORMAT = "imagesearch company"
_VERSION = 1

_CHUNK = 1 << 20
_LINE = 1 << 20  # bytes that a line of the manifest has at most


@dataclass(frozen=True, slots=True)
class Member:
    """A line of the manifest."""

    name: str
    bytes: int
    sha256: str
    mtime_ns: int


# Writing ------------------------------------------------------------------------------------------------------------


class ArchiveWriter:
    """Appends members, by ascending name, to an archive."""

    def __init__(self, tar: tarfile.TarFile, manifest: IO[bytes], about: dict[str, Any]) -> None:
        self._tar, self._manifest = tar, manifest
        self._digest = hashlib.sha256()
        self._note({"format": _FORMAT, "version": _VERSION, **about})

    def add(self, name: str, file: IO[bytes], *, look: Look | None = None) -> int:
        """Add an open file as the member name; return its bytes. Raises OSError where it shrinks meanwhile.

        look: at the file, which may be on no disk; by default the disk's own.
        """
        if look:
            size, mtime_ns = look.size, look.modified_ns
        else:
            stat = os.fstat(file.fileno())
            size, mtime_ns = stat.st_size, stat.st_mtime_ns
        hashed = _Hashed(file)
        self._append(name, hashed, size)
        self._note(asdict(Member(name, size, hashed.sha256.hexdigest(), mtime_ns)))
        return size

    def finish(self) -> None:
        self._note({"sha256": self._digest.hexdigest()})
        size = self._manifest.tell()
        self._manifest.seek(0)
        self._append(_MANIFEST, self._manifest, size)

    def _note(self, line: dict[str, Any]) -> None:
        text = json.dumps(line).encode() + b"\n"
        self._digest.update(text)
        self._manifest.write(text)

    def _append(self, name: str, file: Any, size: int) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        self._tar.addfile(info, file)
        self._tar.members = []  # type: ignore[attr-defined]  # which tarfile keeps for lookups: a million pictures would fill the memory


class _Hashed:
    """A file whose checksum is known when it has been read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self.sha256.update(content)
        return content


@contextmanager
def new_archive(target: Path, about: dict[str, Any], *, replace: bool) -> Iterator[ArchiveWriter]:
    """Yield the writer of an archive that appears as target, whole, when the block ends without an error.

    about: what the first line of the manifest says. replace: a file that is there already is replaced.
    Raises ArchiveRefused where there is one, or another process writes the same.
    """
    part = target.with_name(f".{target.name}.part")
    with part.open("ab") as file:
        _require_own(part, file)
        try:
            _require_free(target, replace)
            file.seek(file.truncate(0))  # what a killed process left
            with (
                tempfile.TemporaryFile(dir=target.parent) as manifest,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                writer = ArchiveWriter(tar, manifest, about)
                yield writer
                writer.finish()
            durable.sync(file)
            _require_free(target, replace)
            part.replace(target)
        except BaseException:
            part.unlink()
            raise


def _require_own(part: Path, file: IO[bytes]) -> None:
    """Lock the unfinished file, or raise ArchiveRefused; the lock goes with the process, however it ends."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), part.stat()):  # else the other has just finished
            return
    raise ArchiveRefused(f"Another process is writing {part}")


def _require_free(target: Path, replace: bool) -> None:
    if target.exists() and not replace:
        raise ArchiveRefused(f"{target} already exists: choose another file, or replace it with --force")


# Reading ------------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    """Something of an archive that is not as it should be; the message says what."""


class Archive:
    """An archive whose manifest is whole; unpack() tells whether the rest is."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = BoundedReads(file, limit=_CHUNK, refuse=_too_long), path
        self._size = os.fstat(file.fileno()).st_size
        self._manifest = self._find_manifest()
        self.about = self._read_about()

    def pictures(self) -> Iterator[Member]:
        """Yield the pictures, by ascending path, as the manifest lists them; the name of each is its path."""
        for member in self._listed():
            place, _, path = member.name.partition("/")
            if place == IMAGES:
                yield Member(path, member.bytes, member.sha256, member.mtime_ns)

    def unpack(self, create: Callable[[str], IO[bytes]]) -> None:
        """Write every member to the new file that create opens for its name, and compare it with the manifest.

        Raises ArchiveRefused where anything is not as the manifest says, or create raises PathRefused; what was
        written by then is no good.
        """
        listed = self._listed()
        with self._reading() as tar:
            for info in self._members(tar):
                if info.name == _MANIFEST:
                    break
                self._unpack_one(tar, info, next(listed, None), create)
            if next(listed, None):
                raise _Refused("its manifest lists more files than it contains")

    def _find_manifest(self) -> tarfile.TarInfo:
        with self._reading() as tar:
            last = None
            for last in self._members(tar):
                if last.name == _MANIFEST:
                    break
            if last is None or last.name != _MANIFEST:
                raise _Refused("it has no manifest: it is incomplete, or not an archive of export_company")
            if tar.next() is not None:
                raise _Refused("it continues after its manifest")
            return last

    def _read_about(self) -> dict[str, Any]:
        """Return the first line of the manifest, all of which is verified."""
        with self._reading() as tar:
            digest, lines = hashlib.sha256(), self._lines(tar)
            first = line = next(lines, b"")
            for following in lines:
                digest.update(line)
                line = following
            if json.loads(line) != {"sha256": digest.hexdigest()}:
                raise _Refused("its manifest is damaged")
            about = json.loads(first)
            if about["format"] != _FORMAT or about["version"] != _VERSION:
                raise _Refused(f"version {about['version']} of {about['format']!r} is not supported")
            return cast("dict[str, Any]", about)

    def _listed(self) -> Iterator[Member]:
        """Yield the members as the manifest lists them."""
        with self._reading() as tar:
            lines = self._lines(tar)
            next(lines)
            line = next(lines)
            for following in lines:
                yield Member(**json.loads(line))
                line = following

    def _lines(self, tar: tarfile.TarFile) -> Iterator[bytes]:
        file = cast("IO[bytes]", tar.extractfile(self._manifest))
        while line := file.readline(_LINE):
            if not line.endswith(b"\n"):
                raise _Refused("its manifest is damaged")
            yield line

    def _members(self, tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """Yield the members up to the manifest, each of them a plain file with a name of ours."""
        before, end = "", -1
        while info := tar.next():
            tar.members = []  # type: ignore[attr-defined]
            if not info.isreg() or info.issparse() or info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise _Refused(f"{_shown(info.name)} is not a plain file")
            if info.offset <= end or not 0 <= info.size <= self._size - info.offset_data:
                raise _Refused(f"{_shown(info.name)} is longer than the archive")
            if info.name != _MANIFEST:
                _require_name(info, before)
            before, end = info.name, info.offset_data + info.size - 1
            yield info

    def _unpack_one(
        self,
        tar: tarfile.TarFile,
        info: tarfile.TarInfo,
        listed: Member | None,
        create: Callable[[str], IO[bytes]],
    ) -> None:
        if listed is None or (listed.name, listed.bytes) != (info.name, info.size):
            raise _Refused(f"{_shown(info.name)} does not match its manifest")
        digest, source = hashlib.sha256(), cast("IO[bytes]", tar.extractfile(info))
        with _created(info.name, create) as file:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != listed.sha256:
                raise _Refused(f"{_shown(info.name)} is damaged")
            file.flush()
            os.utime(file.fileno(), ns=(listed.mtime_ns, listed.mtime_ns))
            durable.sync(file)

    @contextmanager
    def _reading(self) -> Iterator[tarfile.TarFile]:
        """Yield the tar from its beginning; what is wrong with it becomes ArchiveRefused."""
        try:
            self._file.seek(0)
            with tarfile.open(fileobj=cast("IO[bytes]", self._file), mode="r:") as tar:
                yield tar
        except _Refused as error:
            raise ArchiveRefused(f"{self._path} is refused: {error}") from error
        except (EngineError, OSError):
            raise
        except Exception as error:  # a crafted archive makes tarfile and json raise anything, see DamageNamed
            raise ArchiveRefused(f"{self._path} cannot be read: {first_words(error)}") from error


def _too_long() -> Exception:
    return tarfile.ReadError("a header is too long")


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Yield the archive in path. Raises ArchiveRefused where it has no whole manifest, and OSError."""
    with path.open("rb") as file:
        yield Archive(file, path)


def _created(name: str, create: Callable[[str], IO[bytes]]) -> IO[bytes]:
    try:
        return create(name)
    except PathRefused as error:  # file systems differ in the names that they take
        raise _Refused(f"{_shown(name)}: {error.reason}") from error


def _require_name(info: tarfile.TarInfo, before: str) -> None:
    tarfile.data_filter(info, tempfile.gettempdir())  # what Python knows of hostile members comes on top of ours
    place, _, path = info.name.partition("/")
    if place == IMAGES:
        try:
            require_path(path)
        except PathRefused as error:
            raise _Refused(f"{_shown(info.name)} is not a valid picture path: {error.reason}") from error
    elif place != INDEX or path not in PARTS:
        raise _Refused(f"{_shown(info.name)} is neither a picture nor a file of an index")
    if info.name <= before:
        raise _Refused(f"{_shown(info.name)} comes after {_shown(before)}: names must be unique and in order")


def _shown(name: str) -> str:
    return ascii(name if len(name) < 200 else f"{name[:200]}...")
