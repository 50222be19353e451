import errno
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock, Timeout

from search.engine import storage
from search.engine.index.index import ImageIndex, IndexInfo
from search.engine.index.records import metadata_entry
from tests.support.disks import fill_up
from tests.support.indexes import (
    INFO,
    by_link,
    drafts,
    flask_directory,
    generations,
    hidden,
    hidden_home,
    publish,
    some_records,
    some_vectors,
)

# Processes that can be killed, forked from one that has imported everything already.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


def publish_generation(directory: Path, number: int, *, keep: int = 1, publish: storage.Publish | None = None) -> None:
    """Publish an index of which every part tells its number."""
    count = 3 + number % 5
    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(count, seed=number), some_records(count, f"{number}/"))
        info = IndexInfo(0, weights=f"generation {number}" if number else None, fingerprint=f"{number:064}")
        writer.publish(info, publish or by_link(directory, keep=keep))


def require_one_generation(index: ImageIndex) -> int:
    """Return the number of publish_generation; fail where the parts are of different ones."""
    number = int(index.records[0].path.split("/")[0])
    count = 3 + number % 5
    assert list(index.records) == some_records(count, f"{number}/")
    np.testing.assert_array_equal(index.vectors[:], some_vectors(count, seed=number))
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
        writer.publish(INFO, by_link(directory, keep=5))


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


@pytest.mark.slow
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


# Cut short at every step --------------------------------------------------------------------------------------------

# What Python tells its audit hooks of before it happens. A process that is killed there leaves all that came before.
_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink"}


def _publish_until_killed(directory: Path, number: int, nth: int, ready: Connection) -> None:
    """Publish, and be killed before the nth change of the disk after the files are written."""
    changes = iter(range(1, 1000))

    def kill_at_nth(event: str, arguments: Any) -> None:
        if event in _CHANGES and next(changes) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    def publish_under_the_hook(draft: storage.Draft) -> str:
        sys.addaudithook(kill_at_nth)
        return storage.publish_by_link(directory, draft, keep=0)

    ready.send("ready")
    publish_generation(directory, number, publish=publish_under_the_hook)


def killed_at(directory: Path, number: int, nth: int) -> bool:
    """Publish this generation in a process that is killed before its nth change; return whether it got so far."""
    process, _ = start(_publish_until_killed, directory, number, nth)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
def test_first_publication_killed_before_any_of_its_changes_leaves_a_whole_index(tmp_path: Path) -> None:
    left = []
    for nth in range(1, 100):
        directory = tmp_path / f"acme{nth}"
        flask_generation(directory)
        if not killed_at(directory, 1, nth):
            break
        assert storage.has_index(directory)
        left.append((require_one_generation(storage.load(directory)), directory.exists()))
        publish_generation(directory, 2, keep=0)
        assert require_one_generation(storage.load(directory)) == 2
        assert [entry.name for entry in hidden(directory)] == [".lock", directory.resolve().name]
    # The plain directory first; then, when it has been moved away, the link that is about to be put in its place.
    assert list(dict.fromkeys(left)) == [(0, True), (1, False), (1, True)]


@pytest.mark.slow
def test_publication_after_one_that_was_killed_before_its_link_may_be_killed_too(tmp_path: Path) -> None:
    seen = set()
    for nth in range(1, 100):
        directory = tmp_path / f"acme{nth}"
        flask_generation(directory)
        publish_generation(directory, 1, keep=0)
        directory.rename(hidden_home(directory) / ".link-0123456789abcdef")
        if not killed_at(directory, 2, nth):
            break
        number = require_one_generation(storage.load(directory))
        seen.add(number)
        with storage.publish_lock(directory):  # what was cut short is brought to its end
            storage.link(directory, storage.linked_generation(directory) or "")
        assert directory.is_symlink()
        assert require_one_generation(storage.load(directory)) == number
    assert seen == {1, 2}


