"""Uploads through a company's page in the admin, with real files."""

import os
import random
import stat
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from PIL import Image

from search.admin import uploads
from search.builds import run_build
from search.engine.pictures.intake import IntakeLimits
from tenants.models import Company
from tests.conftest import Colleague, paint, picture
from tests.support.admin import REINDEX, VIEW, logged, messages, running, search_names, stored_below, text, upload, url
from tests.support.fakes import BLUE, GREEN, RED

Entries = dict[str | zipfile.ZipInfo, bytes]


def png(colour: tuple[int, int, int] = GREEN) -> bytes:
    return picture(colour).getvalue()


def zipped(entries: Entries, name: str = "pictures.zip") -> SimpleUploadedFile:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content, compress_type=getattr(entry, "compress_type", None) or None)
    return SimpleUploadedFile(name, file.getvalue())


def refused(response: Any) -> dict[str, str]:
    return {file.path: file.reason for file in response.context["intake"].refused}


def test_uploaded_pictures_are_stored_and_a_build_queued(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, picture(GREEN, "c.png"), picture(RED, "d.jpg"))
    assert response.context["intake"].stored == ["c.png", "d.jpg"]
    assert stored_below(acme.image_directory) == {"a.png", "b.png", "c.png", "d.jpg"}
    assert "is queued" in messages(response)
    build = acme.builds.active().get()
    build.start()
    run_build(build)
    assert search_names(acme) == {"a.png", "b.png", "c.png", "d.jpg"}
    assert logged()[0] == "Uploaded 2 pictures."


def test_zip_keeps_its_folders(admin_client: Client, acme: Company) -> None:
    archive = zipped({"Shoes/": b"", "Shoes/Red/x.png": png(), "Schühe/ü.png": png(), "win\\y.png": png()})
    response = upload(admin_client, acme, archive, location="New/2026")
    assert refused(response) == {}
    assert stored_below(acme.image_directory) >= {
        "New/2026/Shoes/Red/x.png",
        "New/2026/Schühe/ü.png",
        "New/2026/win/y.png",
    }


def test_zip_of_a_mac_keeps_its_letters(admin_client: Client, acme: Company) -> None:
    archive = zipped({"sch\u00fche.png": png()})
    content = archive.read().replace(b"\x00\x08", b"\x00\x00")  # the flag that says UTF-8
    response = upload(admin_client, acme, SimpleUploadedFile("p.zip", content))
    assert response.context["intake"].stored == ["sch\u00fche.png"]


def test_first_upload_makes_the_folder(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    upload(admin_client, company, picture(RED, "a.png"))
    assert stored_below(company.image_directory) == {"a.png"}


def test_existing_pictures_are_replaced_only_when_asked(admin_client: Client, acme: Company) -> None:
    before = (acme.image_directory / "a.png").read_bytes()
    response = upload(admin_client, acme, picture(GREEN, "a.png"))
    assert "already exists" in refused(response)["a.png"]
    assert (acme.image_directory / "a.png").read_bytes() == before
    assert not acme.builds.active().exists()
    response = upload(admin_client, acme, picture(GREEN, "a.png"), replace="1")
    assert response.context["intake"].replaced == {"a.png"}
    assert (acme.image_directory / "a.png").read_bytes() == png()


def test_upload_during_a_build_says_that_another_follows(admin_client: Client, acme: Company) -> None:
    running(acme)
    response = upload(admin_client, acme, picture(GREEN, "c.png"))
    assert "another build follows it" in messages(response)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/abs.png", "absolute"),
        ("C:/abs.png", "absolute"),
        ("C:\\abs.png", "absolute"),
        ("//host/share.png", "absolute"),
        ("../out.png", "leads out"),
        ("in/../../out.png", "leads out"),
        ("in/../same.png", "leads out"),
        ("..\\out.png", "leads out"),
        (".hidden.png", "hidden"),
        (".git/x.png", "hidden"),
        ("page.html", "File type not allowed"),
        ("script.png.exe", "File type not allowed"),
        ("inner.zip", "File type not allowed"),
        ("noextension", "File type not allowed"),
        ("line\nbreak.png", "control characters"),
        ("a" * 251 + ".png", "longer"),
        ("deep/" * 300 + "x.png", "longer"),
    ],
)
def test_hostile_names_are_refused(admin_client: Client, acme: Company, name: str, reason: str) -> None:
    before = stored_below(acme.image_directory.parent)
    response = upload(admin_client, acme, zipped({name: png(), "good.png": png()}))
    assert [reason in told for told in refused(response).values()] == [True]
    assert stored_below(acme.image_directory.parent) == before | {"acme/good.png"}


