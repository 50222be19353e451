import re
import shutil
from base64 import b64encode
from collections.abc import Callable
from io import StringIO
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import call_command
from django.test import Client

from search import runtime, tasks
from search.companies.rollback import roll_back
from search.engine import storage
from search.tasks import carry_out_build, fold_live_changes
from tenants.models import Company, IndexBuild, LiveChange
from tests.conftest import paint, picture
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder
from tests.support.indexes import forget_preparation

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    return make_company("acme", {"Warm/red.png": RED, "Cold/blue.png": BLUE})


@pytest.fixture
def staff(db: None) -> dict[str, str]:
    """Return the header of a staff user who may change companies and reindex them."""
    user = User.objects.create_user("ann", password="secret", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(codename__in=["change_company", "reindex_company", "view_indexbuild"])
    )
    return {"Authorization": f"Basic {b64encode(b'ann:secret').decode()}"}


def put(client: Client, path: str, colour: Any, headers: dict[str, str] | None, company: str = "acme") -> Any:
    return client.generic(
        "PUT", f"/api/images/{company}/{path}", picture(colour).getvalue(), content_type="image/png", headers=headers
    )


def delete(client: Client, path: str, headers: dict[str, str] | None) -> Any:
    return client.delete(f"/api/images/acme/{path}", headers=headers)


def found(client: Client, colour: Any, company: str = "acme", **form: Any) -> list[str]:
    response = client.post(f"/api/search/{company}", {"image": picture(colour), **form})
    return [entry["fullPath"] for entry in response.json()["results"]]


def test_a_put_picture_is_found_at_once(client: Client, acme: Company, staff: dict[str, str]) -> None:
    response = put(client, "New/green.png", GREEN, staff)
    assert response.status_code == 201
    assert response.json()["change"] == "created"
    assert found(client, GREEN)[0] == "New/green.png"
    assert (acme.image_directory / "New/green.png").read_bytes() == picture(GREEN).getvalue()


def test_a_put_by_form_is_found_at_once(client: Client, acme: Company, staff: dict[str, str]) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="any.png"\r\n\r\n'
        + picture(GREEN).getvalue()
        + b"\r\n--x--\r\n"
    )
    response = client.generic(
        "PUT", "/api/images/acme/g.png", body, content_type="multipart/form-data; boundary=x", headers=staff
    )
    assert response.status_code == 201
    assert found(client, GREEN)[0] == "g.png"


def test_putting_again_changes_nothing_and_says_so(
    client: Client, acme: Company, staff: dict[str, str], embedder: FakeEmbedder
) -> None:
    put(client, "g.png", GREEN, staff)
    response = put(client, "g.png", GREEN, staff)
    assert (response.status_code, response.json()["change"]) == (200, "unchanged")
    acme.refresh_from_db()
    assert acme.live_sequence == 1
    embedded = embedder.embedded
    response = put(client, "Warm/red.png", RED, staff)  # which a build has seen
    assert (response.status_code, response.json()["change"]) == (200, "unchanged")
    assert embedder.embedded == embedded


@pytest.mark.parametrize("then", ["nothing", "built and rolled back"])
def test_a_picture_whose_file_is_newer_than_the_index_is_found_as_the_file_once_it_is_put(
    client: Client, acme: Company, staff: dict[str, str], then: str
) -> None:
    (acme.image_directory / "Warm/red.png").write_bytes(picture(GREEN).getvalue())
    if then != "nothing":
        call_command("build_embeddings", company="acme", stdout=StringIO())
        call_command("rollback_index", "acme", stdout=StringIO())
    assert found(client, GREEN, min_score=0.99) == []
    response = put(client, "Warm/red.png", GREEN, staff)
    assert (response.status_code, response.json()["change"]) == (200, "replaced")
    assert found(client, GREEN, min_score=0.99) == ["Warm/red.png"]


