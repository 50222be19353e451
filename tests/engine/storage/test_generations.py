from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from search.engine import storage
from search.engine.errors import PublishRefused
from tests.support.damage import empty, remove
from tests.support.indexes import (
    FLASK_FILES,
    INFO,
    by_link,
    drafts,
    flask_directory,
    generations,
    hidden,
    publish,
    some_records,
    some_vectors,
)


@pytest.mark.parametrize(("keep", "left"), [(0, 1), (1, 2), (3, 4), (9, 6)])
def test_so_many_earlier_generations_stay(tmp_path: Path, keep: int, left: int) -> None:
    for size in range(1, 7):
        publish(tmp_path / "acme", some_records(size), some_vectors(size), keep=keep)
    assert [len(storage.load(entry)) for entry in generations(tmp_path / "acme")] == list(range(1, 7))[-left:]
    assert len(storage.load(tmp_path / "acme")) == 6


def test_reader_of_the_old_index_goes_on_after_it_is_pruned(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(200), some_vectors(200))
    old = storage.load(tmp_path / "acme")
    for _ in range(2):
        publish(tmp_path / "acme", some_records(1, "new/"), some_vectors(1), keep=0)
    assert len(generations(tmp_path / "acme")) == 1
    vectors = some_vectors(200)
    np.testing.assert_array_equal(old.vectors[:], vectors)
    assert [old.search(vectors[row], 1)[0].image.path for row in (0, 99, 199)] == [
        f"Abstract/{row:03}.png" for row in (0, 99, 199)
    ]


def test_reader_of_a_flask_directory_goes_on_after_it_is_pruned(tmp_path: Path) -> None:
    vectors = some_vectors(200)
    flask_directory(tmp_path / "acme", vectors, [f"{n}.png" for n in range(200)])
    old = storage.load(tmp_path / "acme")
    publish(tmp_path / "acme", some_records(1), some_vectors(1), keep=0)
    np.testing.assert_array_equal(old.vectors[:], vectors)
    assert old.search(vectors[150], 1)[0].image.path == "150.png"


def test_writer_left_without_publishing_leaves_nothing(tmp_path: Path) -> None:
    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    with suppress(KeyboardInterrupt), storage.IndexWriter(tmp_path / "acme") as writer:
        writer.add(some_vectors(3), some_records(3))
        assert len(drafts(tmp_path / "acme")) == 1
        raise KeyboardInterrupt
    assert drafts(tmp_path / "acme") == []
    assert len(storage.load(tmp_path / "acme")) == 2


def test_nobody_sees_a_draft(tmp_path: Path) -> None:
    with storage.IndexWriter(tmp_path / "acme") as writer:
        writer.add(some_vectors(3), some_records(3))
        assert not storage.has_index(tmp_path / "acme")
        assert not (tmp_path / "acme").exists()
        writer.publish(INFO, by_link(tmp_path / "acme"))
    assert len(storage.load(tmp_path / "acme")) == 3


def test_refused_publication_leaves_the_old_index_and_no_draft(tmp_path: Path) -> None:
    def refuse(draft: storage.Draft) -> str:
        assert len(storage.load(draft.path)) == 5  # it is whole by then
        raise InterruptedError("the build was cancelled")

    publish(tmp_path / "acme", some_records(2), some_vectors(2))
    version = storage.version(tmp_path / "acme")
    with storage.IndexWriter(tmp_path / "acme") as writer:
        writer.add(some_vectors(5), some_records(5))
        with pytest.raises(InterruptedError):
            writer.publish(INFO, refuse)
    assert storage.version(tmp_path / "acme") == version
    assert len(hidden(tmp_path / "acme")) == 2  # the generation and the lock


def test_completed_draft_is_a_generation_that_is_not_linked(tmp_path: Path) -> None:
    """As for a company whose row tells which index serves."""
    directory = tmp_path / "acme"
    publish(directory, some_records(2), some_vectors(2))

    def complete(draft: storage.Draft) -> str:
        with storage.publish_lock(directory):
            name = storage.next_name(directory)
            draft.complete(name)
            return name

    with storage.IndexWriter(directory) as writer:
        writer.add(some_vectors(5), some_records(5))
        published = writer.publish(INFO, complete)
    assert published.total_images == len(storage.load(storage.generation_directory(directory, published.generation)))
    assert len(storage.load(directory)) == 2
    assert storage.linked_generation(directory) < published.generation
    assert drafts(directory) == []


