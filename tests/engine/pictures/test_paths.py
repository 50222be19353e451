"""What a picture may be called: what lies on a disk already, and what is put or uploaded now."""

import unicodedata

import pytest

from search.engine.errors import PathRefused
from search.engine.pictures.paths import new_path, require_path

E_ACUTE = "\u00e9"  # of two bytes

KEPT = [  # on the disk, in answers and in archives, but not for new pictures
    "new\nline.png",
    "tab\t.png",
    "\x7f.png",
    "next\u0085line.png",
    "line\u2028separator.png",
    "paragraph\u2029separator.png",
    "\u202egnp.exe.png",
    "\u2067isolated\u2069/a.png",
    "zero\u200bwidth.png",
    "\ufeffmark of order.png",
    "soft\u00adhyphen.png",
    "filler\u3164.png",
    "tag\U000e0001.png",
    "@eaDir/a.png",
    "a/#recycle/b.png",
    "$RECYCLE.BIN/a.png",
    "__MACOSX/a.png",
    f"{'x' * 251}.png",
    f"{E_ACUTE * 250}.png",  # SMB and NTFS count 255 letters
    f"{'d/' * 499}a.png",
    f"{'d/' * 2045}ab.png",
]
NEW = [
    "a.png",
    "Shoes/Red/A.JPeG",
    "two  spaces .png",
    " leading and trailing /a .png",
    "Screenshot at 9.41\u202fAM.png",
    "quo\"te's & so on.png",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f.png",  # the flag of England
    "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.png",  # Persian needs its joiners
    "#1 @home $5.png",
    "\U0001f469\u200d\U0001f52c/caf\u00e9 \u4e2d\u6587.webp",
    "\u0635\u0648\u0631\u0629/\u05ea\u05de\u05d5\u05e0\u05d4.png",
    "dots...png",
    f"{'x' * 246}.png",
    f"{'d/' * 497}ab.png",
    f"{E_ACUTE * 123}.png",
]
NEVER = {
    "": "The name is empty",
    "/a.png": "absolute",
    "//a.png": "absolute",
    "../a.png": "leads out",
    "a/../b.png": "leads out",
    "a/..": "leads out",
    "a//b.png": "empty part",
    "./a.png": "empty part",
    "a/./b.png": "empty part",
    ".a.png": "hidden",
    "a/.git/b.png": "hidden",
    "...png": "hidden",
    "nul\0.png": "control",
    "caf\udce9.png": "UTF-8",
    "a": "not allowed",
    "a.exe": "not allowed",
    "a.png/": "not allowed",
    "a.png ": "not allowed",
    "png": "not allowed",
    f"{'d/' * 2045}abc.png": "longer than 4096 bytes",
}


@pytest.mark.parametrize("path", NEW)
def test_a_new_picture_may_be_called_what_people_call_theirs(path: str) -> None:
    assert new_path(path) == path


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Foto\\b.png", "Foto/b.png"),
        ("a//b.png", "a/b.png"),
        ("./a.png", "a.png"),
        ("a/./b//.//c.png", "a/b/c.png"),
        ("\u200eWhatsApp Image 2026-01-02 at 10.11.12.png", "WhatsApp Image 2026-01-02 at 10.11.12.png"),
        ("a\u200f\u061c/b\u200e.png", "a/b.png"),
    ],
)
def test_separators_become_one_slash_and_marks_of_direction_go(name: str, path: str) -> None:
    assert new_path(name) == path


@pytest.mark.parametrize(
    "name", ["..\\a.png", "a\\..\\..\\b.png", "\\\\host\\a.png", "C:\\a.png", ".\u200e./a.png", "\u200e.a.png"]
)
def test_no_separator_and_no_mark_leads_out_or_hides(name: str) -> None:
    with pytest.raises(PathRefused, match=r"leads out|absolute|hidden"):
        new_path(name)


def test_a_location_is_part_of_the_path() -> None:
    assert new_path("b.png", location="Shoes/Red/") == "Shoes/Red/b.png"
    with pytest.raises(PathRefused, match="leads out"):
        new_path("b.png", location="../globex")


@pytest.mark.parametrize("path", KEPT)
def test_a_picture_on_the_disk_keeps_a_name_that_no_new_one_gets(path: str) -> None:
    require_path(path)
    with pytest.raises(PathRefused, match=r"rename it|shorten it|hidden"):
        new_path(path)


@pytest.mark.parametrize(("path", "reason"), NEVER.items())
def test_what_no_answer_or_archive_could_carry_is_refused(path: str, reason: str) -> None:
    for rule in (require_path, new_path) if reason != "empty part" else (require_path,):
        with pytest.raises(PathRefused, match=reason) as refusal:
            rule(path)
        assert reason in refusal.value.reason


def test_limits_count_bytes() -> None:
    for rule, most in ((require_path, 4096), (new_path, 1000)):
        folders = "folder/" * ((most - 20) // 7)
        longest = f"{folders}{E_ACUTE}{'x' * (most - len(folders) - 6)}.png"
        assert len(longest.encode()) == most
        rule(longest)
        with pytest.raises(PathRefused, match=f"longer than {most} bytes"):
            rule(f"x{longest}")
    longest_part = f"{E_ACUTE}{'x' * 244}.png"
    for path in (longest_part, f"{longest_part}/a.png"):
        new_path(path)
        with pytest.raises(PathRefused, match="a part of it longer than 250"):
            new_path(f"x{path}")


def test_no_new_name_holds_a_control_or_an_invisible_mark() -> None:
    every = map(chr, range(1, 0x110000))
    misleading = [
        letter
        for letter in every
        if unicodedata.category(letter) in {"Cc", "Zl", "Zp"}
        or unicodedata.bidirectional(letter) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        or unicodedata.name(letter, "").startswith(("ZERO WIDTH SPACE", "ZERO WIDTH NO-BREAK", "INVISIBLE", "SOFT HY"))
        or unicodedata.name(letter, "").endswith(("-TO-LEFT MARK", "-TO-RIGHT MARK", "ARABIC LETTER MARK"))
    ]
    assert len(misleading) == 84
    for letter in misleading:
        try:
            path = new_path(f"a{letter}.png")
        except PathRefused as refusal:
            assert str(refusal).isprintable()  # noqa: PT017, most are refused and a few left out
        else:
            assert path == "a.png"


def test_a_refusal_names_the_path_in_letters_that_can_be_shown() -> None:
    with pytest.raises(PathRefused) as refusal:
        new_path("a\n\u202e\udce9/" * 99)
    assert str(refusal.value).startswith(r"a\n\u202e\udce9/a\n\u202e\udce9/")
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300