def test_a_replaced_picture_keeps_its_id_and_is_found_as_the_new_one(
    client: Client, acme: Company, staff: dict[str, str]
) -> None:
    before = client.get("/api/images/acme/Warm/red.png").json()["image"]
    response = put(client, "Warm/red.png", GREEN, staff)
    assert (response.status_code, response.json()["change"]) == (200, "replaced")
    assert response.json()["image"] == before
    assert found(client, GREEN)[0] == "Warm/red.png"
    assert sorted(found(client, RED)) == ["Cold/blue.png", "Warm/red.png"]


def test_a_deleted_picture_is_never_returned_again(client: Client, acme: Company, staff: dict[str, str]) -> None:
    put(client, "g.png", GREEN, staff)
    assert delete(client, "Warm/red.png", staff).status_code == 200
    assert delete(client, "g.png", staff).status_code == 200
    assert found(client, RED) == ["Cold/blue.png"]
    assert client.get("/api/images/acme/Warm/red.png").status_code == 404
    assert not (acme.image_directory / "Warm/red.png").exists()
    call_command("build_embeddings", company="acme")
    assert found(client, RED) == ["Cold/blue.png"]


def test_top_k_stays_full_after_deletions(client: Client, make_company: MakeCompany, staff: dict[str, str]) -> None:
    make_company("acme", {f"{n:02}.png": (200 + n, 0, 0) for n in range(20)})
    for n in range(8):
        delete(client, f"{n:02}.png", staff)
    assert set(found(client, RED, top_k=12)) == {f"{n:02}.png" for n in range(8, 20)}


def test_deleting_what_is_not_there_is_a_404(client: Client, acme: Company, staff: dict[str, str]) -> None:
    assert delete(client, "nothing.png", staff).status_code == 404


def test_live_changes_reach_other_processes_and_survive_restarts(
    client: Client, acme: Company, staff: dict[str, str], embedder: FakeEmbedder
) -> None:
    put(client, "g.png", GREEN, staff)
    delete(client, "Warm/red.png", staff)
    runtime.reset()
    runtime.use(embedder)
    assert found(client, GREEN) == ["g.png", "Cold/blue.png"]


def test_a_fold_makes_the_changes_part_of_the_index(
    client: Client, acme: Company, staff: dict[str, str], settings: Any
) -> None:
    settings.FOLD_SECONDS = 0
    put(client, "A/g.png", GREEN, staff)
    delete(client, "Warm/red.png", staff)
    fold_live_changes.func(acme.pk)
    build = IndexBuild.objects.active().get()
    assert build.fold
    carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert (build.status, build.error) == ("succeeded", "")
    index = storage.load(acme.embeddings_directory)
    assert [record.path for record in index.records] == ["A/g.png", "Cold/blue.png"]
    assert found(client, GREEN) == ["A/g.png", "Cold/blue.png"]


def test_a_fold_keeps_pictures_whose_files_are_elsewhere(client: Client, acme: Company, staff: dict[str, str]) -> None:
    for file in acme.image_directory.rglob("*.png"):
        file.unlink()
    put(client, "g.png", GREEN, staff)
    build = acme.queue_build(fold=True)
    carry_out_build.func(build.pk)
    assert sorted(found(client, GREEN)) == ["Cold/blue.png", "Warm/red.png", "g.png"]


