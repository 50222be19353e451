"""A company's pictures: what is true of a folder on a disk and of one in an object store, and what of a store alone."""

import http.client
import io
import os
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from search.engine import objects
from search.engine.errors import PathRefused, StoreUnavailable, StoreUnsuitable
from search.engine.objects import ObjectStore, StoredObject
from search.engine.pictures import stored
from search.engine.pictures.decode import open_image
from search.engine.pictures.folder import ImageFile, SkippedFile
from search.engine.pictures.folders import DiskFolder, PictureFolder, stored_folder
from search.engine.pictures.paths import new_path
from tests.conftest import picture
from tests.support.fakes import RED
from tests.support.object_store import StoreServer

UNUSUAL = [
    "100% wool.png",
    "A/'quoted' \"twice\".png",
    "A/back\\slash.png",
    "A/[x]{y}~|^`<>#?*&+=.png",
    f"B/{unicodedata.normalize('NFC', 'café')}.png",
    f"B/{unicodedata.normalize('NFD', 'café')}.png",
    "B/😀.png",
    "C/%41.PNG",
]


@pytest.fixture
def store_folder(store_server: StoreServer) -> PictureFolder:
    return stored_folder(f"{store_server.make_bucket()}/acme", endpoint=store_server.endpoint)


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> PictureFolder:
    if request.param == "store":
        found: PictureFolder = request.getfixturevalue("store_folder")
        return found
    (tmp_path / "acme").mkdir()
    return DiskFolder(tmp_path / "acme")


def place(folder: PictureFolder, path: str, content: bytes = b"new", *, replace: bool = True) -> bool:
    with folder.shelf(make=True) as shelf, shelf.stage() as staged:
        staged.file.write(content)
        staged.sync()
        return staged.place(path, replace=replace, durable=True)


def put(
    folder: PictureFolder, server: StoreServer, key: str, content: bytes = b"x", headers: dict[str, str] | None = None
) -> None:
    """Put an object beside the pictures as another program would, whatever its key."""
    bucket, _, prefix = str(folder).removeprefix("s3://").partition("/")
    connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"))
    connection.request("PUT", f"/{bucket}/{prefix}/{quote(key)}", content, headers or {})
    assert connection.getresponse().status == 200
    connection.close()


def paths(folder: PictureFolder) -> list[str]:
    return [entry.path for entry in folder.find() if isinstance(entry, ImageFile)]


def read(folder: PictureFolder, path: str) -> bytes:
    with folder.open(path) as file:
        return file.read()


def test_pictures_of_unusual_names_are_placed_found_in_order_read_and_removed(folder: PictureFolder) -> None:
    for path in reversed(UNUSUAL):
        assert not place(folder, path, path.encode())
    assert paths(folder) == sorted(UNUSUAL)
    assert {path: read(folder, path) for path in UNUSUAL} == {path: path.encode() for path in UNUSUAL}
    assert folder.missing([*UNUSUAL, "gone.png"]) == 1
    with folder.shelf() as shelf:
        for path in UNUSUAL:
            assert shelf.size(path) == len(path.encode())
            assert shelf.holds(path, path.encode())
            assert not shelf.holds(path, b"another")
            shelf.remove(path)
    assert paths(folder) == []


def test_a_picture_that_is_there_is_replaced_only_when_asked(folder: PictureFolder) -> None:
    place(folder, "a.png", b"old")
    with pytest.raises(PathRefused, match=r"a\.png: A picture with that name already exists"):
        place(folder, "a.png", replace=False)
    assert read(folder, "a.png") == b"old"
    assert place(folder, "a.png")
    assert read(folder, "a.png") == b"new"


def test_of_those_who_place_a_new_picture_at_once_one_has_its_name(folder: PictureFolder) -> None:
    def try_to_place(number: int) -> bool:
        try:
            return not place(folder, "a.png", bytes([number]), replace=False)
        except PathRefused:
            return False

    with ThreadPoolExecutor(4) as threads:
        placed = list(threads.map(try_to_place, range(4)))
    assert sum(placed) == 1
    assert read(folder, "a.png") == bytes([placed.index(True)])


def test_what_is_not_placed_is_no_picture(folder: PictureFolder) -> None:
    with folder.shelf(make=True) as shelf, shelf.stage() as staged:
        staged.file.write(b"half")
        staged.sync()
        assert list(folder.find()) == []
    assert list(folder.find()) == []


def test_no_path_leads_out_or_to_what_builds_pass_over(folder: PictureFolder) -> None:
    for path in ("../acme/a.png", "A/../a.png"):
        with pytest.raises(PathRefused), folder.shelf(make=True) as shelf:
            shelf.require(path)
        with pytest.raises(PathRefused):
            place(folder, path)
        with pytest.raises(OSError):  # noqa: PT011, which one depends on where it leads
            folder.open(path)