def test_pruning_drops_what_was_given_up_between_the_one_before_and_the_published_one(tmp_path: Path) -> None:
    """Behind the published one they would pass for what was before it."""
    directory = tmp_path / "acme"
    for size in range(1, 6):
        publish(directory, some_records(size), some_vectors(size), keep=9)
    names = [entry.name for entry in generations(directory)]
    with storage.publish_lock(directory):
        storage.prune(directory, names[4], before=names[2], keep=1)
    assert [len(storage.load(entry)) for entry in generations(directory)] == [3, 5]


@pytest.mark.parametrize("link", [False, True], ids=["folder", "link to it"])
def test_folder_of_other_things_is_never_published_into(tmp_path: Path, link: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "wedding.jpg").write_bytes(b"precious")
    target = tmp_path / "photos"
    if link:
        target = tmp_path / "link"
        target.symlink_to(tmp_path / "photos")
    with pytest.raises(PublishRefused, match=r"wedding\.jpg"):
        publish(target, some_records(1), some_vectors(1))
    assert target.is_symlink() == link
    assert (target / "wedding.jpg").read_bytes() == b"precious"
    assert not (tmp_path / ".generations").exists()


def test_pictures_beside_a_flask_index_are_never_moved_away(tmp_path: Path) -> None:
    flask_directory(tmp_path / "photos", some_vectors(1), ["wedding.jpg"])
    (tmp_path / "photos" / "wedding.jpg").write_bytes(b"precious")
    with pytest.raises(PublishRefused, match=r"wedding\.jpg"):
        publish(tmp_path / "photos", some_records(1), some_vectors(1))
    assert (tmp_path / "photos" / "wedding.jpg").read_bytes() == b"precious"


def test_file_is_never_published_over(tmp_path: Path) -> None:
    (tmp_path / "acme").write_text("a letter")
    with pytest.raises(PublishRefused, match="acme"):
        publish(tmp_path / "acme", some_records(1), some_vectors(1))
    assert (tmp_path / "acme").read_text() == "a letter"


@pytest.mark.parametrize("name", [None, ".gitkeep"])
def test_empty_folder_becomes_an_index(tmp_path: Path, name: str | None) -> None:
    (tmp_path / "acme").mkdir()
    if name:
        (tmp_path / "acme" / name).touch()
    publish(tmp_path / "acme", some_records(1), some_vectors(1))
    assert len(storage.load(tmp_path / "acme")) == 1


@pytest.mark.parametrize("damage", [empty, remove])
@pytest.mark.parametrize("name", FLASK_FILES)
def test_damaged_index_is_mended_by_publishing_over_it(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    flask_directory(tmp_path / "flask", some_vectors(9), [f"{n}.png" for n in range(9)])
    publish(tmp_path / "ours", some_records(9), some_vectors(9))
    for company in ("flask", "ours"):
        damage(tmp_path / company / name)
        publish(tmp_path / company, some_records(1), some_vectors(1))
        assert len(storage.load(tmp_path / company)) == 1


def test_damaged_generation_is_not_offered(tmp_path: Path) -> None:
    flask_directory(tmp_path / "acme", some_vectors(9), [f"{n}.png" for n in range(9)])
    (tmp_path / "acme" / "index_info.json").write_bytes(b"")
    for count in (1, 2):
        publish(tmp_path / "acme", some_records(count), some_vectors(count))
    offered = storage.generations(tmp_path / "acme", storage.linked_generation(tmp_path / "acme"))
    assert [(each.info.total_images, each.published) for each in offered] == [(2, True), (1, False)]


@pytest.mark.parametrize("name", ["99991231T235959999999-00000000", "zzzz", "99999999", ""])
def test_a_name_made_by_hand_keeps_nobody_from_publishing(tmp_path: Path, name: str) -> None:
    assert storage.next_name(tmp_path / "acme", [name]) != name