def test_a_change_during_a_build_is_not_lost(
    client: Client, acme: Company, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (acme.image_directory / "extra.png").write_bytes(picture((9, 9, 9)).getvalue())
    hold = IndexBuild.hold

    def put_first(build: IndexBuild) -> Any:
        put(client, "late.png", GREEN, staff)
        delete(client, "Warm/red.png", staff)
        return hold(build)

    monkeypatch.setattr(IndexBuild, "hold", put_first)
    call_command("build_embeddings", company="acme")
    assert found(client, GREEN)[0] == "late.png"
    assert set(found(client, GREEN)) == {"late.png", "Cold/blue.png", "extra.png"}


def test_changes_are_forgotten_once_every_kept_generation_holds_them(
    client: Client, acme: Company, staff: dict[str, str], settings: Any
) -> None:
    settings.KEEP_GENERATIONS = 0
    put(client, "g.png", GREEN, staff)
    call_command("build_embeddings", company="acme")
    assert not LiveChange.objects.exists()
    assert found(client, GREEN)[0] == "g.png"


def test_an_index_of_an_earlier_release_takes_changes_until_a_build_embeds_it_again(
    client: Client, acme: Company, staff: dict[str, str]
) -> None:
    forget_preparation(acme.embeddings_directory)
    put(client, "g.png", GREEN, staff)
    assert found(client, GREEN)[0] == "g.png"
    carry_out_build.func(acme.queue_build(fold=True).pk)
    assert storage.info(acme.embeddings_directory).preparation is None
    assert found(client, GREEN)[0] == "g.png"
    build = acme.queue_build()
    carry_out_build.func(build.pk)
    build.refresh_from_db()
    assert build.full_reason.startswith("The preparation of pictures changed")
    assert (build.images_embedded, build.images_reused) == (3, 0)
    assert found(client, GREEN)[0] == "g.png"


def test_a_fold_keeps_the_preparation_of_the_index(client: Client, acme: Company, staff: dict[str, str]) -> None:
    put(client, "g.png", GREEN, staff)
    carry_out_build.func(acme.queue_build(fold=True).pk)
    assert storage.info(acme.embeddings_directory).preparation == "fake preparation"


def test_a_rolled_back_index_still_shows_no_deleted_picture(
    client: Client, acme: Company, staff: dict[str, str]
) -> None:
    delete(client, "Warm/red.png", staff)
    call_command("build_embeddings", company="acme")
    roll_back(acme)
    assert found(client, RED) == ["Cold/blue.png"]


def test_the_first_picture_of_a_company_without_index(
    client: Client, db: None, staff: dict[str, str], embedder: FakeEmbedder
) -> None:
    company = Company.objects.create(name="acme")
    assert put(client, "g.png", GREEN, staff).status_code == 201
    assert found(client, RED) == ["g.png"]
    stats = client.get("/api/stats/acme").json()["stats"]
    assert (stats["total_images"], stats["index_info"]["total_images"]) == (1, 1)
    carry_out_build.func(company.queue_build(fold=True).pk)
    assert storage.load(company.embeddings_directory).info.fingerprint == embedder.passport.fingerprint
    assert found(client, RED) == ["g.png"]


@pytest.mark.parametrize(
    "path",
    [
        "../evil.png",
        "a/../../evil.png",
        "%2e%2e/evil.png",
        "/etc/evil.png",
        ".hidden.png",
        "@eaDir/a.png",
        "caf%E9.png",
        "caf%C3.png",
        ".uploads/a.png",
        "a/.git/b.png",
        "a.exe",
        "a",
        "a.png/../b.txt",
        "x" * 251 + ".png",
        "d/" * 500 + "a.png",
        "%C3%A9" * 124 + ".png",
        "nul%00.png",
        "line%0Abreak.png",
        "del%7F.png",
        "next%C2%85line.png",
        "line%E2%80%A8separator.png",
        "%E2%80%AEgnp.exe.png",
        "zero%E2%80%8Bwidth.png",
        "..%5Cevil.png",
    ],
)
def test_paths_that_are_no_picture_of_the_folder_are_refused(
    client: Client, acme: Company, staff: dict[str, str], path: str, tmp_path: Any
) -> None:
    before = sorted(tmp_path.rglob("*"))
    response = put(client, path, GREEN, staff)
    assert response.status_code == 400
    assert response.json()["success"] is False
    assert response.json()["error"].isprintable()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        ("a//b.png", "a/b.png"),
        ("Foto%5Cb.png", "Foto/b.png"),
        ("%E2%80%8EWhatsApp Image.png", "WhatsApp Image.png"),
        ("caf%25C3%25A9.png", "caf%C3%A9.png"),
    ],
)
def test_a_picture_is_stored_found_and_deleted_under_a_name_that_was_tidied(
    client: Client, acme: Company, staff: dict[str, str], sent: str, stored: str
) -> None:
    assert put(client, sent, GREEN, staff).json()["image"]["fullPath"] == stored
    assert put(client, sent, GREEN, staff).json()["change"] == "unchanged"
    assert (acme.image_directory / stored).is_file()
    assert client.get(f"/api/images/acme/{sent}").json()["image"]["fullPath"] == stored
    assert delete(client, sent, staff).json()["image"]["fullPath"] == stored
    assert not (acme.image_directory / stored).exists()


