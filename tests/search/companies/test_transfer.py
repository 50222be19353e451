"""Companies exported to an archive and imported from it, on real files; hostile archives; processes that are killed."""

import errno
import hashlib
import io
import json
import os
import random
import signal
import tarfile
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from search.engine import durable, storage
from search.engine.pictures.shelf import remove_tree
from search.engine.storage.archive import new_archive
from search.engine.storage.layout import resolve
from search.pictures import delete_image, put_image
from tenants.audit import on_command_line
from tenants.models import AuditEvent, Company
from tests.conftest import paint, picture
from tests.search.management.test_check_index import FILES, make_flask_company
from tests.support.damage import flip_a_byte
from tests.support.databases import on_sqlite
from tests.support.disks import RefusingOs
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import ODD_NAMES
from tests.support.processes import KILLED, Site
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    company = make_company("acme", {"red.png": RED, "Cold/blue.png": BLUE})
    company.notes, company.active = "caf\u00e9 'acme'", True
    company.save()
    return company


@pytest.fixture
def elsewhere(settings: Any, tmp_path: Path) -> Callable[[], None]:
    """Make this the installation of somebody else, with nothing in it."""

    def move() -> None:
        Company.objects.all().delete()
        for name in ("EMBEDDINGS_DIR", "MEDIA_ROOT"):
            directory = tmp_path / "elsewhere" / name
            directory.mkdir(parents=True)
            setattr(settings, name, directory)
        settings.INDEX_DIR = settings.EMBEDDINGS_DIR

    return move


def export(target: Path, *options: str, company: str = "acme") -> str:
    out = StringIO()
    call_command("export_company", company, "--to", str(target), *options, stdout=out)
    return out.getvalue()


def import_(*arguments: object, **options: Any) -> str:
    out = StringIO()
    call_command("import_company", *map(str, arguments), stdout=out, **options)
    return out.getvalue()


def index_files(company: str = "acme") -> dict[str, bytes]:
    directory = resolve(Company(name=company).embeddings_directory)  # also where a kill came before the link
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def pictures(company: Company) -> dict[str, tuple[bytes, int]]:
    folder = company.image_directory
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def found(company: str = "acme") -> list[str]:
    response = Client().post(f"/api/search/{company}", {"image": picture(RED), "top_k": 50})
    return [entry["fullPath"] for entry in response.json().get("results", [])]


def everything(*places: Path) -> list[str]:
    """Return all that lies in places, save locks and empty directories of generations."""
    files = [file for place in places for file in place.rglob("*")]
    return sorted(str(file) for file in files if file.is_file() and not file.name.endswith(".lock"))


# There and back


def test_a_company_comes_back_byte_by_byte(
    acme: Company, tmp_path: Path, elsewhere: Callable[[], None], embedder: FakeEmbedder
) -> None:
    for path, _, _ in ODD_NAMES:
        paint(acme.image_directory / path, GREEN)
    call_command("build_embeddings", company="acme", stdout=StringIO())
    files, there, results = index_files(), pictures(acme), found()
    export(tmp_path / "a.tar", "--with-images")
    elsewhere()
    printed = import_(tmp_path / "a.tar")
    assert f"Imported acme with {len(there)} pictures in its index and {len(there)} files" in printed
    company = Company.objects.get()
    assert (company.name, company.notes, company.active) == ("acme", "caf\u00e9 'acme'", True)
    assert (index_files(), pictures(company), found()) == (files, there, results)
    embedded = embedder.embedded
    call_command("build_embeddings", company="acme", stdout=StringIO())
    assert (embedder.embedded, index_files()) == (embedded, files)
    assert company.builds.last().total_images == len(there)


@pytest.mark.slow
@pytest.mark.parametrize("length", [999, 1001, 1999, 2001, 3000])
def test_a_picture_of_a_long_path_comes_back(
    acme: Company, tmp_path: Path, elsewhere: Callable[[], None], length: int
) -> None:
    add_picture_of_path(acme, length)
    there = pictures(acme)
    export(tmp_path / "a.tar", "--with-images")
    elsewhere()
    import_(tmp_path / "a.tar")
    assert pictures(Company.objects.get()) == there


