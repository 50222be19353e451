import builtins
import io
import json
import multiprocessing
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from filelock import FileLock, Timeout

from search.engine import storage
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.records import metadata_entry
from search.engine.storage import reading, writing
from search.engine.storage.generations import drop_old_generations
from tests.support.disks import fill_up
from tests.support.indexes import (
    FLASK_FILES,
    INFO,
    drafts,
    flask_directory,
    generations,
    hidden_home,
    publish,
    some_records,
    some_vectors,
)

# Processes that can be killed, forked from one that has imported everything already.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def publish_generation(directory: Path, number: int, *, keep: int = 1) -> None:
    """Publish an index of which every part tells its number."""
    count = 3 + number % 5
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(count, seed=number), some_records(count, f"{number}/"))
        writer.publish(IndexInfo(0, weights=f"generation {number}", fingerprint=f"{number:064}"), keep=keep)


def require_one_generation(index: ImageIndex) -> int:
    """Return the number of publish_generation; fail where the parts are of different ones."""
    number = int(index.records[0].path.split("/")[0])
    count = 3 + number % 5
    assert list(index.records) == some_records(count, f"{number}/")
    np.testing.assert_array_equal(index.vectors, some_vectors(count, seed=number))
    assert (index.info.total_images, index.info.weights) == (count, None if number == 0 else f"generation {number}")
    return number


def flask_generation(directory: Path) -> None:
    """Make a Flask directory that require_one_generation knows as number 0."""
    records = some_records(3, "0/")
    flask_directory(directory, some_vectors(3, seed=0), [record.path for record in records])
    metadata = [metadata_entry(record) for record in records]
    (directory / "metadata.json").write_text(json.dumps(metadata))


def _publish_on(directory: Path, first: int, ready: Connection) -> None:
    ready.send("ready")
    number = first
    while True:
        publish_generation(directory, number)
        number += 1


def _publish_some(directory: Path, numbers: Sequence[int]) -> None:
    for number in numbers:
        publish_generation(directory, number, keep=0)


def _write_and_wait(directory: Path, ready: Connection) -> None:
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(3), some_records(3))
        ready.send("written")
        ready.recv()
        writer.publish(INFO, keep=5)


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    here, there = _processes.Pipe()
    process = _processes.Process(target=target, args=(*arguments, there), daemon=True)
    process.start()
    assert here.poll(30)
    here.recv()
    return process, here


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def test_killed_publisher_leaves_the_old_index_or_the_new_one(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    publish_generation(directory, 1)
    chance = random.Random(2)
    newest = 1
    for _ in range(15):
        process, _ready = start(_publish_on, directory, newest + 1)
        for _ in range(chance.randrange(1, 50)):
            seen = require_one_generation(storage.load(directory))
            assert seen >= newest
            newest = seen
        kill(process)
        newest = require_one_generation(storage.load(directory))
    assert newest > 5
    publish_generation(directory, newest + 1)
    assert require_one_generation(storage.load(directory)) == newest + 1
    assert drafts(directory) == []
    assert len(generations(directory)) == 2


def test_killed_first_publisher_leaves_the_flask_index_or_the_new_one(tmp_path: Path) -> None:
    chance = random.Random(3)
    for attempt in range(12):
        directory = tmp_path / f"acme{attempt}"
        flask_generation(directory)
        process, _ready = start(_publish_on, directory, 1)
        for _ in range(chance.randrange(1, 30)):
            assert storage.has_index(directory)
            require_one_generation(storage.load(directory))
        kill(process)
        number = require_one_generation(storage.load(directory))
        publish_generation(directory, number + 1)
        assert require_one_generation(storage.load(directory)) == number + 1


@pytest.mark.parametrize("step", ["rename", "replace", "unlink", "rmtree", "symlink_to"])
def test_first_publication_cut_short_at_any_step_leaves_a_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Every call that changes the disk while a Flask directory is replaced, the last thing a process does."""

    class Killed(BaseException):
        pass

    for nth in range(1, 4):
        directory = tmp_path / f"{step}{nth}"
        flask_generation(directory)
        writer = storage.IndexWriter(directory)
        writer.add(some_vectors(4, seed=1), some_records(4, "1/"))
        with monkeypatch.context() as patch:
            owner: Any = shutil if step == "rmtree" else Path
            real, calls = getattr(owner, step), iter(range(1, 1000))

            def stop(*args: Any, real: Any = real, calls: Any = calls, nth: int = nth, **kwargs: Any) -> Any:
                if next(calls) == nth:
                    raise Killed
                return real(*args, **kwargs)

            patch.setattr(owner, step, stop)
            with suppress(Killed):
                writer.publish(IndexInfo(0, weights="generation 1", fingerprint=f"{1:064}"), keep=0)
        assert storage.has_index(directory)
        assert require_one_generation(storage.load(directory)) in (0, 1)


def test_reader_between_the_steps_of_a_first_publication_sees_a_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Flask directory is replaced just after a reader has found out where the files lie."""
    for nth in range(1, 8):
        directory = tmp_path / f"acme{nth}"
        flask_generation(directory)
        with monkeypatch.context() as patch:
            real, calls = reading.resolve, iter(range(1, 1000))

            def resolve_and_publish(
                place: Path, real: Any = real, calls: Any = calls, nth: int = nth, directory: Path = directory
            ) -> Path:
                found: Path = real(place)
                if next(calls) == nth:
                    publish_generation(directory, 1, keep=0)
                return found

            patch.setattr(reading, "resolve", resolve_and_publish)
            assert storage.has_index(directory)
            require_one_generation(storage.load(directory))
            assert storage.info(directory).weights in (None, "generation 1")
            assert storage.version(directory)


@pytest.mark.parametrize("plain_files", [FLASK_FILES, ["faiss_index.bin", "metadata.json"]])
def test_reader_of_a_plain_directory_replaced_before_any_of_its_files_is_opened_sees_a_whole_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_files: list[str]
) -> None:
    replaced = 0
    for nth in range(1, 12):
        directory = tmp_path / f"acme{nth}"
        flask_generation(directory)
        for name in set(FLASK_FILES) - set(plain_files):
            (directory / name).unlink()
        opened, publishing = 0, False

        def publish_at_nth(
            real: Callable[..., Any], *args: Any, nth: int = nth, directory: Path = directory, **kwargs: Any
        ) -> Any:
            nonlocal opened, publishing, replaced
            if publishing or Path(args[0]).parent != directory:
                return real(*args, **kwargs)
            opened += 1
            if opened != nth:
                return real(*args, **kwargs)
            publishing, replaced = True, replaced + 1
            publish_generation(directory, 1, keep=0)
            link = directory.readlink()
            directory.unlink()  # as for the moment between moving the plain directory away and linking to the new one
            try:
                return real(*args, **kwargs)
            finally:
                directory.symlink_to(link)
                publishing = False

        with monkeypatch.context() as patch:
            for owner, name in [(io, "open"), (builtins, "open"), (faiss, "read_index")]:
                patch.setattr(owner, name, partial(publish_at_nth, getattr(owner, name)))
            require_one_generation(storage.load(directory))
    assert replaced >= 4