def test_a_picture_that_is_not_there_is_a_missing_file(folder: PictureFolder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.open("gone.png")
    with pytest.raises(FileNotFoundError):
        folder.open("gone.png", at_once=False)
    for use in ("require", "size", "remove"):
        with pytest.raises(FileNotFoundError), folder.shelf() as shelf:
            getattr(shelf, use)("gone.png")


def test_hidden_files_those_of_systems_and_other_types_are_no_pictures(folder: PictureFolder) -> None:
    place(folder, "a.png")
    write = _writer(folder)
    for path in (".hidden.png", "A/.trash/b.png", "@eaDir/c.png", "notes.txt", "more.TXT", "README"):
        write(path)
    assert [entry.path for entry in folder.find()] == ["a.png"]
    assert folder.other_types() == "2 .txt, 1 of no type"


def _writer(folder: PictureFolder) -> Callable[[str], None]:
    """Return what writes as another program does: names that no picture of ours gets."""
    if isinstance(folder, stored.StoredFolder):
        return lambda path: folder._store.write(path, b"x") and None  # type: ignore[func-returns-value]

    def write(path: str) -> None:
        file = Path(str(folder)) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")

    return write


def test_a_picture_replaced_within_a_second_by_one_of_its_size_looks_otherwise(folder: PictureFolder) -> None:
    looks = []
    for content in (b"one", b"two"):
        place(folder, "a.png", content)
        with folder.open("a.png") as file:
            looks.append(folder.look(file))
        (found,) = folder.find()
        assert isinstance(found, ImageFile)
        assert (found.size, found.mtime_ns) == (looks[-1].size, looks[-1].mtime_ns)
    assert looks[0].mtime_ns != looks[1].mtime_ns
    assert looks[0].version != looks[1].version


def test_an_open_picture_is_read_like_any_file(folder: PictureFolder) -> None:
    content = picture(RED).getvalue()
    place(folder, "a.png", content)
    for at_once in (True, False):
        with folder.open("a.png", at_once=at_once) as file:
            assert file.seek(0, os.SEEK_END) == len(content)
            assert file.seek(-4, os.SEEK_CUR) == file.tell() == len(content) - 4
            assert file.read() == content[-4:]
            assert open_image(file, name="a.png", max_pixels=100).size == (8, 8)


# A store alone


def test_a_listing_of_many_pages_is_whole_and_in_order(store_folder: PictureFolder, store_server: StoreServer) -> None:
    pictures = [f"{number % 7}/{number}.png" for number in range(3 * store_server.PAGE)]
    for path in pictures:
        put(store_folder, store_server, path)
    assert paths(store_folder) == sorted(pictures)


def test_what_lies_beside_the_prefix_is_no_picture(store_folder: PictureFolder, store_server: StoreServer) -> None:
    bucket, _, _ = str(store_folder).removeprefix("s3://").partition("/")
    place(stored_folder(f"s3://{bucket}/acme2", endpoint=store_server.endpoint), "a.png")
    put(store_folder, store_server, "A/")  # as consoles make a folder
    put(store_folder, store_server, "")
    assert list(store_folder.find()) == []
    assert store_folder.other_types() == "2 of no type"


def test_folders_that_consoles_have_made_do_not_disturb_the_order(
    store_folder: PictureFolder, store_server: StoreServer
) -> None:
    for key in ("A!.png", "A/b.png", "c.png", "c.png!.png"):
        place(store_folder, key)
    for key in ("A/", "c.png/"):
        put(store_folder, store_server, key, b"")
    assert paths(store_folder) == ["A!.png", "A/b.png", "c.png", "c.png!.png"]


def test_a_picture_in_many_pieces_is_read_whole(store_folder: PictureFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.engine.objects._RANGE_BYTES", 1000)
    monkeypatch.setattr(stored, "_IN_MEMORY", 100)
    content = os.urandom(2500)
    place(store_folder, "a.png", content)
    assert read(store_folder, "a.png") == content


def test_an_object_larger_than_any_picture_is_not_fetched(
    store_folder: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(store_folder, "a.png", bytes(3 << 20))
    monkeypatch.setattr(stored, "MAX_BYTES", 2 << 20)
    with pytest.raises(OSError, match="It has more than 2 MB"):
        store_folder.open("a.png")


def test_a_picture_replaced_before_its_first_byte_is_read_is_no_mixture(store_folder: PictureFolder) -> None:
    place(store_folder, "a.png", b"one")
    with store_folder.open("a.png", at_once=False) as file:
        place(store_folder, "a.png", b"two")
        with pytest.raises(OSError, match="replaced while it was read"):
            file.read()


@pytest.mark.slow
def test_a_store_that_is_away_is_not_a_folder_without_pictures(store_server: StoreServer) -> None:
    away = stored_folder("s3://bucket/acme", endpoint="http://127.0.0.1:9")
    uses: list[Callable[[], object]] = [
        lambda: list(away.find()),
        lambda: away.open("a.png"),
        lambda: away.missing(["a.png"]),
        away.exists,
        lambda: place(away, "a.png"),
        lambda: away.shelf().holds("a.png", b""),
    ]
    for use in uses:
        with pytest.raises(StoreUnavailable):
            use()


def test_a_bucket_that_does_not_exist_is_no_empty_folder(store_server: StoreServer) -> None:
    nowhere = stored_folder("s3://no-such-bucket/acme", endpoint=store_server.endpoint)
    with pytest.raises(StoreUnsuitable, match="404 Not Found"):
        list(nowhere.find())


def test_keys_that_no_picture_can_have_are_named(store_folder: PictureFolder, store_server: StoreServer) -> None:
    """The client for stores can list what has a next line in its name, but we write it into no file of lines."""
    place(store_folder, "a.png")
    put(store_folder, store_server, "next\x85line.png")
    found = list(store_folder.find())
    assert [type(entry) for entry in found] == [ImageFile, SkippedFile]
    assert isinstance(found[1], SkippedFile)
    assert "control characters" in found[1].reason


@pytest.mark.parametrize("key", ["A//b.png", "A/./b.png", "../b.png", "tab\there.png"])
def test_a_key_that_hides_others_from_a_listing_stops_it_and_is_named(
    store_folder: PictureFolder, store_server: StoreServer, key: str
) -> None:
    place(store_folder, "a.png")
    put(store_folder, store_server, key)
    with pytest.raises(StoreUnsuitable, match="Rename or remove it") as refusal:
        list(store_folder.find())
    assert f'Path "{repr(f"acme/{key}")[1:-1]}"' in str(refusal.value)


def test_a_path_too_long_for_a_key_is_refused(store_folder: PictureFolder) -> None:
    path = "/".join(["a" * 240] * 4)
    place(store_folder, new_path(f"{path}.png"))
    with pytest.raises(PathRefused, match="longer than 1024 bytes with its folder"):
        place(store_folder, f"{path}{'a' * 80}.png")


def test_a_stage_takes_what_uploads_write(store_folder: PictureFolder) -> None:
    with store_folder.shelf() as shelf, shelf.stage() as staged:
        staged.file.write(picture(RED).getvalue())
        assert open_image(staged.file, name="a.png", max_pixels=100).size == (8, 8)
        staged.place("a.png", replace=False)
    assert open_image(io.BytesIO(read(store_folder, "a.png")), name="a.png", max_pixels=100).size == (8, 8)


def test_a_picture_in_an_archive_is_refused_by_name_and_not_taken_for_missing(
    store_folder: PictureFolder, store_server: StoreServer
) -> None:
    place(store_folder, "b.png")
    put(store_folder, store_server, "a.png", headers={"x-amz-storage-class": "GLACIER"})
    assert paths(store_folder) == ["a.png", "b.png"]
    with pytest.raises(StoreUnsuitable, match=r"a\.png is refused.*restore it"):
        store_folder.open("a.png")


def test_a_large_picture_that_is_replaced_while_it_is_fetched_is_fetched_anew(
    store_folder: PictureFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(store_folder, "a.png", b"before")
    blocks, replacements = ObjectStore._blocks, iter([b"after!"])

    def replaced_meanwhile(store: ObjectStore, found: StoredObject) -> Iterator[bytes]:
        for block in blocks(store, found):
            yield block
            for content in replacements:
                place(store_folder, "a.png", content)

    monkeypatch.setattr(objects, "_RANGE_BYTES", 4)
    monkeypatch.setattr(ObjectStore, "_blocks", replaced_meanwhile)
    assert read(store_folder, "a.png") == b"after!"


class _ReadOnlyStore(BaseHTTPRequestHandler):
    """A store whose keys may read what is there, which is nothing, and write nothing."""

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *told: object) -> None:
        pass


def test_a_store_that_may_not_be_written_to_says_so(store_server: StoreServer) -> None:
    with HTTPServer(("127.0.0.1", 0), _ReadOnlyStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        folder = stored_folder("s3://bucket/acme", endpoint=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(PermissionError, match=r"Permission denied: 'b\.png'"):
            place(folder, "b.png")
        server.shutdown()


class _KeepingStore(_ReadOnlyStore):
    """A store that has whatever is asked for, and whose keys may delete nothing of it."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": "1", "ETag": '"1"', "Last-Modified": formatdate(usegmt=True)}.items():
            self.send_header(name, value)
        self.end_headers()

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        key = asked.partition("<Key>")[2].partition("</Key>")[0]
        error = f"<Error><Key>{key}</Key><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        answer = f"<DeleteResult>{error}</DeleteResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_a_store_that_refuses_to_delete_is_not_away() -> None:
    with HTTPServer(("127.0.0.1", 0), _KeepingStore) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        folder = stored_folder("s3://bucket/acme", endpoint=f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(PermissionError, match=r"Permission denied: 'b\.png'"), folder.shelf() as shelf:
            shelf.remove("b.png")
        server.shutdown()