@pytest.mark.slow
def test_a_picture_of_the_longest_path_that_a_system_takes_comes_back(acme: Company, tmp_path: Path) -> None:
    """The import unpacks beside the company's folder, in one of a longer name."""
    longest = os.pathconf(tmp_path, "PC_PATH_MAX") - 1 - len(f"{acme.image_directory}/")
    with pytest.raises(OSError, match="too long"):
        add_picture_of_path(acme, longest + 1)
    add_picture_of_path(acme, longest)
    files, there = index_files(), pictures(acme)
    assert len(there) == 3
    export(tmp_path / "a.tar", "--with-images")
    storage.erase(acme.embeddings_directory)
    remove_tree(acme.image_directory)
    acme.delete()
    import_(tmp_path / "a.tar")
    assert (index_files(), pictures(Company.objects.get())) == (files, there)


def add_picture_of_path(company: Company, length: int) -> None:
    """Give the company one more picture, whose path has so many bytes, and build."""
    path = f"{'folder/' * ((length - 10) // 7)}".ljust(length - 4, "x") + ".png"
    paint(company.image_directory / path, RED)
    call_command("build_embeddings", company=company.name, stdout=StringIO())
    assert path in found(company.name)


def test_a_picture_of_the_year_2300_comes_back(acme: Company, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    os.utime(acme.image_directory / "red.png", (10_413_792_000, 10_413_792_000))
    before = pictures(acme)
    export(tmp_path / "acme.tar", "--with-images")
    elsewhere()
    import_(tmp_path / "acme.tar")
    assert pictures(Company.objects.get()) == before


def test_without_pictures_the_index_comes_alone(acme: Company, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    files = index_files()
    export(tmp_path / "a.tar")
    elsewhere()
    import_(tmp_path / "a.tar")
    assert (index_files(), pictures(Company.objects.get())) == (files, {})
    assert [event.action for event in AuditEvent.objects.all()[:3]] == [
        "index imported",
        "company made",
        "company exported",
    ]


def test_an_archive_is_a_plain_tar_whose_manifest_lists_it(acme: Company, tmp_path: Path) -> None:
    export(tmp_path / "a.tar", "--with-images")
    with tarfile.open(tmp_path / "a.tar") as tar:
        names = tar.getnames()
        assert names == [
            "images/Cold/blue.png",
            "images/red.png",
            *(f"index/{f}" for f in sorted(FILES)),
            "MANIFEST",
        ]
        lines = [json.loads(line) for line in tar.extractfile("MANIFEST")]
    assert lines[0]["company"] == "acme"
    assert {"api_keys", "image_folder", "live_sequence", "id", "name"}.isdisjoint(lines[0]["settings"])
    assert [line["name"] for line in lines[1:-1]] == names[:-1]


@pytest.mark.usefixtures("acme")
def test_under_another_name_ids_stay_over_the_next_build(tmp_path: Path) -> None:
    export(tmp_path / "a.tar", "--with-images")
    ids = {entry["fullPath"]: entry["id"] for entry in json.loads(index_files()["metadata.json"])}
    with pytest.raises(CommandError, match="acme already has an index"):
        import_(tmp_path / "a.tar")
    import_("globex", tmp_path / "a.tar")
    assert found("globex") == found("acme")
    assert {name for name, content in index_files("globex").items() if index_files()[name] != content} == {
        "SHA256SUMS",
        "given_ids.json",
    }
    call_command("check_index", "globex", stdout=StringIO())
    paint(Company(name="globex").image_directory / "new.png", GREEN)
    call_command("build_embeddings", company="globex", full=True, stdout=StringIO())
    after = {entry["fullPath"]: entry["id"] for entry in json.loads(index_files("globex")["metadata.json"])}
    assert after.pop("new.png") not in ids.values()
    assert after == ids


def test_live_changes_are_in_the_archive(acme: Company, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    put_image(acme, "put.png", picture((250, 5, 5)).getvalue(), by=on_command_line())
    delete_image(acme, "Cold/blue.png", by=on_command_line())
    export(tmp_path / "a.tar", "--with-images")
    assert found() == ["red.png", "put.png"]
    elsewhere()
    import_(tmp_path / "a.tar")
    company = Company.objects.get()
    assert (found(), sorted(pictures(company))) == (["red.png", "put.png"], ["put.png", "red.png"])
    put_image(company, "later.png", picture(GREEN).getvalue(), by=on_command_line())
    delete_image(company, "red.png", by=on_command_line())
    assert found() == ["put.png", "later.png"]


def test_a_flask_index_comes_back_byte_by_byte(db: None, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    make_flask_company("acme")
    files = index_files()
    export(tmp_path / "a.tar")
    elsewhere()
    import_(tmp_path / "a.tar")
    assert index_files() == files


def test_settings_that_protect_are_carried(acme: Company, tmp_path: Path, elsewhere: Callable[[], None]) -> None:
    acme.active = False
    acme.save()
    export(tmp_path / "a.tar")
    elsewhere()
    import_(tmp_path / "a.tar")
    assert not Company.objects.get().active
    editable = {field.name for field in Company._meta.concrete_fields if field.editable and not field.primary_key}
    with tarfile.open(tmp_path / "a.tar") as tar:
        carried = json.loads(tar.extractfile("MANIFEST").readline())["settings"]
    assert set(carried) == editable - {"name", "image_folder"}


# Refused exports


def test_a_file_is_not_overwritten_unasked(acme: Company, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("precious")
    with pytest.raises(CommandError, match="already exists"):
        export(tmp_path / "a.tar")
    assert (tmp_path / "a.tar").read_text() == "precious"
    export(tmp_path / "a.tar", "--force")
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert "MANIFEST" in tar.getnames()


def test_what_cannot_be_exported_leaves_no_file(acme: Company, tmp_path: Path) -> None:
    Company.objects.create(name="new")
    target = tmp_path / "out" / "a.tar"
    target.parent.mkdir()
    for company, said in (("nobody", "nobody does not exist"), ("new", "contains no index")):
        with pytest.raises(CommandError, match=said):
            export(target, company=company)
    flip_a_byte(acme.embeddings_directory / "embeddings.npy", 999)
    with pytest.raises(CommandError, match=r"embeddings.npy has changed"):
        export(target)
    assert list(target.parent.iterdir()) == []


def test_live_changes_are_not_left_out_because_a_build_runs(acme: Company, tmp_path: Path) -> None:
    put_image(acme, "put.png", picture(GREEN).getvalue(), by=on_command_line())
    assert acme.queue_build().start()
    with pytest.raises(CommandError, match="A build of acme is running"):
        export(tmp_path / "a.tar")


def test_a_full_disk_leaves_the_archive_before(acme: Company, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out" / "a.tar"
    target.parent.mkdir()
    export(target)
    before = target.read_bytes()
    monkeypatch.setattr(durable, "os", RefusingOs(errno.ENOSPC, "fsync"))
    with pytest.raises(CommandError, match="No space left"):
        export(target, "--force")
    assert (target.read_bytes(), list(target.parent.iterdir())) == (before, [target])


# Refused imports: nothing of them is left


@pytest.fixture
def archive(acme: Company, tmp_path: Path, elsewhere: Callable[[], None]) -> Path:
    export(tmp_path / "a.tar", "--with-images")
    elsewhere()
    return tmp_path / "a.tar"


def assert_refused(
    path: Path, settings: Any, *arguments: str, said: str = "is refused|cannot be read|is damaged"
) -> None:
    places = (settings.EMBEDDINGS_DIR, settings.MEDIA_ROOT)
    before = everything(*places, path.parent)
    with pytest.raises(CommandError, match=said):
        import_(*arguments, path)
    assert everything(*places, path.parent) == before
    assert not Company.objects.exists()


def test_an_archive_cut_anywhere_is_refused(archive: Path, settings: Any) -> None:
    whole = archive.read_bytes()
    end = whole.rindex(b'"sha256"')
    for length in [0, 1, 511, 512, 1000, *range(5000, end, end // 9)]:
        archive.write_bytes(whole[:length])
        assert_refused(archive, settings)


def test_an_archive_with_any_byte_changed_is_refused_or_harmless(archive: Path, settings: Any) -> None:
    """Harmless is a byte that stands for nothing: of padding, or of a tar header's unused fields."""
    chance, whole = random.Random(1), bytearray(archive.read_bytes())
    with tarfile.open(archive) as tar:
        parts = [(m.offset_data, m.offset_data + m.size) for m in tar]
    for start, end in parts:
        if start == end:
            continue
        place = chance.randrange(start, end)
        whole[place] ^= 0x20
        archive.write_bytes(whole)
        assert_refused(archive, settings)
        whole[place] ^= 0x20
    for start, _ in parts[:3]:
        for place in range(start - 512, start, 37):
            whole[place] ^= 0x01
            archive.write_bytes(whole)
            assert_refused(archive, settings)
            whole[place] ^= 0x01


Forge = Callable[[tarfile.TarFile, list[dict[str, Any]]], None]


def forged(path: Path, change: Forge, **about: Any) -> Path:
    """Make an archive whose manifest is right, of what a forger adds to the members listed in its second argument."""
    lines: list[dict[str, Any]] = []
    with tarfile.open(path, "w") as tar:
        change(tar, lines)
        about = {"format": "imagesearch company", "version": 1, "company": "acme", "settings": {}, **about}
        text = b"".join(json.dumps(line).encode() + b"\n" for line in (about, *lines))
        text += json.dumps({"sha256": hashlib.sha256(text).hexdigest()}).encode() + b"\n"
        add(tar, "MANIFEST", text)
    return path


def add(tar: tarfile.TarFile, name: str, content: bytes = b"x", lines: Any = None, **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content))
    if lines is not None:
        sha256 = hashlib.sha256(content).hexdigest()
        lines.append({"name": name, "bytes": len(content), "sha256": sha256, "mtime_ns": 0})


HOSTILE: dict[str, Forge] = {
    "absolute": lambda tar, lines: add(tar, "/etc/cron.d/x.png", lines=lines),
    "absolute picture": lambda tar, lines: add(tar, "images//etc/x.png", lines=lines),
    "parent": lambda tar, lines: add(tar, "images/../../x.png", lines=lines),
    "parent at once": lambda tar, lines: add(tar, "../x.png", lines=lines),
    "dot": lambda tar, lines: add(tar, "images/./x.png", lines=lines),
    "hidden": lambda tar, lines: add(tar, "images/.ssh/x.png", lines=lines),
    "no picture": lambda tar, lines: add(tar, "images/x.py", lines=lines),
    "elsewhere": lambda tar, lines: add(tar, "settings/x.png", lines=lines),
    "folder of the index": lambda tar, lines: add(tar, "index/sub/metadata.json", lines=lines),
    "no file of an index": lambda tar, lines: add(tar, "index/x.png", lines=lines),
    "long": lambda tar, lines: add(tar, f"images/{'x' * 300}.png", lines=lines),
    "deep": lambda tar, lines: add(tar, f"images/{'d/' * 2100}x.png", lines=lines),
    "symbolic link": lambda tar, lines: add(
        tar, "images/x.png", b"", lines, type=tarfile.SYMTYPE, linkname="/etc/passwd"
    ),
    "hard link": lambda tar, lines: add(tar, "images/x.png", b"", lines, type=tarfile.LNKTYPE, linkname="/etc/passwd"),
    "device": lambda tar, lines: add(tar, "images/x.png", b"", lines, type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "pipe": lambda tar, lines: add(tar, "images/x.png", b"", lines, type=tarfile.FIFOTYPE),
    "folder": lambda tar, lines: add(tar, "images/x.png", b"", lines, type=tarfile.DIRTYPE),
    "sparse bomb": lambda tar, lines: add(
        tar,
        "images/x.png",
        b"",
        lines,
        pax_headers={"GNU.sparse.map": "1099511627776,0", "GNU.sparse.size": "1099511627776"},
    ),
    "longer than the archive": lambda tar, lines: add(
        tar, "images/x.png", b"", lines, pax_headers={"size": str(10**15)}
    ),
    "of negative length": lambda tar, lines: add(tar, "images/x.png", b"", lines, pax_headers={"size": "-512"}),
    "long header": lambda tar, lines: add(tar, "images/x.png", lines=lines, pax_headers={"comment": "x" * 3_000_000}),
    "headers upon headers": lambda tar, lines: [  # type: ignore[dict-item,return-value]
        tar.fileobj.write(tarfile.TarInfo._create_pax_generic_header({"a": "b"}, tarfile.XHDTYPE, "utf-8"))
        for _ in range(3000)
    ],
    "twice": lambda tar, lines: [add(tar, "images/x.png", lines=lines) for _ in range(2)],  # type: ignore[dict-item,return-value]
    "out of order": lambda tar, lines: [add(tar, f"images/{n}.png", lines=lines) for n in "ba"],  # type: ignore[dict-item,return-value]
    "not listed": lambda tar, lines: add(tar, "images/x.png"),
    "listed and not there": lambda tar, lines: lines.append(
        {"name": "images/x.png", "bytes": 1, "sha256": "0" * 64, "mtime_ns": 0}
    ),
    "larger than listed": lambda tar, lines: [add(tar, "images/x.png", lines=lines), lines[0].update(bytes=0)],  # type: ignore[dict-item,return-value]
    "listed strangely": lambda tar, lines: [add(tar, "images/x.png", lines=lines), lines[0].update(more=1)],  # type: ignore[dict-item,return-value]
    "of a time before all time": lambda tar, lines: [  # type: ignore[dict-item,return-value]
        add(tar, "images/x.png", lines=lines),
        lines[0].update(mtime_ns=10**40),
    ],
    "two manifests": lambda tar, lines: add(tar, "MANIFEST"),
    "no index": lambda tar, lines: add(tar, "images/x.png", lines=lines),
    "nothing": lambda tar, lines: None,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.usefixtures("db", "embedder")
def test_a_hostile_archive_is_refused_and_leaves_nothing(tmp_path: Path, settings: Any, kind: str) -> None:
    (tmp_path / "in").mkdir()
    assert_refused(forged(tmp_path / "in" / "a.tar", HOSTILE[kind]), settings)


@pytest.mark.parametrize(
    "about",
    [
        {"version": 2},
        {"format": "other"},
        {"company": "../acme"},
        {"company": None},
        {"company": "acme", "settings": {"id": 7}},
        {"settings": {"image_folder": "/etc"}},
        {"settings": {"live_sequence": 1}},
        {"settings": {"active": "perhaps"}},
        {"settings": []},
    ],
)
@pytest.mark.usefixtures("db", "embedder")
def test_a_manifest_that_says_strange_things_is_refused(tmp_path: Path, settings: Any, about: dict[str, Any]) -> None:
    (tmp_path / "in").mkdir()
    assert_refused(forged(tmp_path / "in" / "a.tar", HOSTILE["nothing"], **about), settings, said="is refused|has|must")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x1f\x8b\x08" + b"\0" * 600, b"x" * 10_000, b"\0" * 20_000])
@pytest.mark.usefixtures("db")
def test_another_file_is_refused(tmp_path: Path, settings: Any, content: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar").write_bytes(content)
    assert_refused(tmp_path / "in" / "a.tar", settings, said="Nothing was imported")


def test_an_index_that_was_damaged_before_its_export_is_refused(archive: Path, settings: Any, tmp_path: Path) -> None:
    """The archive is whole; what it holds is not what was published."""
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    flip_a_byte(unpacked / "index/signatures.npy", 200)
    archive.unlink()
    with new_archive(archive, {"company": "acme", "settings": {}}, replace=False) as writer:
        for file in sorted((unpacked / "index").iterdir()):
            with file.open("rb") as opened:
                writer.add(f"index/{file.name}", opened)
    assert_refused(archive, settings, said="signatures.npy has changed")
    assert_refused(archive, settings, "globex", said="signatures.npy has changed")


def test_pictures_are_not_mixed_with_others(archive: Path, settings: Any) -> None:
    paint(settings.MEDIA_ROOT / "acme" / "theirs.png", GREEN)
    assert_refused(archive, settings, said="contains other pictures")


def test_a_company_in_use_is_not_imported_over(archive: Path, embedder: FakeEmbedder) -> None:
    company = Company.objects.create(name="acme")
    put_image(company, "put.png", picture(GREEN).getvalue(), by=on_command_line())
    with pytest.raises(CommandError, match="is in use"):
        import_(archive)
    assert found() == ["put.png"]


def test_a_company_that_has_nothing_yet_gets_the_index(archive: Path) -> None:
    Company.objects.create(name="acme")
    import_(archive)
    assert found() == ["red.png", "Cold/blue.png"]


@pytest.mark.usefixtures("archive")
def test_a_name_that_differs_in_case_is_taken(archive: Path) -> None:
    Company.objects.create(name="ACME")
    with pytest.raises(CommandError, match="taken"):
        import_(archive)


def test_a_full_disk_leaves_nothing(archive: Path, settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "os", RefusingOs(errno.ENOSPC, "fsync"))
    assert_refused(archive, settings, said="No space left")


# Killed


IMPORT_STEPS = [
    "search.engine.storage.archive:Archive.unpack",
    "search.companies.transfer:_move_pictures",
    "search.publication:_switch",
    "search.engine.storage:link",
    "search.companies.transfer:record_index",
]
EXPORT_STEPS = ["search.engine.storage.archive:ArchiveWriter.add", "search.engine.storage.archive:ArchiveWriter.finish"]
OF_A_NAME = {"given_ids.json", "SHA256SUMS"}


@pytest.fixture
def source(site: Site, embedder: FakeEmbedder) -> Company:
    company = Company.objects.create(name="acme")
    for number in range(40):
        paint(company.image_directory / f"{number:03}.bmp", (number, 0, 0))
    call_command("build_embeddings", company="acme", stdout=StringIO())
    return company


def require_old_or_new(name: str, source: Company) -> bool:
    """Return whether a copy of source serves, whole; else nothing of it does."""
    if not storage.has_index(Company(name=name).embeddings_directory):
        assert found(name) == []
        return False
    copied = index_files(name)
    assert len(found(name)) == 40
    assert all(copied[file] == content for file, content in index_files().items() if file not in OF_A_NAME)
    assert pictures(Company(name=name)) == pictures(source)
    return True


def require_import(site: Site, name: str, archive: Path, source: Company) -> None:
    if not require_old_or_new(name, source):
        again = site.manage("import_company", name, str(archive))
        assert again.wait() == 0, again.output
        assert require_old_or_new(name, source)
        assert not list(site.directory.glob("media/.importing-*"))
        assert not list(site.directory.glob(f"embeddings/.generations/{name}/.writing-*"))


@pytest.mark.slow
@on_sqlite
def test_of_two_imports_of_a_company_the_second_is_refused(site: Site, source: Company, tmp_path: Path) -> None:
    archive = str(tmp_path / "acme.tar")
    export(tmp_path / "acme.tar", "--with-images")
    first = site.manage(
        "import_company", "copy", archive, stop_after="search.engine.storage.archive:Archive._unpack_one"
    )
    first.wait_until_stopped()
    second = site.manage("import_company", "copy", archive)
    assert second.wait() == 1
    assert "Nothing was imported. An import of copy is already running" in second.output
    other = site.manage("import_company", "other", archive)
    assert other.wait() == 0, other.output
    first.send(signal.SIGCONT)
    assert first.wait() == 0, first.output
    for name in ("copy", "other"):
        assert require_old_or_new(name, source)
    assert not list(site.directory.glob("media/.importing-*"))


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("held", [0, 3])
def test_a_picture_put_while_an_import_is_verified_stays(
    site: Site, source: Company, tmp_path: Path, held: int
) -> None:
    for number in range(held):
        put_image(source, f"put-{number}.png", picture(GREEN).getvalue(), by=on_command_line())
    export(tmp_path / "acme.tar")
    copy = Company.objects.create(name="copy")
    importing = site.manage(
        "import_company",
        "copy",
        str(tmp_path / "acme.tar"),
        stop_after="search.companies.transfer:_require_same_pictures",
    )
    importing.wait_until_stopped()
    put_image(copy, "mine.png", picture(RED).getvalue(), by=on_command_line())
    importing.send(signal.SIGCONT)
    assert importing.wait() == 1
    assert "Nothing was imported. Company copy is in use" in importing.output
    assert found("copy") == ["mine.png"]


@on_sqlite
def test_a_company_added_while_its_import_is_verified_stays(site: Site, source: Company, tmp_path: Path) -> None:
    export(tmp_path / "acme.tar", "--with-images")
    importing = site.manage(
        "import_company",
        "copy",
        str(tmp_path / "acme.tar"),
        stop_after="search.companies.transfer:_require_same_pictures",
    )
    importing.wait_until_stopped()
    copy = Company.objects.create(name="copy", requires_api_key=True)
    importing.send(signal.SIGCONT)
    assert importing.wait() == 1
    assert "Traceback" not in importing.output
    assert "Nothing was imported. A company copy was added meanwhile" in importing.output
    assert list(Company.objects.filter(name="copy")) == [copy]
    assert not copy.image_directory.exists()


@pytest.mark.slow
@on_sqlite
def test_an_import_killed_after_any_step_is_repeated(site: Site, source: Company, tmp_path: Path) -> None:
    export(tmp_path / "acme.tar", "--with-images")
    for turn, step in enumerate(IMPORT_STEPS):
        process = site.manage("import_company", f"copy{turn}", str(tmp_path / "acme.tar"), die_after=step)
        assert process.wait() == KILLED, process.output
        require_import(site, f"copy{turn}", tmp_path / "acme.tar", source)


@pytest.mark.slow
@on_sqlite
def test_an_export_killed_after_any_step_leaves_the_archive_before(site: Site, source: Company, tmp_path: Path) -> None:
    target = tmp_path / "acme.tar"
    export(target, "--with-images")
    before = target.read_bytes()
    for step in EXPORT_STEPS:
        process = site.manage("export_company", "acme", "--to", str(target), "--force", die_after=step)
        assert process.wait() == KILLED, process.output
        assert target.read_bytes() == before
    export(target, "--with-images", "--force")
    assert target.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if ".tar" in file.name] == ["acme.tar"]


@pytest.mark.slow
@on_sqlite
def test_imports_killed_at_random_moments_are_repeated(site: Site, source: Company, tmp_path: Path) -> None:
    chance = random.Random(5)
    export(tmp_path / "acme.tar", "--with-images")
    for turn in range(3):
        process = site.manage("import_company", f"copy{turn}", str(tmp_path / "acme.tar"))
        drafts = f"media/.importing-copy{turn}-*"
        eventually(lambda d=drafts, p=process: [*site.directory.glob(d)] or p.status is not None, "it has begun")
        time.sleep(chance.uniform(0, 0.15))  # the moment of the kill is the test's point
        process.kill()
        require_import(site, f"copy{turn}", tmp_path / "acme.tar", source)