def test_reader_whose_generation_is_pruned_while_it_loads_gets_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_generation(tmp_path / "acme", 1)
    real = reading._flat_shape

    def publish_first(generation: Path) -> tuple[int, int]:
        monkeypatch.setattr(reading, "_flat_shape", real)
        publish_generation(tmp_path / "acme", 2, keep=0)
        return real(generation)

    monkeypatch.setattr(reading, "_flat_shape", publish_first)
    assert require_one_generation(storage.load(tmp_path / "acme")) == 2


def test_publishers_in_several_processes_take_turns(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    flask_generation(directory)
    processes = [
        _processes.Process(target=_publish_some, args=(directory, range(first, first + 10)), daemon=True)
        for first in (1, 101, 201)
    ]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        require_one_generation(storage.load(directory))
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert require_one_generation(storage.load(directory)) in (10, 110, 210)
    assert drafts(directory) == []
    assert len(generations(directory)) == 1


def test_drafts_of_killed_processes_are_cleared_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    dead, _ = start(_write_and_wait, directory)
    living, connection = start(_write_and_wait, directory)
    kill(dead)
    assert len(drafts(directory)) == 2
    publish(directory, some_records(7), some_vectors(7))
    assert len(drafts(directory)) == 1
    connection.send("publish")
    living.join()
    assert living.exitcode == 0
    assert drafts(directory) == []
    assert len(storage.load(directory)) == 3


def test_draft_is_not_cleared_between_its_making_and_its_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever publishes at the worst moment of a writer's beginning clears nothing that it needs."""
    directory = tmp_path / "acme"
    publish_generation(directory, 1)

    class ClearedJustBefore(FileLock):
        def acquire(self, *args: Any, **options: Any) -> Any:
            if Path(self.lock_file).parent.name.startswith(".writing-"):
                monkeypatch.setattr(writing, "FileLock", FileLock)
                with suppress(Timeout), FileLock(hidden_home(directory) / ".lock", timeout=0):
                    drop_old_generations(directory, keep=1)
            return super().acquire(*args, **options)

    monkeypatch.setattr(writing, "FileLock", ClearedJustBefore)
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(3), some_records(3))
        writer.publish(INFO, keep=5)
    assert len(storage.load(directory)) == 3


def test_full_disk_leaves_the_old_index_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    fill_up(monkeypatch, "embeddings.npy")
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "acme", some_records(5), some_vectors(5))
    assert drafts(tmp_path / "acme") == []
    assert len(storage.load(tmp_path / "acme")) == 2
