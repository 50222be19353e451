"""Finding pictures in a folder."""

import os
from pathlib import Path

import pytest

from search.engine.pictures.folder import ImageFile, SkippedFile, find_images, other_types


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def found(folder: Path) -> list[str]:
    entries = list(find_images(folder))
    assert all(isinstance(entry, ImageFile) for entry in entries), entries
    return [entry.path for entry in entries]


def skipped(folder: Path) -> dict[str, str]:
    return {entry.path: entry.reason for entry in find_images(folder) if isinstance(entry, SkippedFile)}


def test_pictures_are_found_in_the_order_of_their_paths(tmp_path: Path) -> None:
    names = ["a/z.png", "a/b/c.png", "a-b/x.png", "a.png", "B.JPG", "a/b.png", "é/ü.webp", "a b/q.gif"]
    touch(tmp_path, *names, "notes.txt", "a/readme")
    assert found(tmp_path) == sorted(names)


def test_an_entry_carries_size_and_time(tmp_path: Path) -> None:
    touch(tmp_path, "red/a.png")
    (entry,) = find_images(tmp_path)
    assert entry == ImageFile("red/a.png", 5, (tmp_path / "red/a.png").stat().st_mtime_ns)


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, ".DS_Store", "._x.jpg", ".git/a.png", "a/.b/c.png", "seen.png", "a/..b.png")
    assert found(tmp_path) == ["seen.png"]


def test_folders_of_servers_and_systems_are_ignored(tmp_path: Path) -> None:
    touch(
        tmp_path, "Hats/a.jpg", "Hats/@eaDir/a.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/b.jpg", "$Recycle.Bin/S-1/c.jpg"
    )
    touch(tmp_path, "lost+found/d.jpg", "System Volume Information/e.jpg", "__MACOSX/f.jpg", "@Recycle/g.jpg")
    touch(tmp_path, "recycle/h.jpg", "@eaDir.jpg", "#1/i.jpg")
    assert found(tmp_path) == ["#1/i.jpg", "@eaDir.jpg", "Hats/a.jpg", "recycle/h.jpg"]


def test_other_types_are_told_by_their_number(tmp_path: Path) -> None:
    touch(tmp_path, "a.heic", "b/c.HEIC", "d.jfif", "readme", ".hidden.txt", "@eaDir/x.txt", "picture.png")
    assert other_types(tmp_path) == "2 .heic, 1 .jfif, 1 of no type"


def test_odd_names_are_found(tmp_path: Path) -> None:
    names = [
        "new\nline.png",
        "quo\"te's.png",
        "emoji 🦊.png",
        " spaces .png",
        "x" * 246 + ".png",
        "back\\slash.png",
        "\t.png",
    ]
    touch(tmp_path, *names)
    assert found(tmp_path) == sorted(names)


def test_names_that_are_not_utf8_are_skipped_and_reported(tmp_path: Path) -> None:
    root = os.fsencode(tmp_path)
    Path(os.fsdecode(root + b"/caf\xe9.png")).write_bytes(b"1")
    Path(os.fsdecode(root + b"/\xff")).mkdir()
    Path(os.fsdecode(root + b"/\xfe.txt")).write_bytes(b"1")
    reason = "The name is not valid UTF-8"
    assert skipped(tmp_path) == {"caf\\xe9.png": reason, "\\xff/": reason}


def test_links_are_followed_to_files_inside_only(tmp_path: Path) -> None:
    inside, outside = tmp_path / "media", tmp_path / "secret"
    touch(inside, "a/real.png")
    touch(outside, "hidden.png")
    (inside / "good.png").symlink_to(inside / "a/real.png")
    (inside / "out.png").symlink_to(outside / "hidden.png")
    (inside / "up.png").symlink_to("../secret/hidden.png")
    (inside / "folder").symlink_to(outside)
    (inside / "again").symlink_to(inside)
    (inside / "folder.png").symlink_to(inside / "a")
    (inside / "gone.png").symlink_to("nowhere.png")
    (inside / "round.png").symlink_to("round.png")
    (inside / "round").symlink_to("round")
    (inside / "text").symlink_to(outside / "hidden.png")
    paths = [entry.path for entry in find_images(inside) if isinstance(entry, ImageFile)]
    assert paths == ["a/real.png", "good.png"]
    assert skipped(inside) == {
        "again": "A link to a folder; these are not followed",
        "folder": "A link to a folder; these are not followed",
        "folder.png": "A link to a folder; these are not followed",
        "gone.png": "The file cannot be read: No such file or directory",
        "out.png": "A link to outside the folder",
        "round.png": "The file cannot be read: circular links",
        "up.png": "A link to outside the folder",
    }


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    touch(tmp_path / "real", "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert found(tmp_path / "link") == ["a.png"]


def test_what_is_no_regular_file_is_skipped(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    touch(tmp_path, "folder.png/a.png")
    assert skipped(tmp_path) == {"pipe.png": "Not a regular file"}
    assert [entry.path for entry in find_images(tmp_path)] == ["folder.png/a.png", "pipe.png"]


def test_a_folder_that_cannot_be_read_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "locked/a.png", "open/b.png")
    scandir = os.scandir

    def refuse_locked(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    assert skipped(tmp_path) == {"locked/": "The folder cannot be read: Permission denied"}
    assert "open/b.png" in [entry.path for entry in find_images(tmp_path)]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(find_images(tmp_path / "nowhere"))


def test_folders_may_be_nested_deeper_than_python_recurses(tmp_path: Path) -> None:
    made = []
    folder = tmp_path
    for _ in range(1200):
        folder = folder / "d"
        folder.mkdir()
        made.append(folder)
    touch(folder, "a.png")
    assert found(tmp_path) == ["d/" * 1200 + "a.png"]
    (folder / "a.png").unlink()
    for empty in reversed(made):
        empty.rmdir()