APART, COMPOSED = "cafe\u0301", "caf\u00e9"


@pytest.mark.parametrize(("kept", "sent"), [(APART, COMPOSED), (COMPOSED, APART)])
def test_accents_may_be_written_in_either_way(
    client: Client, make_company: MakeCompany, staff: dict[str, str], kept: str, sent: str
) -> None:
    acme = make_company("acme", {f"x/{kept}/a.png": RED, "x/other.png": GREEN})
    put(client, quote(f"x/{kept}/new.png"), GREEN, staff)
    for location in (f"x/{sent}", f"/x/{sent}/", f"x/{kept}/"):
        listed = client.get("/api/images/acme", {"location": location}).json()
        assert {image["fullPath"] for image in listed["images"]} == {f"x/{kept}/a.png", f"x/{kept}/new.png"}
        results = client.post("/api/search/acme", {"image": picture(RED), "location": location}).json()["results"]
        assert [result["fullPath"] for result in results] == [f"x/{kept}/a.png", f"x/{kept}/new.png"]
    replaced = put(client, quote(f"x/{sent}/a.png"), GREEN, staff).json()
    assert (replaced["change"], replaced["image"]["fullPath"]) == ("replaced", f"x/{kept}/a.png")
    assert delete(client, quote(f"x/{sent}/a.png"), staff).status_code == 200
    assert not (acme.image_directory / f"x/{kept}/a.png").exists()


@pytest.mark.parametrize("location", ["Cold", "Cold/", "/Cold", "//Cold//"])
def test_slashes_around_a_location_do_not_matter(client: Client, make_company: MakeCompany, location: str) -> None:
    make_company("acme", {"a.png": RED, "Cold/b.png": GREEN})
    assert client.get("/api/images/acme", {"location": location}).json()["total"] == 1


def test_a_picture_of_an_odd_name_that_is_there_already_can_be_replaced_and_deleted(
    client: Client, make_company: MakeCompany, staff: dict[str, str]
) -> None:
    name, longer = "line\nbreak\u202e.png", f"{'d/' * 600}a.png"
    acme = make_company("acme", {name: RED, longer: RED})
    for path in (name, longer):
        response = put(client, quote(path), GREEN, staff)
        assert (response.status_code, response.json().get("change")) == (200, "replaced"), response.json()
        assert response.json()["image"]["fullPath"] == path
        assert delete(client, quote(path), staff).status_code == 200
        assert not (acme.image_directory / path).exists()
        assert put(client, quote(path), GREEN, staff).status_code == 400
    assert found(client, RED) == []


