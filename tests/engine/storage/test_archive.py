"""Archives of whatever names a folder of pictures holds."""

import os
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from search.engine.errors import PathRefused
from search.engine.pictures.folder import ImageFile, find_images
from search.engine.pictures.paths import FORMATS, new_path
from search.engine.pictures.shelf import Shelf
from search.engine.storage.archive import IMAGES, new_archive, open_archive

ODD = '\n\t\r\x01\x7f\x85\u2028\u202e\ufeff\\"=%;: ~.'
LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="/\0") | st.sampled_from(ODD)
NOT_UTF8 = st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF)  # bytes of a name, as Python shows them
PARTS = (
    st.text(LETTERS, max_size=60)
    | st.text(LETTERS | NOT_UTF8, max_size=3)
    | st.text(LETTERS, min_size=40).map(lambda text: text * 9)
)


@st.composite
def paths(draw: st.DrawFn) -> str:
    *folders, name = draw(st.lists(PARTS, min_size=1, max_size=5))
    ending = draw(st.sampled_from([*FORMATS, "PNG", "Tiff", "txt"]))
    return "/".join([*folders, f"{name}.{ending}"])


@settings(max_examples=40, deadline=None)
@given(st.lists(paths(), max_size=6, unique=True))
@example(["a\n12 path=x.png\n/b.png", "a\n27 hdrcharset=BINARY\n/b.png", "x" * 100 + ".png", "\u00e9" * 49 + "x.png"])
@example([f"{'d/' * depth}a.png" for depth in (48, 49, 50, 77, 78, 126, 127, 128)])
def test_whatever_a_build_finds_comes_back_from_an_archive(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="archive-") as place:
        before, after, archive = (Path(place, name) for name in ("before", "after", "a.tar"))
        placed = fill(before, names)
        found = [file for file in find_images(before) if isinstance(file, ImageFile)]
        with new_archive(archive, {}, replace=False) as writer:
            for file in found:
                with (before / file.path).open("rb") as opened:
                    writer.add(f"{IMAGES}/{file.path}", opened)
        with Shelf(after, make=True) as shelf, open_archive(archive) as opened_archive:
            opened_archive.unpack(lambda member: shelf.create(member.removeprefix(f"{IMAGES}/")))
        assert list(find_images(after)) == found
        for file in found:
            assert (after / file.path).read_bytes() == (before / file.path).read_bytes()
        assert {name for name in placed if may_be_new(name)} <= {file.path for file in found}


def fill(folder: Path, names: list[str]) -> list[str]:
    """Make a file of each name that the file system takes, and return these."""
    folder.mkdir()
    placed = []
    for name in names:
        try:
            (folder / name).resolve().relative_to(folder.resolve())
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(os.fsencode(name))
        except (OSError, ValueError):  # too long, in the way, or out of the folder
            continue
        placed.append(name)
    return placed


def may_be_new(name: str) -> bool:
    try:
        new_path(name)
    except PathRefused:
        return False
    return True
