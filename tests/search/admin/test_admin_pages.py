"""The admin for the person who looks after companies daily, through its pages and with real files."""

import csv
import os
import random
import re
import stat
import zipfile
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from PIL import Image

from search.admin import companies as admin
from search.admin import overview
from search.builds import run_build
from search.engine import storage
from search.engine.model.embedder import UNTRAINED, ModelPassport
from search.engine.pictures.intake import IntakeLimits
from tenants.models import Company, IndexBuild, LiveChange, SkippedImage
from tests.conftest import Colleague, paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder

MakeCompany = Callable[..., Company]

COMPANIES = reverse("admin:tenants_company_changelist")
VIEW, CHANGE, REINDEX = "view_company", "change_company", "reindex_company"


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"a.png": RED, "b.png": BLUE})


def url(page: str, company: Company) -> str:
    return reverse(f"admin:tenants_company_{page}", args=[company.pk])


def messages(response: Any) -> str:
    return " | ".join(str(message) for message in response.context["messages"])


def text(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


def fragments(client: Client, page: str) -> dict[str, str]:
    return {name: text(html) for name, html in client.get(page).json()["fragments"].items()}


def running(company: Company, **values: Any) -> IndexBuild:
    build = company.queue_build()
    assert build.start()
    build.beat(**values)
    build.refresh_from_db()
    return build


def rebuild(company: Company) -> None:
    build = company.queue_build()
    assert build.start()
    run_build(build)


def logged() -> list[str]:
    return [entry.get_change_message() for entry in LogEntry.objects.order_by("pk")]


# The list ------------------------------------------------------------------------------------------------------------


def test_running_build_shows_percent_and_time_left(admin_client: Client, acme: Company) -> None:
    running(acme, images_found=200, images_embedded=50, seconds_left=90.0)
    page = admin_client.get(COMPANIES).content.decode()
    assert re.search(r'<progress max="100" value="25"', page)
    assert "25 %, 01:30 left" in text(page)


def test_list_tells_the_script_what_runs(admin_client: Client, acme: Company) -> None:
    globex = Company.objects.create(name="globex")
    build = running(acme, images_found=4, images_embedded=1)
    page = reverse("admin:tenants_company_live_list") + f"?id={acme.pk}&id={globex.pk}"
    answer = admin_client.get(page).json()
    assert answer["active"] == [acme.pk]
    assert answer["states"] == {str(acme.pk): "acme: running", str(globex.pk): "globex: no index yet"}
    assert "25 %" in answer["fragments"][f"{acme.pk}-status"]
    build.cancel()
    answer = admin_client.get(page).json()
    assert answer["active"] == []
    assert "cancelled" in answer["fragments"][f"{acme.pk}-status"]


def test_list_answers_for_nonsense_ids(admin_client: Client, db: None) -> None:
    answer = admin_client.get(reverse("admin:tenants_company_live_list") + "?id=x&id=-1&id=99999&id=" + "9" * 30).json()
    assert answer == {"active": [], "states": {}, "fragments": {}}


def test_list_has_the_cells_that_the_script_replaces(admin_client: Client, acme: Company) -> None:
    page = admin_client.get(COMPANIES).content.decode()
    for cell in ("status", "pictures", "last_build", "size"):
        assert f'data-fragment="{acme.pk}-{cell}"' in page
    assert "search/admin.js" in page


def test_list_shows_the_size_on_disk(admin_client: Client, acme: Company) -> None:
    size = storage.size_on_disk(acme.embeddings_directory)
    assert size > 2 * 960 * 4
    cell = f"{size / 1024:.1f} KB"
    assert cell in text(admin_client.get(COMPANIES).content.decode())


def test_list_takes_as_many_queries_for_many_companies(admin_client: Client, db: None) -> None:
    def add(count: int) -> None:
        for _ in range(count):
            company = Company.objects.create(name=f"company-{Company.objects.count()}")
            for _ in range(3):
                IndexBuild.objects.create(company=company, status="succeeded")

    def queries() -> int:
        with CaptureQueriesContext(connection) as counted:
            admin_client.get(COMPANIES)
        return len(counted)

    add(2)
    queries()  # warm
    few = queries()
    add(20)
    assert queries() == few


def test_only_the_last_build_of_each_company_is_read(admin_client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    for status in ("failed", "succeeded", "cancelled"):
        IndexBuild.objects.create(company=acme, status=status)
    found = admin_client.get(COMPANIES).context["cl"].result_list[0]
    assert [build.status for build in found.last_builds] == ["cancelled"]


def test_damaged_index_is_said_to_be_damaged(admin_client: Client, acme: Company) -> None:
    (acme.embeddings_directory / "index_info.json").write_text("{")
    assert "index damaged index_info.json" in text(admin_client.get(COMPANIES).content.decode())
    assert admin_client.get(url("change", acme)).status_code == 200


def test_files_that_vanish_while_they_are_measured_break_no_page(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vanish(directory: Path) -> int:
        raise FileNotFoundError(directory)

    monkeypatch.setattr(storage, "size_on_disk", vanish)
    assert admin_client.get(COMPANIES).status_code == 200


def test_build_that_waits_asks_for_a_worker(admin_client: Client, db: None) -> None:
    acme = Company.objects.create(name="acme")
    build = acme.queue_build()
    assert "worker" not in fragments(admin_client, url("live", acme))["overview"]
    IndexBuild.objects.filter(pk=build.pk).update(queued_at=timezone.now() - timedelta(minutes=5))
    assert "is build_worker running?" in fragments(admin_client, url("live", acme))["overview"]


def test_build_without_heartbeat_says_so(admin_client: Client, acme: Company) -> None:
    build = running(acme)
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))
    assert "its worker is silent" in fragments(admin_client, url("live", acme))["overview"]


@pytest.mark.parametrize(("action", "full"), [("reindex", False), ("rebuild", True)])
def test_action_queues_builds(admin_client: Client, acme: Company, action: str, full: bool) -> None:
    response = admin_client.post(COMPANIES, {"action": action, "_selected_action": [acme.pk]}, follow=True)
    build = acme.builds.active().get()
    assert build.full is full
    assert build.requested_by == User.objects.get(username="ann")
    assert f"Build {build.pk} of acme is queued" in messages(response)
    assert f"Queued build {build.pk}" in logged()[-1]


def test_action_says_that_a_build_is_active(admin_client: Client, acme: Company) -> None:
    build = running(acme)
    response = admin_client.post(COMPANIES, {"action": "reindex", "_selected_action": [acme.pk]}, follow=True)
    assert f"Build {build.pk} of acme is running already" in messages(response)
    assert logged() == []


# The company's page --------------------------------------------------------------------------------------------------


def test_page_shows_the_pictures_found_on_disk(admin_client: Client, acme: Company) -> None:
    paint(acme.image_directory / "deep/c.png", GREEN)
    assert url("found", acme) in admin_client.get(url("change", acme)).content.decode()
    assert admin_client.get(url("found", acme)).json() == {"text": "3 pictures found"}


def test_counting_ends_at_a_limit(admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "COUNT_LIMIT", 2)
    paint(acme.image_directory / "c.png", GREEN)
    assert admin_client.get(url("found", acme)).json() == {"text": "more than 2 pictures found"}


def test_counting_a_missing_folder_says_so(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    assert "does not exist yet" in admin_client.get(url("found", company)).json()["text"]


def test_counting_stays_in_the_allowed_folders(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex", image_folder="/etc")
    assert "outside the allowed folders" in admin_client.get(url("found", company)).json()["text"]


@pytest.mark.parametrize(("form", "full"), [({}, False), ({"full": "1"}, True)])
def test_buttons_queue_a_build(admin_client: Client, acme: Company, form: dict[str, str], full: bool) -> None:
    response = admin_client.post(url("reindex", acme), form, follow=True)
    assert acme.builds.active().get().full is full
    assert "is queued" in messages(response)


def test_a_running_build_offers_to_be_cancelled(admin_client: Client, acme: Company) -> None:
    assert "Reindex changed Rebuild all" in fragments(admin_client, url("live", acme))["actions"]
    build = running(acme)
    assert fragments(admin_client, url("live", acme))["actions"] == "Cancel the build"
    response = admin_client.post(url("cancel", acme), follow=True)
    build.refresh_from_db()
    assert build.status == IndexBuild.Status.CANCELLED
    assert f"Build {build.pk} of acme is cancelled" in messages(response)
    assert logged() == [f"Cancelled build {build.pk}."]


def test_cancelling_nothing_says_so(admin_client: Client, acme: Company) -> None:
    assert "No build of acme" in messages(admin_client.post(url("cancel", acme), follow=True))
    assert logged() == []


@pytest.mark.parametrize("page", ["reindex", "cancel", "roll_back", "upload"])
def test_what_changes_something_is_posted_with_a_token(acme: Company, page: str) -> None:
    user = User.objects.create_superuser("admin")
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.get(url(page, acme)).status_code == 405
    assert client.post(url(page, acme), {"files": picture(RED)}).status_code == 403
    assert not acme.builds.active().exists()


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


def test_history_shows_counts_and_reasons(admin_client: Client, acme: Company) -> None:
    (acme.image_directory / "broken.png").write_bytes(b"not a picture")
    rebuild(acme)
    build = acme.queue_build()
    build.start()
    build.fail("out of disk")
    shown = fragments(admin_client, url("live", acme))
    assert "out of disk" in shown["history"]
    assert "Every picture was embedded: there is no usable index yet" in shown["history"]
    assert "1 file skipped" in shown["skipped"]
    assert "broken.png not a picture of an allowed type" in shown["skipped"]
    assert "The last build failed. out of disk" in shown["overview"]


def test_untrained_weights_are_said_on_the_page(
    admin_client: Client, make_company: MakeCompany, embedder: FakeEmbedder
) -> None:
    embedder.passport = ModelPassport(UNTRAINED, "0" * 64)
    demo = make_company("demo", {"a.png": RED})
    page = text(admin_client.get(url("change", demo)).content.decode())
    assert "Untrained weights." in page
    assert "what searches find means nothing" in page


def test_changed_folder_asks_for_a_reindex(admin_client: Client, acme: Company) -> None:
    response = admin_client.post(url("change", acme), {"image_folder": "other", "active": "on"}, follow=True)
    assert "reindex it" in messages(response)


def test_live_changes_are_counted(admin_client: Client, acme: Company) -> None:
    LiveChange.objects.create(company=acme, sequence=1, path="c.png", image_id="x")
    assert "and 1 changed since" in fragments(admin_client, url("live", acme))["overview"]


def test_no_page_has_inline_scripts_or_styles(admin_client: Client, acme: Company) -> None:
    pages = [COMPANIES, url("change", acme), url("delete", acme), reverse("admin:tenants_company_add")]
    pages.append(reverse("admin:tenants_indexbuild_change", args=[acme.builds.get().pk]))
    for page in pages:
        html = admin_client.get(page).content.decode()
        assert not re.search(r"<script(?![^>]*src=)", html), page
        assert not re.search(r"<style|\sstyle=|\son\w+=", html), page


def test_company_names_and_file_names_are_escaped(admin_client: Client, acme: Company) -> None:
    build = acme.builds.get()
    build_pk = build.pk
    SkippedImage.objects.create(build=build, path="<script>alert(1)</script>.png", reason="<b>")
    IndexBuild.objects.filter(pk=build_pk).update(images_skipped=1, error="<i>")
    for html in (
        admin_client.get(url("change", acme)).content.decode(),
        *admin_client.get(url("live", acme)).json()["fragments"].values(),
        admin_client.get(reverse("admin:tenants_indexbuild_change", args=[build_pk])).content.decode(),
    ):
        assert "<script>alert" not in html
        assert "<b>" not in html
        assert "<i>" not in html


# Generations ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_generations(acme: Company) -> Company:
    paint(acme.image_directory / "c.png", GREEN)
    rebuild(acme)
    return acme


def search_names(company: Company) -> set[str]:
    response = Client().post(f"/api/search/{company.name}", {"image": picture(RED)})
    return {match["fullPath"] for match in response.json()["results"]}


def test_rolling_back_is_seen_by_the_next_search(admin_client: Client, two_generations: Company) -> None:
    acme = two_generations
    assert search_names(acme) == {"a.png", "b.png", "c.png"}
    newest, oldest = storage.generations(acme.embeddings_directory)
    assert "in use" in fragments(admin_client, url("live", acme))["generations"].partition(newest.name)[2]
    response = admin_client.post(url("roll_back", acme), {"generation": oldest.name}, follow=True)
    assert oldest.name in messages(response)
    assert search_names(acme) == {"a.png", "b.png"}
    assert logged() == [f"Rolled the index back to {oldest.name}."]
    assert "Pictures in the index 2" in fragments(admin_client, url("live", acme))["overview"]


@pytest.mark.parametrize("generation", ["", "gone", "../../acme", "/etc", ".building"])
def test_no_other_directory_can_be_rolled_back_to(
    admin_client: Client, two_generations: Company, generation: str
) -> None:
    before = two_generations.embeddings_directory.readlink()
    response = admin_client.post(url("roll_back", two_generations), {"generation": generation}, follow=True)
    assert "was not rolled back" in messages(response)
    assert two_generations.embeddings_directory.readlink() == before
    assert logged() == []


# Uploads -------------------------------------------------------------------------------------------------------------

Entries = dict[str | zipfile.ZipInfo, bytes]


def png(colour: tuple[int, int, int] = GREEN) -> bytes:
    return picture(colour).getvalue()


def zipped(entries: Entries, name: str = "pictures.zip") -> SimpleUploadedFile:
    file = BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content, compress_type=getattr(entry, "compress_type", None) or None)
    return SimpleUploadedFile(name, file.getvalue())


def upload(client: Client, company: Company, *files: Any, **fields: str) -> Any:
    return client.post(url("upload", company), {"files": list(files), **fields}, follow=True)


def refused(response: Any) -> dict[str, str]:
    return {file.path: file.reason for file in response.context["intake"].refused}


def stored_below(folder: Path) -> set[str]:
    """Return everything that lies below folder, hidden leftovers too."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


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
    assert "there already" in refused(response)["a.png"]
    assert (acme.image_directory / "a.png").read_bytes() == before
    assert not acme.builds.active().exists()
    response = upload(admin_client, acme, picture(GREEN, "a.png"), replace="1")
    assert response.context["intake"].replaced == {"a.png"}
    assert (acme.image_directory / "a.png").read_bytes() == png()


def test_upload_during_a_build_says_that_it_may_have_missed_them(admin_client: Client, acme: Company) -> None:
    running(acme)
    response = upload(admin_client, acme, picture(GREEN, "c.png"))
    assert "running already" in messages(response)


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
        ("__MACOSX/._x.png", "hidden"),
        ("page.html", "file type not allowed"),
        ("script.png.exe", "file type not allowed"),
        ("inner.zip", "file type not allowed"),
        ("noextension", "file type not allowed"),
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


def test_names_beyond_the_folder_itself_are_refused(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, picture(RED, "x.png"), location="../globex")
    assert "leads out" in refused(response)["x.png"]
    assert not (acme.image_directory.parent / "globex").exists()


@pytest.mark.parametrize("location", ["a\0b", "a\nb", "/../..", ".hidden", "a/" * 600])
def test_folders_that_are_none_are_refused(admin_client: Client, acme: Company, location: str) -> None:
    before = stored_below(acme.image_directory.parent)
    assert list(refused(upload(admin_client, acme, picture(RED, "x.png"), location=location))) == ["x.png"]
    assert stored_below(acme.image_directory.parent) == before


def test_second_entry_of_a_name_is_refused(admin_client: Client, acme: Company) -> None:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.png", png(RED))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.png", png(BLUE))
        archive.writestr("./x.png", png(GREEN))
    response = upload(admin_client, acme, SimpleUploadedFile("p.zip", file.getvalue()), replace="1")
    assert set(refused(response).values()) == {"its name occurs more than once in the upload"}
    assert (acme.image_directory / "x.png").read_bytes() == png(RED)


@pytest.mark.parametrize(
    ("kind", "reason"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "not a regular"), (stat.S_IFCHR, "not a regular")]
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
    assert "holds a PNG" in refused(response)["really-png.jpg"]
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
    assert "broken" in refused(response)["x.png"]
    assert "x.png" not in stored_below(acme.image_directory)


def test_the_whole_upload_has_a_limit(admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    def small(**limits: Any) -> Any:
        return IntakeLimits(**limits, total_bytes=len(png()) + 10)

    monkeypatch.setattr(admin, "IntakeLimits", small)
    response = upload(admin_client, acme, zipped({"1.png": png(), "2.png": png(), "3.png": png()}))
    assert response.context["intake"].stored == ["1.png"]
    assert [("send the rest apart" in reason) for reason in refused(response).values()] == [True, True]


def test_zip_of_too_many_entries_is_refused(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin, "IntakeLimits", lambda **limits: IntakeLimits(**limits, entries=2))
    response = upload(admin_client, acme, zipped({f"{n}.png": png() for n in range(3)}))
    assert "holds 3 files, at most 2" in refused(response)["pictures.zip"]


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
    monkeypatch.setattr(admin, "MAX_UPLOAD_BYTES", 100)
    response = upload(admin_client, acme, picture(RED, "x.png"))
    assert "Nothing was stored" in messages(response)
    assert "x.png" not in stored_below(acme.image_directory)


def test_too_many_files_are_told_to_become_a_zip(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, *(picture(RED, f"{n}.png") for n in range(101)))
    assert "at most 100 files at a time, or one zip" in messages(response)
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


def test_upload_of_nothing_says_so(admin_client: Client, acme: Company) -> None:
    assert "choose pictures" in messages(admin_client.post(url("upload", acme), follow=True))


def test_upload_to_a_folder_outside_is_refused(admin_client: Client, tmp_path: Path) -> None:
    company = Company.objects.create(name="globex", image_folder=str(tmp_path / "elsewhere"))
    assert "outside the allowed folders" in messages(upload(admin_client, company, picture(RED, "x.png")))
    assert not (tmp_path / "elsewhere").exists()


def test_upload_to_a_folder_that_cannot_be_written_is_told(admin_client: Client, acme: Company, settings: Any) -> None:
    company = Company.objects.create(name="globex", image_folder="acme/a.png/x")
    assert "Nothing was stored" in messages(upload(admin_client, company, picture(RED, "x.png")))


def test_result_of_a_huge_upload_stays_readable(admin_client: Client, acme: Company) -> None:
    response = upload(admin_client, acme, zipped({f"{n}.txt": b"" for n in range(2000)}))
    page = response.content.decode()
    assert page.count("<tr>") < 600
    assert "The first 500 of 2,000" in page


# Permissions ---------------------------------------------------------------------------------------------------------

PAGES = ["reindex", "cancel", "roll_back", "upload"]


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ((), set()),
        ((VIEW,), set()),
        ((VIEW, CHANGE), {"upload"}),
        ((CHANGE,), {"upload"}),
        ((VIEW, REINDEX), {"reindex", "cancel", "roll_back"}),
        ((REINDEX,), set()),
        ((VIEW, CHANGE, REINDEX), {*PAGES}),
        (("view_indexbuild",), set()),
    ],
)
def test_each_post_needs_its_permission(
    colleague: Colleague, acme: Company, permissions: tuple[str, ...], allowed: set[str]
) -> None:
    client = colleague(*permissions)
    answers = {page: client.post(url(page, acme)).status_code for page in PAGES}
    assert answers == {page: 302 if page in allowed else 403 for page in PAGES}


def test_no_file_of_a_refused_upload_is_stored(colleague: Colleague, acme: Company) -> None:
    colleague(VIEW, REINDEX).post(url("upload", acme), {"files": picture(RED, "x.png")})
    assert "x.png" not in stored_below(acme.image_directory)


@pytest.mark.parametrize(
    ("permissions", "reindex", "upload_form", "save"),
    [
        ((VIEW,), False, False, False),
        ((VIEW, REINDEX), True, False, False),
        ((VIEW, CHANGE), False, True, True),
        ((VIEW, CHANGE, REINDEX), True, True, True),
    ],
)
def test_buttons_are_shown_to_those_who_may(
    colleague: Colleague,
    two_generations: Company,
    permissions: tuple[str, ...],
    reindex: bool,
    upload_form: bool,
    save: bool,
) -> None:
    page = colleague(*permissions).get(url("change", two_generations)).content.decode()
    assert ("Reindex changed" in page) is reindex
    assert ("Rebuild all" in page) is reindex
    assert ("Roll back</button>" in page) is reindex
    assert ('type="file"' in page) is upload_form
    assert ('name="_save"' in page) is save


def test_actions_are_offered_to_those_who_may(colleague: Colleague, acme: Company) -> None:
    assert "Rebuild everything" in colleague(VIEW, REINDEX).get(COMPANIES).content.decode()
    assert "Rebuild everything" not in colleague(VIEW, CHANGE).get(COMPANIES).content.decode()


@pytest.mark.parametrize("page", ["live", "found"])
def test_what_the_script_asks_needs_the_right_to_view(colleague: Colleague, acme: Company, page: str) -> None:
    assert colleague(REINDEX).get(url(page, acme)).status_code == 403
    assert colleague(VIEW).get(url(page, acme)).status_code == 200
    assert Client().get(url(page, acme)).status_code == 302


def test_the_list_of_what_runs_needs_the_right_to_view(colleague: Colleague, acme: Company) -> None:
    page = reverse("admin:tenants_company_live_list")
    assert colleague(REINDEX).get(page).status_code == 403
    assert colleague(VIEW).get(page).status_code == 200
    assert Client().get(page).status_code == 302


@pytest.mark.parametrize("page", [*PAGES, "live", "found", "change", "delete"])
def test_unknown_company_breaks_nothing(admin_client: Client, db: None, page: str) -> None:
    address = reverse(f"admin:tenants_company_{page}", args=[4711])
    method = admin_client.post if page in PAGES else admin_client.get
    assert method(address).status_code in (302, 404)


# Builds --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def skipping_build(acme: Company) -> IndexBuild:
    """A build that skipped 10,000 files, the first of them with hostile names."""
    build = acme.builds.get()
    names = [
        "=cmd|' /C calc'!A0.png",
        "+1.png",
        "-1.png",
        "@x.png",
        " =x.png",
        "\t=x.png",
        'quo"te,s.png',
        "new\nline.png",
    ]
    names += [f"file-{n:05}.png" for n in range(10_000 - len(names))]
    SkippedImage.objects.bulk_create(SkippedImage(build=build, path=name, reason="-broken") for name in names)
    IndexBuild.objects.filter(pk=build.pk).update(images_skipped=10_000)
    return build


def csv_url(build: IndexBuild) -> str:
    return reverse("admin:tenants_indexbuild_skipped", args=[build.pk])


def test_skipped_files_come_as_csv(admin_client: Client, skipping_build: IndexBuild) -> None:
    response = admin_client.get(csv_url(skipping_build))
    assert response.streaming
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert f"acme-{skipping_build.pk}-skipped.csv" in response["Content-Disposition"]
    rows = list(csv.reader(StringIO(response.getvalue().decode("utf-8-sig"))))
    assert rows[0] == ["path", "reason"]
    assert len(rows) == 10_001
    assert {'quo"te,s.png', "new\nline.png", "file-00000.png"} <= {path for path, _ in rows}


def test_no_spreadsheet_takes_a_skipped_file_for_a_formula(admin_client: Client, skipping_build: IndexBuild) -> None:
    rows = list(csv.reader(StringIO(admin_client.get(csv_url(skipping_build)).getvalue().decode("utf-8-sig"))))
    assert not [cell for row in rows for cell in row if cell.lstrip()[:1] in set("=+-@")]
    assert "'=cmd|' /C calc'!A0.png" in {path for path, _ in rows}


def test_csv_needs_the_right_to_view(colleague: Colleague, skipping_build: IndexBuild) -> None:
    assert colleague(REINDEX).get(csv_url(skipping_build)).status_code == 403
    assert colleague(VIEW).get(csv_url(skipping_build)).status_code == 200
    assert Client().get(csv_url(skipping_build)).status_code == 302
    assert colleague(VIEW).get(reverse("admin:tenants_indexbuild_skipped", args=[4711])).status_code == 404


def test_many_skipped_files_are_not_all_shown(admin_client: Client, skipping_build: IndexBuild) -> None:
    company_page = admin_client.get(url("change", skipping_build.company)).content.decode()
    build_page = admin_client.get(reverse("admin:tenants_indexbuild_change", args=[skipping_build.pk])).content.decode()
    for page in (company_page, build_page):
        assert page.count("-broken") == 50
        assert "The first 50 of 10,000" in page
        assert csv_url(skipping_build) in page


def test_build_page_shows_everything_and_changes_nothing(colleague: Colleague, acme: Company) -> None:
    build = acme.builds.get()
    IndexBuild.objects.filter(pk=build.pk).update(
        images_found=1111,
        images_reused=222,
        images_removed=333,
        images_per_second=4.25,
        error="odd",
        full_reason="new weights",
    )
    address = reverse("admin:tenants_indexbuild_change", args=[build.pk])
    client = colleague(VIEW)
    page = text(client.get(address).content.decode())
    for shown in ("1111", "222", "333", "4.2", "odd", "new weights", "fake-weights"):
        assert shown in page
    assert client.post(address, {"status": "failed"}).status_code == 403
    assert client.get(reverse("admin:tenants_indexbuild_changelist")).status_code == 200
    assert colleague(REINDEX).get(address).status_code == 403


def test_all_builds_of_a_company_can_be_listed(admin_client: Client, acme: Company) -> None:
    Company.objects.create(name="globex").queue_build()
    page = reverse("admin:tenants_indexbuild_changelist") + f"?company__id__exact={acme.pk}"
    response = admin_client.get(page)
    assert [build.company for build in response.context["cl"].result_list] == [acme]


def test_live_changes_have_no_pages(admin_client: Client, db: None) -> None:
    assert admin_client.get("/admin/tenants/livechange/").status_code == 404


# Deleting ------------------------------------------------------------------------------------------------------------


commits = pytest.mark.django_db(transaction=True)


def delete(client: Client, company: Company, **choices: str) -> str:
    """Delete the company and return what the admin says. The test needs real commits, after which files go."""
    response = client.post(url("delete", company), {"post": "yes", **choices})
    assert response.status_code == 302
    assert not Company.objects.filter(pk=company.pk).exists()
    return messages(client.get(response["Location"]))


def test_deleting_asks_what_becomes_of_the_files(admin_client: Client, acme: Company) -> None:
    page = admin_client.get(url("delete", acme)).content.decode()
    for name in ("remove_index", "remove_pictures"):
        box = re.search(rf'<input type="checkbox"[^>]*name="{name}"[^>]*>', page)
        assert box
        assert "checked" not in box[0]
    assert str(acme.embeddings_directory) in page
    assert str(acme.image_directory) in page


@commits
def test_files_are_kept_unless_told_otherwise(admin_client: Client, acme: Company) -> None:
    told = delete(admin_client, acme)
    assert storage.has_index(acme.embeddings_directory)
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}
    assert "The index of acme stayed on disk" in told
    assert "The pictures of acme stayed on disk" in told


@commits
def test_index_is_removed_when_told(admin_client: Client, two_generations: Company, make_company: MakeCompany) -> None:
    acme, globex = two_generations, make_company("globex", {"g.png": GREEN})
    home = acme.embeddings_directory.parent / ".generations/acme"
    assert home.is_dir()
    delete(admin_client, acme, remove_index="1")
    assert not acme.embeddings_directory.is_symlink()
    assert not home.exists()
    assert sorted(path.name for path in home.parent.iterdir()) == ["globex"]
    assert stored_below(acme.image_directory) == {"a.png", "b.png", "c.png"}
    assert search_names(globex) == {"g.png"}


@commits
def test_index_of_the_flask_service_is_removed_when_told(admin_client: Client, acme: Company) -> None:
    directory = acme.embeddings_directory
    plain = directory.resolve()
    directory.unlink()
    plain.rename(directory)
    delete(admin_client, acme, remove_index="1")
    assert not directory.exists()


@commits
def test_directory_that_holds_something_else_is_kept(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    company.embeddings_directory.mkdir()
    (company.embeddings_directory / "thesis.doc").write_text("years of work")
    told = delete(admin_client, company, remove_index="1")
    assert "thesis.doc, which is no part of an index" in told
    assert (company.embeddings_directory / "thesis.doc").exists()


@commits
def test_what_the_link_of_an_index_leads_to_is_kept(admin_client: Client, db: None, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "faiss_index.bin").write_bytes(b"x")
    company = Company.objects.create(name="globex")
    company.embeddings_directory.symlink_to(outside)
    delete(admin_client, company, remove_index="1")
    assert not company.embeddings_directory.is_symlink()
    assert (outside / "faiss_index.bin").exists()


@commits
def test_company_without_an_index_can_be_deleted(admin_client: Client, db: None) -> None:
    company = Company.objects.create(name="globex")
    delete(admin_client, company, remove_index="1", remove_pictures="1")


@commits
def test_pictures_are_removed_when_told(admin_client: Client, acme: Company, settings: Any) -> None:
    paint(settings.MEDIA_ROOT / "globex/x.png", RED)
    delete(admin_client, acme, remove_pictures="1")
    assert stored_below(settings.MEDIA_ROOT) == {"globex/x.png"}
    assert [path.name for path in settings.MEDIA_ROOT.iterdir()] == ["globex"]
    assert storage.has_index(acme.embeddings_directory)


@commits
def test_links_among_the_pictures_are_not_followed(admin_client: Client, acme: Company, tmp_path: Path) -> None:
    paint(tmp_path / "outside/x.png", RED)
    (acme.image_directory / "out").symlink_to(tmp_path / "outside")
    delete(admin_client, acme, remove_pictures="1")
    assert not acme.image_directory.exists()
    assert (tmp_path / "outside/x.png").exists()


@commits
@pytest.mark.parametrize("folder", [".", "x/..", "globex", "globex/sub", "..", "../embeddings/x", "/OUTSIDE", "link"])
def test_pictures_that_are_not_the_companys_alone_are_kept(
    admin_client: Client, settings: Any, tmp_path: Path, folder: str
) -> None:
    globex = Company.objects.create(name="globex")
    for path in ("media/globex/sub/x.png", "embeddings/x/x.png", "outside/x.png", "media/other/x.png"):
        paint(tmp_path / path, RED)
    (settings.MEDIA_ROOT / "link").symlink_to(settings.MEDIA_ROOT / "other")
    acme = Company.objects.create(name="acme", image_folder=folder.replace("/OUTSIDE", str(tmp_path / "outside")))
    before = stored_below(tmp_path)
    page = admin_client.get(url("delete", acme)).content.decode()
    assert 'name="remove_pictures"' not in page
    assert "Its pictures stay" in page
    told = delete(admin_client, acme, remove_pictures="1")
    assert "The pictures of acme stayed on disk. " in told
    assert stored_below(tmp_path) == before
    assert Company.objects.get() == globex


@commits
def test_pictures_around_those_of_another_company_are_kept(admin_client: Client, acme: Company) -> None:
    Company.objects.create(name="globex", image_folder="acme/globex")
    told = delete(admin_client, acme, remove_pictures="1")
    assert "holds pictures of globex" in told
    assert stored_below(acme.image_directory) == {"a.png", "b.png"}


@commits
def test_folder_shared_out_to_companies_is_kept(admin_client: Client, settings: Any) -> None:
    settings.IMAGE_ROOTS = [settings.MEDIA_ROOT / "acme/shared"]
    company = Company.objects.create(name="acme")
    paint(company.image_directory / "a.png", RED)
    told = delete(admin_client, company, remove_pictures="1")
    assert "shares out" in told
    assert company.image_directory.exists()


@commits
def test_name_that_leads_elsewhere_removes_nothing(admin_client: Client, settings: Any, tmp_path: Path) -> None:
    paint(tmp_path / "outside/x.png", RED)
    company = Company.objects.create(name="../outside")  # past the form
    delete(admin_client, company, remove_index="1", remove_pictures="1")
    assert (tmp_path / "outside/x.png").exists()


@commits
def test_active_build_is_cancelled_with_its_company(
    admin_client: Client, acme: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = []
    cancel = IndexBuild.cancel
    monkeypatch.setattr(IndexBuild, "cancel", lambda build: cancelled.append(cancel(build)))
    running(acme)
    delete(admin_client, acme)
    assert cancelled == [True]
    assert not IndexBuild.objects.exists()


def test_delete_page_counts_instead_of_listing(admin_client: Client, skipping_build: IndexBuild) -> None:
    page = admin_client.get(url("delete", skipping_build.company)).content.decode()
    assert "Skipped images: 10000" in page
    assert "file-00000.png" not in page


def test_deleting_many_keeps_all_files_and_says_so(
    admin_client: Client, acme: Company, make_company: MakeCompany
) -> None:
    globex = make_company("globex", {"g.png": GREEN})
    running(globex)
    form = {"action": "delete_selected", "_selected_action": [acme.pk, globex.pk], "remove_index": "1"}
    assert "Indexes and pictures stay on disk" in admin_client.post(COMPANIES, form).content.decode()
    response = admin_client.post(COMPANIES, {**form, "post": "yes"}, follow=True)
    assert "indexes and pictures were kept on disk: acme, globex" in messages(response)
    assert not Company.objects.exists()
    assert storage.has_index(globex.embeddings_directory)
    assert stored_below(globex.image_directory) == {"g.png"}


def test_deleting_needs_its_permission(colleague: Colleague, acme: Company) -> None:
    client = colleague(VIEW, CHANGE, REINDEX)
    assert client.get(url("delete", acme)).status_code == 403
    assert client.post(url("delete", acme), {"post": "yes", "remove_index": "1"}).status_code == 403
    assert "delete_selected" not in client.get(COMPANIES).content.decode()
    assert storage.has_index(acme.embeddings_directory)
    assert colleague(VIEW, "delete_company").get(url("delete", acme)).status_code == 200


def test_history_of_a_company_tells_who_did_what(admin_client: Client, two_generations: Company) -> None:
    acme = two_generations
    oldest = storage.generations(acme.embeddings_directory)[-1]
    admin_client.post(url("roll_back", acme), {"generation": oldest.name})
    upload(admin_client, acme, picture(RED, "x.png"))
    admin_client.post(url("cancel", acme))
    page = text(admin_client.get(url("history", acme)).content.decode())
    for deed in (f"Rolled the index back to {oldest.name}", "Uploaded 1 picture.", "Queued build", "Cancelled build"):
        assert deed in page
