"""Pictures on their way onto a disk that others use, change and fill with odd things at the same time."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from search.engine.errors import PathRefused
from search.engine.pictures import shelf as shelves
from search.engine.pictures.shelf import Shelf, open_picture, remove_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def place(folder: Path, path: str, content: bytes = b"new", *, replace: bool = True) -> bool:
    with Shelf(folder) as shelf:
        return place_on(shelf, path, content, replace=replace)


def place_on(shelf: Shelf, path: str, content: bytes = b"new", *, replace: bool = True) -> bool:
    with shelf.stage() as staged:
        staged.file.write(content)
        return staged.place(path, replace=replace, durable=True)


def everything(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_picture_is_placed_whole_and_nothing_else_stays(folder: Path) -> None:
    assert not place(folder, "New/Red/a.png")
    assert place(folder, "New/Red/a.png", b"newer")
    assert everything(folder) == {"New/Red/a.png": b"newer"}
    assert [file.name for file in folder.iterdir()] == ["New"]


def test_a_picture_that_is_there_is_replaced_only_when_asked(folder: Path) -> None:
    place(folder, "a.png", b"old")
    with pytest.raises(PathRefused, match=r"a\.png: A picture with that name already exists"):
        place(folder, "a.png", replace=False)
    assert everything(folder) == {"a.png": b"old"}


def test_who_reads_a_picture_that_is_replaced_or_removed_keeps_it_whole(folder: Path) -> None:
    place(folder, "a.png", b"old")
    with (folder / "a.png").open("rb", buffering=0) as before, (folder / "a.png").open("rb") as again:
        assert before.read(1) == b"o"
        place(folder, "a.png", b"NEW")
        assert before.read() == b"ld"
        with Shelf(folder) as shelf:
            shelf.remove("a.png")
        assert again.read() == b"old"
    assert everything(folder) == {}


def test_what_is_not_placed_leaves_nothing(folder: Path) -> None:
    with Shelf(folder) as shelf, shelf.stage() as staged:
        staged.file.write(b"half")
        assert len(everything(folder)) == 1
    assert list(folder.iterdir()) == []


USES: dict[str, Callable[[Shelf, str], object]] = {
    "create": lambda shelf, path: shelf.create(path).close(),
    "require": lambda shelf, path: shelf.require(path),
    "remove": lambda shelf, path: shelf.remove(path),
    "place": lambda shelf, path: place_on(shelf, path, replace=True),
    "place anew": lambda shelf, path: place_on(shelf, path, replace=False),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("path", ["out/a.png", "a.png", "pipe.png", "folder.png", "file.png/a.png", "in/link/a.png"])
def test_nothing_but_a_file_is_touched_and_no_link_followed(tmp_path: Path, use: str, path: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for directory in (outside, folder / "folder.png", folder / "in"):
        directory.mkdir(parents=True)
    (outside / "a.png").write_bytes(b"theirs")
    (folder / "file.png").write_bytes(b"ours")
    (folder / "out").symlink_to(outside)
    (folder / "in/link").symlink_to("../../outside")
    (folder / "a.png").symlink_to(outside / "a.png")
    os.mkfifo(folder / "pipe.png")
    before = sorted(tmp_path.rglob("*"))
    with Shelf(folder) as shelf:
        with pytest.raises(PathRefused, match="in the way"):
            USES[use](shelf, path)
        assert not shelf.holds(path, b"theirs")
    assert sorted(tmp_path.rglob("*")) == before
    assert (outside / "a.png").read_bytes() == b"theirs"


def test_all_lands_in_the_folder_that_was_opened_whatever_becomes_of_its_path(tmp_path: Path) -> None:
    folder, moved, other = tmp_path / "folder", tmp_path / "moved", tmp_path / "other"
    for directory in (folder, other):
        directory.mkdir()
    with Shelf(folder) as shelf, shelf.stage() as staged:
        staged.file.write(b"ours")
        folder.rename(moved)
        folder.symlink_to(other)
        staged.place("New/a.png", replace=False)
        assert shelf.holds("New/a.png", b"ours")
    assert (everything(moved), everything(other)) == ({"New/a.png": b"ours"}, {})


def test_what_is_not_there_is_told(folder: Path) -> None:
    with Shelf(folder) as shelf:
        for use in (shelf.require, shelf.remove):
            for path in ("a.png", "New/a.png"):
                with pytest.raises(FileNotFoundError):
                    use(path)
        assert not shelf.holds("a.png", b"")
    assert list(folder.iterdir()) == []


def test_contents_are_compared_whole(folder: Path) -> None:
    place(folder, "a.png", b"0123")
    with Shelf(folder) as shelf:
        assert [shelf.holds("a.png", content) for content in (b"0123", b"012", b"01234", b"0124", b"")] == [
            True,
            *[False] * 4,
        ]


def test_a_name_too_long_for_the_file_system_is_refused(folder: Path) -> None:
    for path in (f"{'x' * 256}.png", f"{'x' * 256}/a.png"):
        with pytest.raises(PathRefused, match="name is too long"):
            place(folder, path)
    assert list(folder.iterdir()) == []


def test_a_crash_finds_the_content_before_the_name_and_the_name_before_the_return(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    class WatchedOs:
        def __getattr__(self, name: str) -> Any:
            if name in {"mkdir", "fsync", "rename", "unlink"}:
                calls.append(name)
            return getattr(os, name)

    with Shelf(folder) as shelf, shelf.stage() as staged:
        monkeypatch.setattr(shelves, "os", WatchedOs())
        staged.file.write(b"new")
        staged.sync()
        staged.place("New/a.png", replace=True, durable=True)
        assert calls == ["fsync", "mkdir", "fsync", "rename", "fsync"]
        calls.clear()
        shelf.remove("New/a.png")
        assert calls == ["unlink", "fsync"]


# Leftovers


def of_a_killed_process(folder: Path) -> Path:
    """Return what a process has staged that was killed before it could place it."""
    program = (
        "import sys, time; from pathlib import Path; from search.engine.pictures.shelf import Shelf\n"
        "with Shelf(Path(sys.argv[1])) as shelf, shelf.stage() as staged:\n"
        "    staged.file.write(b'half'); staged.sync(); print('staged', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"staged\n"
        (staged,) = (folder / ".uploads").iterdir()
        age(staged)
        place(folder, "other.png")
        assert staged.read_bytes() == b"half"  # old, but its process lives
        process.send_signal(signal.SIGKILL)
    return staged


def age(file: Path, *, hours: float = 2) -> None:
    then = time.time() - 3600 * hours
    os.utime(file, (then, then))


def test_what_a_killed_process_left_is_removed_after_an_hour_and_never_a_living_ones(folder: Path) -> None:
    staged = of_a_killed_process(folder)
    age(staged, hours=0.9)
    place(folder, "a.png")
    assert staged.exists()
    age(staged, hours=1.1)
    place(folder, "a.png")
    assert not staged.exists()
    assert sorted(everything(folder)) == ["a.png", "other.png"]


def test_a_slow_upload_is_placed_however_long_it_takes(folder: Path) -> None:
    with Shelf(folder) as shelf, shelf.stage() as slow:
        slow.file.write(b"slow")
        slow.sync()
        (staged,) = (folder / ".uploads").iterdir()
        age(staged, hours=100)
        place(folder, "quick.png")
        slow.place("slow.png", replace=False)
    assert everything(folder) == {"quick.png": b"new", "slow.png": b"slow"}


def test_leftovers_that_cannot_be_removed_are_nobodys_error(folder: Path) -> None:
    staging = folder / ".uploads"
    (staging / "folder").mkdir(parents=True)
    (staging / "link").symlink_to("nowhere")
    os.mkfifo(staging / "pipe")
    for each in ("folder", "pipe"):
        age(staging / each)
    place(folder, "a.png")
    assert sorted(each.name for each in staging.iterdir()) == ["folder", "link", "pipe"]


def test_many_at_once_do_not_stumble_over_each_other(folder: Path) -> None:
    """Each removes .uploads when it is empty, also while another is about to write into it."""

    def place_many(thread: int) -> None:
        for number in range(200):
            place(folder, f"{thread}/{number}.png")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(place_many, range(4)))
    assert len(everything(folder)) == 800
    assert not (folder / ".uploads").exists()


def test_a_tree_deeper_than_python_recurses_or_paths_reach_is_made_and_removed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "kept.png").write_bytes(b"kept")
    with Shelf(folder) as shelf:
        for path in (f"{'d/' * 2040}deep.png", f"{'d/' * 3}a.png", "top.png"):
            with shelf.create(path) as file:
                file.write(b"1")
    (folder / "d/link").symlink_to(tmp_path)
    (folder / "link").symlink_to(tmp_path / "kept.png")
    with pytest.raises(OSError, match="too long"):
        (folder / f"{'d/' * 2040}deep.png").stat()
    remove_tree(folder)
    assert not folder.exists()
    assert (tmp_path / "kept.png").read_bytes() == b"kept"


# Opening what lies there


def read(folder: Path, path: str) -> bytes:
    with open_picture(folder, path) as file:
        return file.read()


def test_links_are_followed_to_files_inside_the_folder_only(folder: Path, tmp_path: Path) -> None:
    place(folder, "Deep/er/a.png", b"inside")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "link").symlink_to(folder)
    (folder / "short.png").symlink_to("Deep/er/a.png")
    (folder / "long.png").symlink_to(tmp_path / "link/short.png")
    (folder / "Other").symlink_to(folder / "Deep")
    (folder / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "Out").symlink_to(tmp_path)
    (folder / "round.png").symlink_to("round.png")
    for path in ("Deep/er/a.png", "short.png", "long.png", "Other/er/a.png"):
        assert read(folder, path) == read(tmp_path / "link", path) == b"inside"
    for path in ("out.png", "Out/secret.png", "Deep", "gone.png", "Gone/a.png", "../secret.png"):
        with pytest.raises(OSError, match=r"outside|Not a regular file|No such file"):
            read(folder, path)
    with pytest.raises((OSError, RuntimeError)):
        read(folder, "round.png")


def test_a_pipe_or_a_socket_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.png")
    (folder / "to pipe.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "s.png"))
        for path in ("pipe.png", "to pipe.png", "s.png"):
            with pytest.raises(OSError, match="Not a regular file"):
                read(folder, path)


def test_no_swap_however_quick_leads_out_or_hangs(folder: Path, tmp_path: Path) -> None:
    """Somebody swaps the picture, and its folder, for links and a pipe as often as possible."""
    place(folder, "Deep/a.png", b"inside")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/a.png").write_bytes(b"secret")
    (folder / "link").symlink_to(tmp_path / "secret/a.png")
    (folder / "links").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for one, other in (("Deep/a.png", "link"), ("Deep/a.png", "pipe"), ("Deep", "links")):
                for _ in range(2):
                    (folder / one).rename(folder / "aside")
                    (folder / other).rename(folder / one)
                    (folder / "aside").rename(folder / other)

    with ThreadPoolExecutor(1) as threads:
        swapping = threads.submit(swap)
        try:
            outcomes = [outcome_of_reading(folder, "Deep/a.png") for _ in range(2000)]
        finally:
            done.set()
        swapping.result()
    assert b"inside" in outcomes
    assert set(outcomes) <= {b"inside", None}


def outcome_of_reading(folder: Path, path: str) -> bytes | None:
    try:
        return read(folder, path)
    except OSError:
        return None
