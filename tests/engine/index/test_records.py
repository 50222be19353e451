"""What is asked of all records of an index, from a file of lines and from a list alike."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from search.engine import storage
from search.engine.errors import IndexCorrupt
from search.engine.index import records
from search.engine.index.index import ImageIndex, IndexInfo, LiveImage
from search.engine.index.records import ImageRecord, ListRecords, image_id
from search.engine.index.vector_file import VectorsInMemory
from tests.support.indexes import ODD_NAMES, publish, some_vectors

MakeIndex = Callable[[list[str]], ImageIndex]


def in_lines(paths: list[str], directory: Path) -> ImageIndex:
    publish(
        directory / "index", [ImageRecord(path, image_id("acme", path)) for path in paths], some_vectors(len(paths))
    )
    return storage.load(directory / "index")


def in_a_list(paths: list[str], directory: Path) -> ImageIndex:
    pictures = [ImageRecord(path, image_id("acme", path)) for path in paths]
    return ImageIndex(IndexInfo(len(paths)), ListRecords(pictures), VectorsInMemory(some_vectors(len(paths))))


@pytest.fixture(params=[in_lines, in_a_list])
def make_index(request: pytest.FixtureRequest, tmp_path: Path) -> MakeIndex:
    return lambda paths: request.param(sorted(paths), tmp_path)


def named(index: ImageIndex, text: str, location: str = "") -> list[str]:
    return [record.path for record in index.named(text, location=location)]


def test_pictures_are_counted_by_their_folders(make_index: MakeIndex) -> None:
    """Long runs of one folder, of which parts are counted together, folders in between, and odd names."""
    odd = [path for path, *_ in ODD_NAMES]
    index = make_index(
        [f"A/{n:04}.png" for n in range(500)]
        + [f"A/0250/{n}.png" for n in range(3)]
        + [f'B "location": "A"/{n}.png' for n in range(100)]
        + [f"top-{n}.png" for n in range(90)]
        + odd
    )
    counts = index.records.count_by_location()
    assert (counts["A"], counts["A/0250"], counts['B "location": "A"']) == (500, 3, 100)
    assert counts[""] == 90 + sum(not location for _, location, _ in ODD_NAMES)
    assert set(counts) == {"A", "A/0250", 'B "location": "A"', *(location for _, location, _ in ODD_NAMES)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("SHOE", ["Red/shoe-1.png", "Red/shoe-2.png"]),
        ("red", ["x-red.jpg"]),
        ("red/", ["Red/shoe-1.png", "Red/shoe-2.png"]),
        ("d/shoe-2", ["Red/shoe-2.png"]),
        (".jpg", ["x-red.jpg"]),
        ('"', ['quo"te.png']),
        ("file", []),  # a word of every line
        ("?#%", ["100 %?#%20.png"]),
        ("%20", ["100 %?#%20.png"]),
        ("ÜBER", ["über.png"]),
        ("ü", ["über.png"]),
        ("中", ["中文.png"]),
        ("\u202e", []),
        ("nothing of the kind", []),
    ],
)
def test_pictures_are_found_by_a_part_of_their_names(make_index: MakeIndex, text: str, found: list[str]) -> None:
    paths = ["Red/shoe-1.png", "Red/shoe-2.png", "x-red.jpg", 'quo"te.png', "100 %?#%20.png", "über.png", "中文.png"]
    index = make_index(paths)
    assert named(index, text) == found
    assert named(index, unicodedata.normalize("NFD", text)) == found


def test_accents_as_a_mac_writes_them_are_found(make_index: MakeIndex) -> None:
    path = unicodedata.normalize("NFD", "Ämter/Übung.png")
    index = make_index([path])
    assert [named(index, text) for text in ("übung", "ÜBUNG.P", "ü", "ämter/ü", "Mter/")] == [[path]] * 5


def test_names_are_looked_for_in_a_folder_and_as_of_now(make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_ROWS_AT_ONCE", 64)
    paths = [f"{folder}/{n:03}.png" for folder in "AB" for n in range(200)]
    built = make_index(paths)
    gone, new = ImageRecord("B/199.png", "gone"), ImageRecord("B/new-199.png", "new")
    index = built.with_changes([LiveImage(gone, None), LiveImage(new, some_vectors(1)[0])])
    assert named(built, "199", "B") == ["B/199.png"]
    assert named(index, "199", "B") == ["B/new-199.png"]
    assert named(index, "199") == ["A/199.png", "B/new-199.png"]
    assert len(named(built, "png")) == 400


def test_a_replaced_picture_keeps_its_place_in_the_list(make_index: MakeIndex) -> None:
    vector = some_vectors(1)[0]
    built = make_index(["a.png", "b.png", "c.png"])
    a, b, c = built.records
    new = ImageRecord("a-new.png", "new")
    index = built.with_changes([LiveImage(a, vector), LiveImage(b, None), LiveImage(new, vector)])
    assert index.page(0, 9) == ([a, c, new], 3)
    assert [index.page(n, n + 1)[0] for n in range(3)] == [[a], [c], [new]]


def test_records_that_are_read_together_are_those_that_are_read_alone(make_index: MakeIndex) -> None:
    found = make_index([f"A/{n:05}.png" for n in range(9000)] + [path for path, *_ in ODD_NAMES]).records
    alone = [found.at(row) for row in range(len(found))]
    assert list(found) == alone
    for rows in ([], [8191], [8192, 8191, 8190, 8195], [0, 1, 8999], list(range(8000, 9005))):
        assert found.of_rows(rows) == [alone[row] for row in rows]


def test_a_damaged_entry_is_named_where_many_are_read_together(tmp_path: Path) -> None:
    index = in_lines([f"{n}.png" for n in range(10, 40)], tmp_path)
    metadata = (tmp_path / "index").resolve() / "metadata.json"
    metadata.write_bytes(metadata.read_bytes().replace(b'{"fullPath": "17.png"', b'["fullPath", "17.png"'))
    with pytest.raises(IndexCorrupt, match=r"entry 7\b"):
        list(index.records)
    with pytest.raises(IndexCorrupt, match=r"entry 7\b"):
        index.records.of_rows(range(5, 9))