def raw_zip(*entries: dict[str, Any], name: str = "pictures.zip") -> SimpleUploadedFile:
    """Return a zip of entries as odd programs write them: name (bytes), content, and what differs from the usual."""
    data = names = b""
    for entry in entries:
        content, flags, extra = entry.get("content", png()), entry.get("flags", 0), entry.get("extra", b"")
        sizes = struct.pack("<HHHIII", 0, 0, 0x21, zlib.crc32(content), len(content), len(content))
        listed = entry.get("listed", entry["name"])
        names += struct.pack("<4sHHH", b"PK\1\2", 20, 20, flags) + sizes
        names += struct.pack("<HHHHHII", len(listed), len(extra), 0, 0, 0, 0, len(data)) + listed + extra
        data += struct.pack("<4sHH", b"PK\3\4", 20, flags) + sizes
        data += struct.pack("<HH", len(entry["name"]), len(extra)) + entry["name"] + extra + content
    count = len(entries)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(names), len(data), 0)
    return SimpleUploadedFile(name, data + names + end)


def unicode_path(shown: bytes, name: str, version: int = 1) -> bytes:
    body = struct.pack("<BI", version, zlib.crc32(shown)) + name.encode()
    return struct.pack("<HH", 0x7075, len(body)) + body


def test_names_in_the_extra_field_of_windows_are_used(admin_client: Client, acme: Company) -> None:
    shown = b"????.png"
    cyrillic, other = "\u0444\u043e\u0442\u043e.png", "\u0442\u0435\u0441\u0442.png"
    mtime = struct.pack("<HHBI", 0x5455, 5, 1, 0)
    archive = raw_zip(
        {"name": shown, "extra": unicode_path(shown, cyrillic)},
        {"name": shown, "extra": mtime + unicode_path(shown, other)},
        {"name": b"of another.png", "extra": unicode_path(shown, "wrong.png")},
        {"name": b"of version 2.png", "extra": unicode_path(b"of version 2.png", "wrong.png", version=2)},
        {"name": b"cut.png", "extra": unicode_path(b"cut.png", "wrong.png")[:7]},
    )
    response = upload(admin_client, acme, archive)
    assert refused(response) == {}
    assert response.context["intake"].stored == [cyrillic, other, "of another.png", "of version 2.png", "cut.png"]


@pytest.mark.parametrize("name", ["../out.png", "/abs.png", "a/\u202ex.png"])
def test_the_extra_field_leads_nowhere_else(admin_client: Client, acme: Company, name: str) -> None:
    before = stored_below(acme.image_directory.parent)
    response = upload(admin_client, acme, raw_zip({"name": b"x.png", "extra": unicode_path(b"x.png", name)}))
    assert len(refused(response)) == 1
    assert stored_below(acme.image_directory.parent) == before


def test_one_bad_name_leaves_the_other_pictures(admin_client: Client, acme: Company) -> None:
    archive = raw_zip({"name": b"good.png"}, {"name": b"caf\xe9.png", "flags": 0x800}, {"name": b"last.png"})
    response = upload(admin_client, acme, archive)
    assert list(refused(response).values()) == ["The name is not valid UTF-8"]
    assert response.context["intake"].stored == ["good.png", "last.png"]


