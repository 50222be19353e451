"""A Milvus server. The one module that knows pymilvus, which few need and which is imported late.

A collection holds one generation of one company: written once, never changed, dropped with the generation. What
searches ask is bounded in time: a server that does not answer must not hold up the threads that other companies need.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from search.engine.errors import EngineUnavailable, IndexCorrupt
from search.engine.vectors import DIMENSION, Vector

logger = logging.getLogger(__name__)

MOST_ROWS = 16_384  # that Milvus returns at a time
ABOUT = "about"  # the partition of rows that are no pictures
BUILD = {"M": 32, "efConstruction": 200}  # of the HNSW graph

_PICTURES = "_default"
_SECONDS = 5.0  # for an answer to a search
_REST_SECONDS = 2.0  # after a failure nothing is asked for so long
_BEAT_SECONDS = 0.5
_TEXT_BYTES = 65_535
_FOLDERS = 4096  # that a path has at most
_MISSING, _NOT_LOADED = 100, 101  # Milvus's codes for a collection that is not there, or only stored
_NOT_REACHED = 2  # pymilvus's code where it could not connect again; Milvus's own says much the same
_SCALAR_INDEXES = "INVERTED", "STL_SORT"  # the second until Milvus 2.3
_FIELDS = ["text", "sha256", "perceptual_hash"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A picture, or, below 0, something else that a collection says."""

    row: int
    text: str
    sha256: str = ""  # in hexadecimal digits
    perceptual_hash: int = 0  # signed
    path_key: int = 0
    image_key: int = 0
    folder_keys: Sequence[int] = ()
    vector: Vector | None = None  # float32 [960]; None where it was not asked for