def test_no_link_leads_out_of_the_folder(client: Client, acme: Company, staff: dict[str, str], tmp_path: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (acme.image_directory / "link").symlink_to(outside)
    assert put(client, "link/g.png", GREEN, staff).status_code == 400
    assert delete(client, "link/g.png", staff).status_code == 400
    assert list(outside.iterdir()) == []


def test_a_link_to_a_picture_is_neither_replaced_nor_deleted(
    client: Client, acme: Company, staff: dict[str, str]
) -> None:
    """A build follows it, so that what is deleted here would come back."""
    link = acme.image_directory / "link.png"
    link.symlink_to("Warm/red.png")
    call_command("build_embeddings", company="acme")
    for response in (put(client, "link.png", GREEN, staff), delete(client, "link.png", staff)):
        assert response.status_code == 400
        assert response.json()["error"] == "link.png: A link, file or folder with that name is in the way"
    assert link.is_symlink()
    assert "link.png" in found(client, RED)


def test_a_picture_whose_file_is_gone_can_be_deleted_and_put(
    client: Client, acme: Company, staff: dict[str, str]
) -> None:
    shutil.rmtree(acme.image_directory)
    assert delete(client, "Warm/red.png", staff).status_code == 200
    assert put(client, "Cold/blue.png", BLUE, staff).json()["change"] == "replaced"
    assert found(client, RED) == ["Cold/blue.png"]
    assert delete(client, "Warm/red.png", staff).status_code == 404


def test_a_picture_that_no_build_has_seen_can_be_deleted(client: Client, acme: Company, staff: dict[str, str]) -> None:
    paint(acme.image_directory / "unseen.png", GREEN)
    assert delete(client, "unseen.png", staff).status_code == 200
    assert not (acme.image_directory / "unseen.png").exists()
    assert delete(client, "unseen.png", staff).status_code == 404


def test_a_picture_where_a_folder_is_is_refused(client: Client, acme: Company, staff: dict[str, str]) -> None:
    (acme.image_directory / "folder.png").mkdir()
    assert put(client, "folder.png", GREEN, staff).status_code == 400
    assert put(client, "Warm/red.png/below.png", GREEN, staff).status_code == 400
    assert found(client, RED)[0] == "Warm/red.png"


def test_a_broken_picture_is_refused_and_nothing_stored(client: Client, acme: Company, staff: dict[str, str]) -> None:
    response = client.generic("PUT", "/api/images/acme/g.png", b"broken", content_type="image/png", headers=staff)
    assert response.status_code == 400
    assert not (acme.image_directory / "g.png").exists()
    assert not list(acme.image_directory.glob(".uploads/*"))


def test_a_put_over_16_mb_is_a_413(client: Client, acme: Company, staff: dict[str, str]) -> None:
    response = client.generic(
        "PUT", "/api/images/acme/g.png", bytes(16 * 2**20 + 1), content_type="image/png", headers=staff
    )
    assert response.status_code == 413


def test_writing_needs_a_staff_user(client: Client, acme: Company) -> None:
    for response in (
        put(client, "g.png", GREEN, None),
        delete(client, "Warm/red.png", None),
        client.post("/api/reindex/acme"),
        client.get("/api/builds/1"),
        client.post("/api/builds/1/cancel"),
    ):
        assert response.status_code == 401
        assert response.json()["success"] is False
    assert found(client, RED)[0] == "Warm/red.png"


def test_a_session_cookie_writes_nothing(client: Client, acme: Company) -> None:
    client.force_login(User.objects.create_superuser("root"))
    assert put(client, "g.png", GREEN, None).status_code == 401


@pytest.mark.parametrize("permissions", [[], ["reindex_company"]])
def test_staff_without_the_permission_are_refused(client: Client, acme: Company, permissions: list[str]) -> None:
    user = User.objects.create_user("bob", password="secret", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    headers = {"Authorization": f"Basic {b64encode(b'bob:secret').decode()}"}
    assert put(client, "g.png", GREEN, headers).status_code == 403
    assert client.post("/api/reindex/acme", headers=headers).status_code == (202 if permissions else 403)


def test_images_are_listed_page_by_page(client: Client, make_company: MakeCompany, staff: dict[str, str]) -> None:
    make_company("acme", {f"A/{n:03}.png": (n, 0, 0) for n in range(150)} | {"B/b.png": BLUE})
    put(client, "A/live.png", GREEN, staff)
    delete(client, "A/000.png", staff)
    first = client.get("/api/images/acme?location=A").json()
    second = client.get("/api/images/acme?location=A&page=2").json()
    paths = [entry["fullPath"] for entry in first["images"] + second["images"]]
    assert paths == [f"A/{n:03}.png" for n in range(1, 150)] + ["A/live.png"]
    assert (first["total"], first["pages"], second["page"]) == (150, 2, 2)
    assert client.get("/api/images/acme?location=A&page=3").status_code == 404
    assert client.get("/api/images/acme").json()["total"] == 151


def test_similar_to_an_indexed_picture_leaves_it_out(
    client: Client, make_company: MakeCompany, staff: dict[str, str]
) -> None:
    make_company("acme", {"red.png": RED, "orange.png": (255, 128, 0), "blue.png": BLUE})
    image_id = client.get("/api/images/acme/red.png").json()["image"]["id"]
    body = client.get(f"/api/search/acme/{image_id}?top_k=1").json()
    assert [entry["fullPath"] for entry in body["results"]] == ["orange.png"]
    live_id = put(client, "live.png", (255, 10, 0), staff).json()["image"]["id"]
    body = client.get(f"/api/search/acme/{live_id}").json()
    assert [entry["fullPath"] for entry in body["results"]] == ["red.png", "orange.png", "blue.png"]


def test_similar_to_an_unknown_or_foreign_picture_is_a_404(
    client: Client, acme: Company, make_company: MakeCompany
) -> None:
    make_company("globex", {"theirs.png": RED})
    foreign = client.get("/api/images/globex/theirs.png").json()["image"]["id"]
    for unknown in (foreign, "not-a-uuid", "a/b"):
        response = client.get(f"/api/search/acme/{unknown}")
        assert response.status_code == 404
        assert response.json()["code"] == "image_not_found"
        assert client.get(f"/api/search/nobody/{unknown}").json()["code"] == "company_not_found"


def test_filters_come_before_top_k(client: Client, make_company: MakeCompany, staff: dict[str, str]) -> None:
    make_company(
        "acme",
        {f"A/{n}.png": (255, n, 0) for n in range(5)} | {f"B/{n}.png": (0, n, 255) for n in range(5)} | {"Bb.png": RED},
    )
    put(client, "B/C/live.png", GREEN, staff)
    assert set(found(client, RED, location="B")) == {f"B/{n}.png" for n in range(5)} | {"B/C/live.png"}
    assert len(found(client, RED, location="B/", top_k=3)) == 3
    assert found(client, RED, location="nowhere") == []
    assert set(found(client, RED, min_score="0.9")) == {f"A/{n}.png" for n in range(5)} | {"Bb.png"}


@pytest.mark.parametrize("score", ["nan", "inf", "2", "x", ""])
def test_min_score_that_is_no_cosine_is_a_400(client: Client, acme: Company, score: str) -> None:
    response = client.post("/api/search/acme", {"image": picture(RED), "min_score": score})
    assert response.status_code == 400
    assert response.json()["error"] == "min_score must be a number from -1 to 1"


def test_reindex_is_queued_watched_and_cancelled_by_api(client: Client, acme: Company, staff: dict[str, str]) -> None:
    response = client.post("/api/reindex/acme", {"full": True}, content_type="application/json", headers=staff)
    assert response.status_code == 202
    url = response.json()["url"]
    assert response.headers["Location"] == url
    assert client.post("/api/reindex/acme", headers=staff).json()["url"] == url
    build = client.get(url, headers=staff).json()["build"]
    assert (build["status"], build["full"], build["company"]) == ("queued", True, "acme")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", build["queued_at"])
    assert build["started_at"] is None
    assert client.post(f"{url}/cancel", headers=staff).json()["build"]["status"] == "cancelled"
    assert client.post(f"{url}/cancel", headers=staff).status_code == 409
    assert client.get("/api/builds/999999", headers=staff).status_code == 404


def test_many_changes_are_folded_at_once(
    client: Client, acme: Company, staff: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "FOLD_AT_ONCE", 3)
    for n in range(3):
        assert not IndexBuild.objects.active().exists()
        put(client, f"{n}.png", (n, 255, 0), staff)
    assert IndexBuild.objects.active().get().fold


def test_reindex_asked_while_a_fold_waits_becomes_a_reindex(acme: Company) -> None:
    fold = acme.queue_build(fold=True)
    assert acme.queue_build(full=True) == fold
    fold.refresh_from_db()
    assert (fold.fold, fold.full) == (False, True)
