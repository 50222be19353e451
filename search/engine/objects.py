"""Objects in a store that speaks S3. The one module that knows obstore, which few need and which is imported late."""

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

from search.engine.errors import ObjectChanged, StoreRefused, StoreUnavailable, StoreUnsuitable

_RANGE_BYTES = 16 << 20  # of a download at a time: each request has a time limit of its own
_PART_BYTES = 8 << 20
_MAX_PARTS = 9000  # of an upload; S3 allows 10,000
_PARTS_AT_A_TIME = 4
_CLIENT: Any = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}  # of a request
_RETRIES: Any = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
# For who cannot wait: what is read may take its time as long as it comes.
_CLIENT_IN_A_HURRY: Any = {
    "connect_timeout": timedelta(seconds=2),
    "read_timeout": timedelta(seconds=4),
    "timeout": timedelta(seconds=20),
}
_RETRIES_IN_A_HURRY: Any = {"max_retries": 1, "retry_timeout": timedelta(seconds=2)}
_FEW_BYTES = 1 << 20
_AWAY_SECONDS = 5.0  # that a store which did not answer in time is not asked again by who cannot wait
_SLOW_SECONDS = 1.0
_DELETED_AT_A_TIME = 1000
_REFUSED = re.compile(r"status code: 4(?!08|29)\d\d|\(code: AccessDenied\)")  # and not "later"


_away_until: dict[tuple[str, str], float] = {}  # by bucket and endpoint; each thread writes what it has just seen


@dataclass(frozen=True, slots=True)
class StoredObject:
    key: str  # below the prefix of its store
    size: int  # bytes
    modified_at: datetime  # UTC, in whole seconds
    etag: str  # another one as soon as the object is replaced