class Milvus:
    """A server, connected to when it is first asked. Many threads may use it, but no process forked since.

    Methods raise EngineUnavailable where it does not answer, and IndexCorrupt where a collection is missing.
    lock guards the connecting and when it may be asked again. After a failure one caller at a time finds out whether it
    answers again, and all others are refused at once, or they would wait with every thread there is.
    """

    def __init__(self, url: str, *, token: str = "", seconds: float = _SECONDS) -> None:
        """seconds: for an answer to what searches ask."""
        self.url = url
        self._token, self._seconds = token, seconds
        self._lock = threading.Lock()
        self._client: Any = None
        self._connecting: threading.Thread | None = None
        self._rests_until = 0.0

    # What searches ask

    def nearest(self, name: str, vector: Vector, limit: int, *, folder_key: int | None, effort: int) -> list[StoredRow]:
        """Return the limit pictures that look closest to vector, with their vectors, closest first.

        folder_key: only those that have it. effort: HNSW's ef, at least limit counts.
        """
        only = "" if folder_key is None else f"array_contains(folder_keys, {int(folder_key)})"
        with self._asked(loaded=name) as client:
            found = client.search(
                name,
                data=[vector],
                anns_field="vector",
                limit=limit,
                filter=only,
                partition_names=[_PICTURES],
                output_fields=[*_FIELDS, "vector"],
                search_params={"metric_type": "IP", "params": {"ef": max(effort, limit)}},
                consistency_level="Bounded",
                timeout=self._seconds,
            )
            return [_stored_row(hit["id"], hit["entity"]) for hit in found[0] if hit["id"] >= 0]

    def rows(self, name: str, rows: Sequence[int], *, vectors: bool = False) -> list[StoredRow]:
        """Return the pictures of these rows that there are, in any order."""
        return self._query(name, f"id in [{', '.join(str(int(row)) for row in rows)}]", len(rows), vectors=vectors)

    def span(self, name: str, start: int, stop: int) -> list[StoredRow]:
        """Return the pictures of the rows from start up to stop, in any order."""
        return self._query(name, f"id >= {int(start)} and id < {int(stop)}", stop - start)

    def having(self, name: str, field: str, keys: Sequence[int]) -> list[StoredRow]:
        """Return the pictures that have one of these keys in the field, in any order."""
        return self._query(name, f"{field} in [{', '.join(str(int(key)) for key in keys)}]", MOST_ROWS)

    def about(self, name: str) -> list[StoredRow]:
        """Return the rows that are no pictures, the last one written first; all that was written before is seen."""
        found: list[StoredRow] = []
        while True:
            start = -len(found) - 1
            block = self._query(
                name,
                f"id <= {start} and id > {start - MOST_ROWS}",
                MOST_ROWS,
                partition=ABOUT,
                consistency_level="Strong",
            )
            found += sorted(block, key=lambda row: -row.row)
            if len(block) < MOST_ROWS:
                return found

    def count(self, name: str) -> int:
        """Return how many pictures there are."""
        with self._asked(loaded=name) as client:
            found = client.query(
                name,
                filter="id >= 0",
                output_fields=["count(*)"],
                partition_names=[_PICTURES],
                consistency_level="Strong",
                timeout=self._seconds,
            )
            return int(found[0]["count(*)"])

    def is_indexed(self, name: str) -> bool:
        """Return whether all that was written is in the graph, and it is loaded."""
        with self._asked() as client:
            index = client.describe_index(name, "vector", timeout=self._seconds)
            state = client.get_load_state(name, timeout=self._seconds)["state"]
        return not int(index["pending_index_rows"]) and index["state"] == "Finished" and str(state) == "Loaded"

    def _query(
        self,
        name: str,
        only: str,
        limit: int,
        *,
        vectors: bool = False,
        partition: str = _PICTURES,
        consistency_level: str = "Bounded",
    ) -> list[StoredRow]:
        if limit <= 0:
            return []
        with self._asked(loaded=name) as client:
            found = client.query(
                name,
                filter=only,
                limit=min(limit, MOST_ROWS),
                partition_names=[partition],
                output_fields=[*_FIELDS, *(["vector"] if vectors else [])],
                consistency_level=consistency_level,
                timeout=self._seconds,
            )
            return [_stored_row(entity["id"], entity) for entity in found]

    # What publishers ask

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the collections that begin with prefix."""
        with self._asked() as client:
            return [name for name in client.list_collections(timeout=self._seconds) if name.startswith(prefix)]

    def create(self, name: str) -> None:
        """Make an empty collection; one of this name is dropped first."""
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.INT64, is_primary=True)  # the row; no other name will do
        schema.add_field("text", DataType.VARCHAR, max_length=_TEXT_BYTES)
        schema.add_field("sha256", DataType.VARCHAR, max_length=64)
        for field in ("perceptual_hash", "path_key", "image_key"):
            schema.add_field(field, DataType.INT64)
        schema.add_field("folder_keys", DataType.ARRAY, element_type=DataType.INT64, max_capacity=_FOLDERS)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=DIMENSION)
        self.drop(name)
        with self._asked() as client:
            client.create_collection(name, schema=schema, consistency_level="Bounded", timeout=None)
            client.create_partition(name, ABOUT, timeout=None)

    def insert(self, name: str, rows: Sequence[StoredRow], beat: Callable[[], None] = lambda: None) -> None:
        """Write rows, those below 0 into the partition of what is no picture. beat is called while it lasts."""
        partition = _PICTURES if rows[0].row >= 0 else ABOUT
        entities = [_entity(row) for row in rows]
        self._run(lambda client: client.insert(name, entities, partition_name=partition, timeout=None), beat)

    def flush(self, name: str, beat: Callable[[], None]) -> None:
        self._run(lambda client: client.flush(name, timeout=None), beat)

    def index(self, name: str, beat: Callable[[], None]) -> None:
        """Make the graph and the indexes of the keys, and have the server load the collection."""
        from pymilvus import MilvusClient

        graph = MilvusClient.prepare_index_params()
        graph.add_index("vector", index_type="HNSW", metric_type="IP", index_name="vector", params=BUILD)
        self._run(lambda client: client.create_index(name, graph, sync=True), beat)
        for field in ("path_key", "image_key"):
            self._run(partial(_index_keys, name=name, field=field), beat)
        self._run(lambda client: client.load_collection(name), beat)

    def drop(self, name: str) -> None:
        """Drop a collection, if it is there."""
        with self._asked() as client:
            client.drop_collection(name, timeout=60.0)

    # The connection

    def _run(self, call: Callable[[Any], Any], beat: Callable[[], None]) -> None:
        """Do what may take hours; an exception from beat ends the waiting."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                with self._asked() as client:
                    call(client)
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name="milvus", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_BEAT_SECONDS)
            beat()
        if failed:
            raise failed[0]

    @contextmanager
    def _asked(self, *, loaded: str = "") -> Iterator[Any]:
        """Yield the client. loaded: a collection that must be; where it is not, as after a restart, it will be soon."""
        import grpc
        from pymilvus.exceptions import MilvusException

        client = self._connected()
        try:
            yield client
            self._note_answer()
        except (MilvusException, grpc.RpcError) as error:
            if _has_answered(error):
                self._note_answer()
            else:
                self._rest()
            if isinstance(error, MilvusException) and error.code == _MISSING:
                raise IndexCorrupt(f"A collection is gone from Milvus: {error.message}") from error
            if loaded and isinstance(error, MilvusException) and error.code == _NOT_LOADED:
                with suppress(MilvusException, grpc.RpcError):
                    client.load_collection(loaded, timeout=self._seconds, _async=True)
            raise EngineUnavailable(f"Milvus at {self.url} does not answer: {_in_words(error)}") from error

    def _connected(self) -> Any:
        """Return the client once there is a connection, for which a thread of its own waits: pymilvus takes a minute
        and more to find out that a server keeps silent.
        """
        with self._lock:
            if (now := time.monotonic()) < self._rests_until:
                raise EngineUnavailable(f"Milvus at {self.url} did not answer a moment ago")
            if self._rests_until:
                self._rests_until = now + self._seconds  # in which this caller finds out
            if self._client is not None:
                return self._client
            if self._connecting is None:
                self._connecting = threading.Thread(target=self._connect, name="milvus-connect", daemon=True)
                self._connecting.start()
            connecting = self._connecting
        connecting.join(self._seconds)
        if self._client is None:
            self._rest()
            raise EngineUnavailable(f"Milvus at {self.url} cannot be reached")
        return self._client

    def _connect(self) -> None:
        from pymilvus import MilvusClient

        logging.getLogger("pymilvus").setLevel(logging.CRITICAL)  # it logs what it raises, with its trace
        try:
            self._client = MilvusClient(uri=self.url, token=self._token, timeout=self._seconds)
        except Exception as error:
            logger.warning("Milvus at %s cannot be reached: %s", self.url, _in_words(error))
        finally:
            with self._lock:
                self._connecting = None

    def _note_answer(self) -> None:
        with self._lock:
            self._rests_until = 0.0

    def _rest(self) -> None:
        with self._lock:
            self._rests_until = time.monotonic() + _REST_SECONDS