def test_the_name_in_the_list_counts_whatever_stands_before_the_data(admin_client: Client, acme: Company) -> None:
    archive = raw_zip(
        {"name": b"d\\c.png", "listed": b"d/c.png"}, {"name": b"other.png", "listed": b"e.png"}, {"name": b"f.png"}
    )
    response = upload(admin_client, acme, archive)
    assert refused(response) == {}
    assert response.context["intake"].stored == ["d/c.png", "e.png", "f.png"]


def test_folders_with_a_backslash_are_no_files(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, raw_zip({"name": b"Foto\\", "content": b""}, {"name": b"Foto\\b.png"}))
    assert refused(response) == {}
    assert response.context["intake"].stored == ["Foto/b.png"]


def test_what_systems_put_into_zips_does_not_hide_what_was_refused(admin_client: Client, acme: Company) -> None:
    noise: Entries = {f"__MACOSX/F/._{number:04}.png": b"\0\5\x16\7" for number in range(540)}
    noise |= {"F/.DS_Store": b"x", "F/Thumbs.db": b"x", "F/@eaDir/ok.png/THUMB.png": png(), "F/._ok.png": b"x"}
    response = upload(admin_client, acme, zipped({**noise, "F/broken.png": png()[:20], "F/ok.png": png()}))
    assert list(refused(response)) == ["F/broken.png"]
    assert response.context["intake"].stored == ["F/ok.png"]
    assert "544 hidden files" in text(response.content.decode())


@pytest.mark.parametrize("entries", [{}, {"Shoes/": b""}])
def test_an_empty_zip_says_so(admin_client: Client, acme: Company, entries: Entries) -> None:
    assert "is empty" in refused(upload(admin_client, acme, zipped(entries)))["pictures.zip"]


@pytest.mark.parametrize("location", ["../globex", "../../etc", "a\0b", "a\nb", "/../..", ".hidden", "a/" * 600])
def test_a_subfolder_that_may_not_be_is_refused_once_and_not_for_each_file(
    admin_client: Client, acme: Company, location: str
) -> None:
    before = stored_below(acme.image_directory.parent)
    response = upload(admin_client, acme, picture(RED, "x.png"), picture(RED, "y.png"), location=location)
    assert messages(response).count("Nothing was uploaded to acme: the subfolder ") == 1
    assert response.redirect_chain[-1][0] == url("change", acme)
    assert stored_below(acme.image_directory.parent) == before


def test_second_entry_of_a_name_is_refused(admin_client: Client, acme: Company) -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.png", png(RED))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.png", png(BLUE))
        archive.writestr("./x.png", png(GREEN))
    response = upload(admin_client, acme, SimpleUploadedFile("p.zip", file.getvalue()), replace="1")
    assert set(refused(response).values()) == {"This name occurs more than once in the upload"}
    assert (acme.image_directory / "x.png").read_bytes() == png(RED)