class ObjectStore:
    """What lies below one prefix of a bucket. Many threads may use it.

    Keys are relative to the prefix; segments may hold anything but control characters, and are not empty, "." or "..":
    such keys raise ValueError. Methods raise FileNotFoundError where an object is missing, and StoreUnavailable where
    the store does not answer or refuses.
    """

    def __init__(self, url: str, *, endpoint: str = "", hurried: bool = False) -> None:
        """url: s3://bucket/prefix. endpoint: of another store than Amazon's, such as http://127.0.0.1:9000.
        hurried: all but large writes fail within seconds where the store does not answer, and for a while at once.

        Keys and region come from the usual AWS variables.
        """
        parts = urlsplit(url)
        self.url, self.endpoint = url.rstrip("/"), endpoint
        self._hurried, self._place = hurried, (parts.netloc, endpoint)
        self._store = _bucket(parts.netloc, endpoint)
        self._quick = _bucket(parts.netloc, endpoint, hurried=True) if hurried else self._store
        self._prefix = f"{parts.path.strip('/')}/".lstrip("/")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStore) and (self.url, self.endpoint) == (other.url, other.endpoint)

    def __hash__(self) -> int:
        return hash((self.url, self.endpoint))

    def below(self, folder: str) -> "ObjectStore":
        """Return what lies below a folder of this store."""
        return ObjectStore(f"{self.url}/{folder}", endpoint=self.endpoint, hurried=self._hurried)

    def stat(self, key: str) -> StoredObject:
        import obstore

        with self._errors():
            return self._stored(obstore.head(self._quick, self._path(key)))

    def read(self, key: str, *, limit: int) -> bytes:
        """Return the content of an object. Raises ValueError where it has more than limit bytes."""
        import obstore

        with self._errors():
            found = obstore.get(self._quick, self._path(key))
            if found.meta["size"] > limit:
                raise ValueError(f"{self.url}/{key} has {found.meta['size']} bytes, more than {limit}")
            return bytes(found.bytes())

    def write(self, key: str, content: bytes, *, only_new: bool = False, instead_of: str | None = None) -> str:
        """Write an object, whole for every reader, and return its etag.

        only_new: raises FileExistsError where there is one. instead_of: the etag of the one that is replaced; raises
        ObjectChanged where there is another.
        """
        import obstore

        mode: Any = "create" if only_new else {"e_tag": instead_of} if instead_of else "overwrite"
        with self._errors():
            store = self._quick if len(content) <= _FEW_BYTES else self._store
            written = obstore.put(store, self._path(key), content, mode=mode, use_multipart=False)
            return str(written["e_tag"])

    def upload(self, file: Path, key: str, *, beat: Callable[[], None] = lambda: None) -> bytes:
        """Write an object from a file of any size, and return the SHA-256 of what has arrived, 32 bytes.

        beat is called now and then; where it raises, nothing is written. What has arrived is told by the MD5 sums in
        the ETag; a store that makes ETags of something else is read. Raises StoreUnavailable where something else did.
        """
        import obstore

        size = file.stat().st_size
        part = max(_PART_BYTES, -(-size // _MAX_PARTS))
        sent = _Sent(part)
        with self._errors(), file.open("rb", buffering=0) as opened:
            blocks = sent.blocks(opened, beat)
            content: Any = blocks if size > part else b"".join(blocks)
            written = obstore.put(
                self._store, self._path(key), content, chunk_size=part, max_concurrency=_PARTS_AT_A_TIME
            )
        if written["e_tag"] != sent.etag and self._digest(key, beat) != sent.sha256:
            raise StoreUnavailable(f"{self.url}/{key} did not arrive in the store as it was sent: try again")
        return sent.sha256

    def download(self, key: str, file: Path, *, beat: Callable[[], None] = lambda: None) -> bytes:
        """Write an object of any size into a file and return its SHA-256, 32 bytes. beat is called now and then.

        Raises ObjectChanged where it is replaced meanwhile, and OSError.
        """
        digest = hashlib.sha256()
        with file.open("wb") as opened:
            for block in self._blocks(self.stat(key)):
                digest.update(block)
                opened.write(block)
                beat()
        return digest.digest()

    def fetch(self, key: str, file: BinaryIO, *, limit: int, etag: str = "") -> StoredObject:
        """Write an object into a file and return what it was; a small one takes one request.

        etag: the object's, if known. Raises ObjectChanged where it is another or is replaced meanwhile, and ValueError
        where it has more than limit bytes.
        """
        import obstore

        options: Any = {"if_match": etag} if etag else {}
        with self._errors():
            answer = obstore.get(self._quick, self._path(key), options=options)
            found = self._stored(answer.meta)
            if found.size > limit:
                raise ValueError(f"{self.url}/{key} has {found.size} bytes, more than {limit}")
            if found.size <= _RANGE_BYTES:
                file.write(answer.bytes())
                return found
            del answer  # nothing of its body has been fetched
        for block in self._blocks(found):
            file.write(block)
        return found

    def _digest(self, key: str, beat: Callable[[], None]) -> bytes:
        digest = hashlib.sha256()
        for block in self._blocks(self.stat(key)):
            digest.update(block)
            beat()
        return digest.digest()

    def _blocks(self, found: StoredObject) -> Iterator[Any]:
        import obstore

        for start in range(0, found.size, _RANGE_BYTES):
            options: Any = {"range": (start, min(start + _RANGE_BYTES, found.size)), "if_match": found.etag}
            with self._errors():
                block = obstore.get(self._quick, self._path(found.key), options=options).bytes()
            yield block

    def listing(self, folder: str = "", *, after: str = "") -> Iterator[StoredObject]:
        """Yield all objects below a folder, sorted by key as UTF-8, page by page.

        after: only those whose keys sort behind this one.
        """
        import obstore

        with self._errors():
            pages = obstore.list(
                self._quick, prefix=self._path(folder) or None, offset=self._path(after) if after else None
            )
            for page in pages:
                yield from map(self._stored, page)

    def children(self, folder: str = "") -> tuple[list[str], list[StoredObject]]:
        """Return the folders, as keys, and the objects that lie directly in a folder."""
        import obstore

        with self._errors():
            found = obstore.list_with_delimiter(self._quick, self._path(folder) or None)
        return list(map(self._key, found["common_prefixes"])), list(map(self._stored, found["objects"]))

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects, whether they are there or not."""
        import obstore

        remaining = list(map(self._path, keys))
        with self._errors():
            while remaining:
                obstore.delete(self._quick, remaining[:_DELETED_AT_A_TIME])
                del remaining[:_DELETED_AT_A_TIME]

    def now(self) -> datetime:
        """Return what time it is by the store's clock, UTC, in whole seconds; it writes and removes an object."""
        key = f".clock-{secrets.token_hex(8)}"
        try:
            self.write(key, b"")
            return self.stat(key).modified_at
        finally:
            with suppress(StoreUnavailable):
                self.delete([key])

    def require_conditional_writes(self) -> None:
        """Raise StoreUnsuitable where the store overwrites what write() is not to; it writes and removes an object."""
        key = f".probe-{secrets.token_hex(8)}"
        try:
            etag = self.write(key, b"1", only_new=True)
            with suppress(FileExistsError):
                self.write(key, b"2", only_new=True)
                raise self._unsuitable("If-None-Match")
            self.write(key, b"3", instead_of=etag)
            with suppress(ObjectChanged):
                self.write(key, b"4", instead_of=etag)
                raise self._unsuitable("If-Match")
        finally:
            with suppress(StoreUnavailable):
                self.delete([key])

    def _path(self, key: str) -> str:
        return f"{self._prefix}{key}"

    def _key(self, path: str) -> str:
        return f"{path}/".removeprefix(self._prefix).removesuffix("/")  # the prefix itself may be an object

    def _stored(self, found: Any) -> StoredObject:
        return StoredObject(self._key(found["path"]), found["size"], found["last_modified"], found["e_tag"])

    def _unsuitable(self, header: str) -> StoreUnsuitable:
        return StoreUnsuitable(
            f"The store {self.url} ignores {header} and overwrites objects that others have written: use one that "
            "knows conditional writes"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from obstore import exceptions

        began = time.monotonic()
        if self._hurried and began < _away_until.get(self._place, began):
            raise StoreUnavailable(f"The store {self.url} has not answered in time: try again in some seconds")
        try:
            yield
        except exceptions.AlreadyExistsError as error:
            raise FileExistsError(_first_words(error)) from error
        except exceptions.PreconditionError as error:
            raise ObjectChanged(_first_words(error)) from error
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.url}: {_first_words(error)}") from error
        except exceptions.InvalidPathError as error:
            raise StoreUnsuitable(
                f"The store {self.url} cannot be listed: another program has put an object there whose key is no path. "
                f"Rename or remove it ({_first_words(error)!r})"
            ) from error
        except exceptions.BaseError as error:
            refused = _REFUSED.search(_first_words(error))
            if not refused and time.monotonic() - began > _SLOW_SECONDS:
                _away_until[self._place] = time.monotonic() + _AWAY_SECONDS
            raise (StoreRefused if refused else StoreUnavailable)(
                f"The store {self.url} cannot be used ({_first_words(error)}): check that it runs, "
                "IMAGESEARCH_STORE_ENDPOINT and the AWS variables"
            ) from error


class _Sent:
    """What is read of a file to be sent: its SHA-256, and the ETag that most stores give it."""

    def __init__(self, part: int) -> None:
        """part: bytes, of an object that is sent in several."""
        self._part = part
        self._digest = hashlib.sha256()
        self._parts: list[bytes] = []  # MD5 sums

    def blocks(self, file: IO[bytes], beat: Callable[[], None]) -> Iterator[bytes]:
        while block := file.read(self._part):
            self._digest.update(block)
            self._parts.append(hashlib.md5(block, usedforsecurity=False).digest())
            beat()
            yield block

    @property
    def sha256(self) -> bytes:
        return self._digest.digest()

    @property
    def etag(self) -> str:
        if len(self._parts) > 1:
            return f'"{hashlib.md5(b"".join(self._parts), usedforsecurity=False).hexdigest()}-{len(self._parts)}"'
        return f'"{self._parts[0].hex() if self._parts else hashlib.md5(usedforsecurity=False).hexdigest()}"'


def open_store(url: str, endpoint: str, *, hurried: bool = False) -> ObjectStore:
    """Return the store of a URL; nothing is asked of it yet. hurried: see ObjectStore."""
    return ObjectStore(url, endpoint=endpoint, hurried=hurried)


@cache
def _bucket(name: str, endpoint: str, *, hurried: bool = False) -> Any:
    """Return the client of a bucket, with its connections, one for the whole process, or two: see ObjectStore."""
    from obstore.store import S3Store

    options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    return S3Store(
        name,
        client_options={**(_CLIENT_IN_A_HURRY if hurried else _CLIENT), "allow_http": endpoint.startswith("http://")},
        retry_config=_RETRIES_IN_A_HURRY if hurried else _RETRIES,
        **options,
    )


def _first_words(error: Exception) -> str:
    """Return what an error of obstore says before it repeats the request, and what it knows of it, over many lines."""
    first = str(error).partition("\n")[0]
    return first.partition(": <?xml")[0][:300]