def _index_keys(client: Any, name: str, field: str) -> None:
    from pymilvus import MilvusClient
    from pymilvus.exceptions import MilvusException

    for kind in _SCALAR_INDEXES:
        keys = MilvusClient.prepare_index_params()
        keys.add_index(field, index_type=kind, index_name=field)
        try:
            client.create_index(name, keys, sync=True)
            return
        except MilvusException as error:
            logger.debug("Milvus makes no %s of %s: %s", kind, field, error)


def _entity(row: StoredRow) -> dict[str, Any]:
    nothing = np.zeros(DIMENSION, np.float32)
    return {
        "id": row.row,
        "text": row.text,
        "sha256": row.sha256,
        "perceptual_hash": row.perceptual_hash,
        "path_key": row.path_key,
        "image_key": row.image_key,
        "folder_keys": list(row.folder_keys),
        "vector": nothing if row.vector is None else row.vector,
    }


def _stored_row(row: int, entity: Mapping[str, Any]) -> StoredRow:
    vector = entity.get("vector")
    return StoredRow(
        int(row),
        entity["text"],
        entity["sha256"],
        int(entity["perceptual_hash"]),
        vector=None if vector is None else np.array(vector, np.float32),
    )


def _has_answered(error: Any) -> bool:
    import grpc

    code = error.code  # of a RpcError a method; a StatusCode where pymilvus has given up to try again
    return not (callable(code) or isinstance(code, grpc.StatusCode) or code == _NOT_REACHED)


def _in_words(error: Any) -> str:
    details = getattr(error, "details", None)
    return str(details() if callable(details) else getattr(error, "message", "") or error)[:300]