def _load_while_replaced(directory: Path, nth: int, linked: bool, answer: Connection) -> None:
    """Load the index, which another takes the place of just before the nth file is opened.

    linked: the link is put in its place; otherwise whoever published was killed before that.
    """
    opened, replaced = iter(range(1, 1000)), False

    def replace_at_nth(event: str, arguments: Any) -> None:
        nonlocal replaced
        if event == "open" and not replaced and str(arguments[0]).endswith(_ENDINGS) and next(opened) == nth:
            replaced = True
            publish_generation(directory, 9, keep=0)
            if not linked:
                directory.rename(hidden_home(directory) / ".link-0123456789abcdef")

    answer.send("ready")
    sys.addaudithook(replace_at_nth)
    number = require_one_generation(storage.load(directory))
    answer.send((replaced, number))


_ENDINGS = (".bin", ".npy", ".json", "SHA256SUMS")


def plain_without_copies(directory: Path) -> None:
    flask_generation(directory)
    for name in ("index_info.json", "embeddings.npy"):
        (directory / name).unlink()


def generation_of_ours(directory: Path) -> None:
    publish_generation(directory, 0)


@pytest.mark.slow
@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("make", [flask_generation, plain_without_copies, generation_of_ours])
def test_reader_of_an_index_replaced_before_any_of_its_files_is_opened_sees_a_whole_one(
    tmp_path: Path, make: Callable[[Path], None], linked: bool
) -> None:
    seen = []
    for nth in range(1, 100):
        directory = tmp_path / f"acme{nth}"
        make(directory)
        reader, answer = start(_load_while_replaced, directory, nth, linked)
        assert answer.poll(30)
        replaced, number = answer.recv()
        reader.join()
        if not replaced:
            break
        seen.append(number)
    assert len(seen) >= 3
    assert seen[0] == 9


# Several at a time --------------------------------------------------------------------------------------------------


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


def _write_and_prune_at_the_worst_moment(directory: Path, answer: Connection) -> None:
    """Publish generation 2; prune, as another publisher would, when the draft is made and not locked yet."""
    outcome = []

    def prune_before_the_lock(event: str, arguments: Any) -> None:
        if event != "open" or outcome or not re.search(r"/\.writing-\w+/\.lock$", str(arguments[0])):
            return
        outcome.append("the lock was held")
        with suppress(Timeout), FileLock(hidden_home(directory) / ".lock", timeout=0):
            storage.prune(directory, storage.linked_generation(directory) or "", before=None, keep=1)
            outcome[0] = "pruned"

    sys.addaudithook(prune_before_the_lock)
    answer.send("ready")
    publish_generation(directory, 2)
    answer.send(outcome)


def test_draft_cannot_be_cleared_between_its_making_and_its_locking(tmp_path: Path) -> None:
    directory = tmp_path / "acme"
    publish_generation(directory, 1)
    writer, answer = start(_write_and_prune_at_the_worst_moment, directory)
    assert answer.poll(30)
    assert answer.recv() == ["the lock was held"]
    writer.join()
    assert require_one_generation(storage.load(directory)) == 2


def test_full_disk_leaves_the_old_index_and_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    fill_up(monkeypatch, "embeddings.npy")
    with pytest.raises(OSError, match="No space"):
        publish(tmp_path / "acme", some_records(5), some_vectors(5))
    assert drafts(tmp_path / "acme") == []
    assert len(storage.load(tmp_path / "acme")) == 2


def test_writer_that_runs_out_of_open_files_leaves_no_draft(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = []
    for spare in range(usual[0]):  # numbers behind the first free one may be taken
        last = os.open(os.devnull, os.O_RDONLY)
        os.close(last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + spare, usual[1]))
        try:
            with storage.IndexWriter(tmp_path / "acme"):
                break
        except OSError as error:
            refused.append(error.errno)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, usual)
        assert drafts(tmp_path / "acme") == []
    else:
        pytest.fail("no writer could open its files")
    assert refused  # how often depends on which numbers are free in this process
    assert set(refused) == {errno.EMFILE}
    assert drafts(tmp_path / "acme") == []