@pytest.mark.parametrize(
    ("kind", "reason"), [(stat.S_IFLNK, "A link"), (stat.S_IFIFO, "Not a regular"), (stat.S_IFCHR, "Not a regular")]
)
def test_links_and_devices_are_refused(admin_client: Client, acme: Company, kind: int, reason: str) -> None:
    info = zipfile.ZipInfo("x.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    response = upload(admin_client, acme, zipped({info: b"/etc/passwd"}))
    assert reason in refused(response)["x.png"]
    assert "x.png" not in stored_below(acme.image_directory)


@pytest.mark.parametrize("replace", ["", "1"])
def test_links_in_the_folder_are_not_followed(
    admin_client: Client, acme: Company, tmp_path: Path, replace: str
) -> None:
    outside = tmp_path / "outside"
    paint(outside / "x.png", RED)
    before = (outside / "x.png").read_bytes()
    (acme.image_directory / "out").symlink_to(outside)
    (acme.image_directory / "x.png").symlink_to(outside / "x.png")
    response = upload(
        admin_client, acme, zipped({"out/x.png": png(), "out/y.png": png(), "x.png": png()}), replace=replace
    )
    assert all("in the way" in reason for reason in refused(response).values())
    assert stored_below(outside) == {"x.png"}
    assert (outside / "x.png").read_bytes() == before


def test_a_file_or_a_folder_in_the_way_is_told(admin_client: Client, acme: Company) -> None:
    (acme.image_directory / "folder.png").mkdir()
    response = upload(admin_client, acme, zipped({"a.png/x.png": png(), "folder.png": png()}), replace="1")
    assert {path: "in the way" in reason for path, reason in refused(response).items()} == {
        "a.png/x.png": True,
        "folder.png": True,
    }


def test_pictures_that_cannot_be_opened_are_refused(admin_client: Client, acme: Company) -> None:
    whole = picture(RED, "x.jpg").getvalue()
    response = upload(
        admin_client,
        acme,
        zipped({"text.png": b"hello", "empty.png": b"", "really-png.jpg": png(), "half.jpg": whole[: len(whole) // 2]}),
        SimpleUploadedFile("direct.png", b"hello"),
    )
    assert set(refused(response)) == {"text.png", "empty.png", "really-png.jpg", "half.jpg", "direct.png"}
    assert "contains a PNG" in refused(response)["really-png.jpg"]
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}
    assert not acme.builds.active().exists()


def test_too_many_pixels_are_refused(admin_client: Client, acme: Company, settings: Any) -> None:
    settings.MAX_PIXELS = 63
    response = upload(admin_client, acme, picture(RED, "x.png"))
    assert "more than the 63 allowed" in refused(response)["x.png"]


def test_too_large_pictures_are_refused_while_they_are_unpacked(
    admin_client: Client, acme: Company, settings: Any
) -> None:
    settings.MAX_UPLOAD_BYTES = 1024
    response = upload(admin_client, acme, zipped({"x.png": os.urandom(5000)}), SimpleUploadedFile("y.png", b"x" * 5000))
    assert "larger than" in refused(response)["x.png"]
    assert "larger than" in refused(response)["y.png"]


def test_bombs_are_refused(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, zipped({"bomb.bmp": bytes(12 * 2**20)}))
    assert "decompression bomb" in refused(response)["bomb.bmp"]
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


def test_declared_sizes_are_not_believed(admin_client: Client, acme: Company) -> None:
    archive = zipped({"x.png": png() + bytes(3000)}).read()
    real = (len(png()) + 3000).to_bytes(4, "little")
    response = upload(admin_client, acme, SimpleUploadedFile("p.zip", archive.replace(real, (9).to_bytes(4, "little"))))
    assert "damaged" in refused(response)["x.png"]
    assert "x.png" not in stored_below(acme.image_directory)


def test_the_whole_upload_has_a_limit(admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(**limits: Any) -> Any:
        return IntakeLimits(**limits, total_bytes=len(png()) + 10)

    monkeypatch.setattr("search.companies.uploads.IntakeLimits", small)
    response = upload(admin_client, acme, zipped({"1.png": png(), "2.png": png(), "3.png": png()}))
    assert response.context["intake"].stored == ["1.png"]
    assert [("upload the rest separately" in reason) for reason in refused(response).values()] == [True, True]


def test_zip_of_too_many_entries_is_refused(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.companies.uploads.IntakeLimits", lambda **limits: IntakeLimits(**limits, entries=2))
    response = upload(admin_client, acme, zipped({f"{n}.png": png() for n in range(3)}))
    assert "contains 3 files; at most 2" in refused(response)["pictures.zip"]


def test_zip_with_an_endless_list_is_refused_before_it_is_read(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.engine.pictures.intake._MAX_DIRECTORY_BYTES", 70_000)
    response = upload(admin_client, acme, zipped({f"{n:0200}.png": b"" for n in range(500)}))
    assert "list of entries is larger" in refused(response)["pictures.zip"]


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\x05\x06" + bytes(18), b"no zip at all", random.Random(0).randbytes(5000)],
    ids=["empty", "start", "end", "text", "noise"],
)
def test_what_is_no_zip_stores_nothing(admin_client: Client, acme: Company, content: bytes) -> None:
    upload(admin_client, acme, SimpleUploadedFile("p.zip", content))
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


@pytest.mark.slow
def test_damaged_zips_never_break_the_page(admin_client: Client, acme: Company) -> None:
    whole = zipped({"x.png": png(), "y/z.png": png(RED)}).read()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        assert upload(admin_client, acme, SimpleUploadedFile("p.zip", bytes(damaged))).status_code == 200
    for path in stored_below(acme.image_directory):
        Image.open(acme.image_directory / path).load()


def test_encrypted_and_oddly_packed_entries_are_refused(admin_client: Client, acme: Company) -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("lzma.png", png(), zipfile.ZIP_LZMA)
        archive.writestr("secret.png", png())
    content = bytearray(file.getvalue())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(mark) + offset] |= 1
    response = upload(admin_client, acme, SimpleUploadedFile("p.zip", bytes(content)))
    assert "method" in refused(response)["lzma.png"]
    assert "encrypted" in refused(response)["secret.png"]


def test_too_large_a_request_is_not_read(admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOAD_BYTES", 100)
    response = upload(admin_client, acme, picture(RED, "x.png"))
    assert "Nothing was uploaded" in messages(response)
    assert "x.png" not in stored_below(acme.image_directory)


def test_too_many_files_are_told_to_become_a_zip(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, *(picture(RED, f"{n}.png") for n in range(101)))
    assert "at most 100 files per upload; upload a zip instead" in messages(response)
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


def test_upload_of_nothing_says_so(admin_client: Client, acme: Company) -> None:
    assert "choose pictures" in messages(admin_client.post(url("upload", acme), follow=True))


def test_upload_to_a_folder_outside_is_refused(admin_client: Client, tmp_path: Path) -> None:
    company = Company.objects.create(name="globex", image_folder=str(tmp_path / "elsewhere"))
    assert "outside the allowed folders" in messages(upload(admin_client, company, picture(RED, "x.png")))
    assert not (tmp_path / "elsewhere").exists()


def test_upload_to_a_folder_that_cannot_be_written_is_told(admin_client: Client, acme: Company, settings: Any) -> None:
    company = Company.objects.create(name="globex", image_folder="acme/a.png/x")
    assert "Nothing was uploaded" in messages(upload(admin_client, company, picture(RED, "x.png")))


def test_result_of_a_huge_upload_stays_readable(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, zipped({f"{n}.txt": b"" for n in range(2000)}))
    page = response.content.decode()
    assert page.count("<tr>") < 600
    assert "The first 500 of 2,000" in page


def test_a_strangers_file_is_not_kept(db: None, settings: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.get("/admin/login/")
    large = SimpleUploadedFile("a.zip", bytes(settings.FILE_UPLOAD_MAX_MEMORY_SIZE + 1))
    assert not client.post("/admin/login/", {"files": large}).wsgi_request.FILES


def test_a_picture_larger_than_what_is_held_in_memory_is_stored(
    admin_client: Client, acme: Company, settings: Any
) -> None:
    content = png() + bytes(settings.FILE_UPLOAD_MAX_MEMORY_SIZE)
    response = upload(admin_client, acme, SimpleUploadedFile("large.png", content))
    assert response.context["intake"].stored == ["large.png"]


def test_no_file_of_a_refused_upload_is_stored(colleague: Colleague, acme: Company) -> None:
    colleague(VIEW, REINDEX).post(url("upload", acme), {"files": picture(RED, "x.png")})
    assert "x.png" not in stored_below(acme.image_directory)
