"""Files and database that do not agree: check_index and the admin say so, and what to do."""

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from search.tasks import look_after_companies
from tenants.models import Company
from tests.conftest import paint
from tests.support.admin import COMPANIES, fragments, messages, rebuild, search_names, text, url
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.indexes import flask_directory, generations, some_vectors

MakeCompany = Callable[..., Company]


@pytest.fixture
def acme(make_company: MakeCompany) -> Company:
    """A company with an index of one picture and, published, one of two."""
    company = make_company("acme", {"a.png": RED})
    paint(company.image_directory / "b.png", BLUE)
    rebuild(company)
    company.refresh_from_db()
    return company


def warnings() -> list[str]:
    """Return what check_index --all warns of; it ends well."""
    out = StringIO()
    call_command("check_index", all=True, stdout=out)
    return [line.partition(": WARNING. ")[2] for line in out.getvalue().splitlines() if "WARNING" in line]


def shown(client: Client) -> str:
    """Return what the page of the company says of it, where its line in the list warns."""
    assert "files and database do not agree: see its page" in text(client.get(COMPANIES).content.decode())
    return fragments(client, url("live", Company.objects.get(name="acme")))["overview"]


def put(company: Company, name: str) -> None:
    _, key = company.issue_key(name, can_write=True)
    client = Client(headers={"X-API-Key": key})
    file = paint(company.image_directory.parent / "query.png", GREEN).read_bytes()
    assert client.put(f"/api/images/acme/{name}", file, content_type="image/png").status_code == 201


def test_where_all_agrees_nothing_is_said(admin_client: Client, acme: Company) -> None:
    assert warnings() == []
    assert "do not agree" not in text(admin_client.get(COMPANIES).content.decode())
    assert "do not agree" not in fragments(admin_client, url("live", acme))["overview"]


def test_folders_that_overlap_since_earlier_are_told(admin_client: Client, acme: Company) -> None:
    globex = Company.objects.create(name="globex", image_folder="acme/deeper")
    told = "overlaps with the image folder of"
    assert [told in warning for warning in warnings()] == [True, True]
    for company, other in ((acme, globex), (globex, acme)):
        assert f"{told} {other}" in text(admin_client.get(url("change", company)).content.decode())
    form = {"active": "on", "image_folder": "acme/deeper", "notes": "calls on Mondays"}
    assert admin_client.post(url("change", globex), form).status_code == 302
    page = text(admin_client.post(url("change", globex), {**form, "image_folder": "acme"}).content.decode())
    assert "Choose another folder" in page
    globex.refresh_from_db()
    assert (globex.notes, globex.image_folder) == ("calls on Mondays", "acme/deeper")


def test_a_generation_that_is_gone_and_what_is_used_instead(admin_client: Client, acme: Company) -> None:
    shutil.rmtree(acme.embeddings_directory.resolve())
    (left,) = generations(acme.embeddings_directory)[:1]
    said = f"The index {acme.generation} is gone from the disk. {left.name} is used instead"
    assert warnings()[0].startswith(said)
    assert said in shown(admin_client)
    assert search_names(acme) == {"a.png"}
    look_after_companies()
    assert warnings() == []
    assert search_names(acme) == {"a.png"}


def test_an_index_whose_generations_are_all_gone_is_damage(admin_client: Client, acme: Company) -> None:
    shutil.rmtree(acme.embeddings_directory.parent / ".generations/acme")
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 1 companies have a damaged index: acme"):
        call_command("check_index", "acme", stdout=out)
    said = f"The index {acme.generation} of company 'acme' is gone from the disk, and none is left"
    assert out.getvalue().count(said) == 1
    assert said in fragments(admin_client, url("live", acme))["overview"]
    answer = Client(raise_request_exception=False).get("/api/stats/acme")
    assert (answer.status_code, answer.json()["error"][: len(said)]) == (503, said)
    assert [entry["name"] for entry in Client().get("/api/companies").json()["companies"]] == ["acme"]
    rebuild(acme)
    assert warnings() == []
    assert search_names(acme) == {"a.png", "b.png"}


def test_a_plain_directory_beside_a_published_index(admin_client: Client, acme: Company) -> None:
    directory = acme.embeddings_directory
    directory.unlink()
    flask_directory(directory, some_vectors(3), ["x.png", "y.png", "z.png"])
    said = f"{directory} is a directory of its own and is not used. To use it in place of {acme.generation}, "
    assert warnings() == [f"{said}run manage.py adopt_companies acme"]
    assert said in shown(admin_client)
    rebuild(acme)  # leaves it where it is
    assert len(warnings()) == 1
    assert search_names(acme) == {"a.png", "b.png"}
    call_command("adopt_companies", "acme", stdout=StringIO())
    assert warnings() == []
    assert search_names(acme) == {"x.png", "y.png", "z.png"}


def test_a_plain_directory_is_taken_over_while_a_build_waits(acme: Company) -> None:
    acme.embeddings_directory.unlink()
    flask_directory(acme.embeddings_directory, some_vectors(3), ["x.png", "y.png", "z.png"])
    build = acme.queue_build()
    out = StringIO()
    call_command("adopt_companies", "acme", stdout=out)
    assert "Adopted acme" in out.getvalue()
    build.refresh_from_db()
    assert build.status == "queued"


def test_a_disk_that_is_ahead_of_its_database(admin_client: Client, acme: Company) -> None:
    put(acme, "c.png")
    build = acme.queue_build(fold=True)
    call_command("build_embeddings", company="acme", stdout=StringIO())
    build.refresh_from_db()
    Company.objects.filter(pk=acme.pk).update(generation=acme.generation, live_sequence=0, live_floor=0)
    acme.live_changes.all().delete()
    said = "The database is older than the disk: it has counted 0 live changes, an index on the disk contains 1."
    assert said in warnings()[0]
    assert said in shown(admin_client)
    put(acme, "d.png")
    assert Company.objects.get().live_sequence == 2
    assert not any("older than the disk: it has counted" in warning for warning in warnings())


def test_an_older_index_in_use_is_told_until_the_newest_serves(admin_client: Client, acme: Company) -> None:
    call_command("rollback_index", "acme", stdout=StringIO())
    (said,) = warnings()
    assert said.startswith("acme uses an older index, of ")
    assert said.endswith("UTC (1 picture; the newest has 2). The next upload or build replaces it")
    assert "older index the next upload or build replaces it" in text(admin_client.get(COMPANIES).content.decode())
    page = fragments(admin_client, url("live", acme))
    assert said in page["overview"]
    assert "do not agree" not in page["overview"]
    assert "ready" not in page["overview"]
    assert "Use this one" in page["generations"]
    assert "Roll back" not in page["generations"]
    response = admin_client.post(url("roll_back", acme), {"generation": acme.generation}, follow=True)
    assert "the newest one" in messages(response)
    assert warnings() == []


@pytest.mark.parametrize("elsewhere", ["outside", "older"])
def test_a_link_that_leads_elsewhere(admin_client: Client, acme: Company, tmp_path: Path, elsewhere: str) -> None:
    directory = acme.embeddings_directory
    older = generations(directory)[0]
    target = tmp_path / "outside" if elsewhere == "outside" else Path(".generations/acme") / older.name
    directory.unlink()
    directory.symlink_to(target)
    said = f"{directory} leads to {target}, but the index that is used is {acme.generation}"
    assert warnings() == [said]
    assert said in shown(admin_client)
    assert search_names(acme) == {"a.png", "b.png"}
    look_after_companies()
    assert warnings() == ([said] if elsewhere == "outside" else [])  # what somebody has put there stays


def test_a_link_that_is_gone_takes_the_company_off_the_list(admin_client: Client, acme: Company) -> None:
    acme.embeddings_directory.unlink()
    assert Client().get("/api/companies").json()["companies"] == []
    said = f"{acme.embeddings_directory} is gone, so acme is not listed, but {acme.generation} is still searched"
    assert said in warnings()[0]
    assert said in shown(admin_client)
    look_after_companies()  # leaves it so
    assert Client().get("/api/companies").json()["companies"] == []
    paint(acme.image_directory / "c.png", GREEN)
    rebuild(acme)
    assert warnings() == []
    assert Client().get("/api/companies").json()["total"] == 1


@pytest.mark.django_db(transaction=True)
def test_protection_that_the_database_tells_otherwise(admin_client: Client, acme: Company) -> None:
    card = acme.embeddings_directory.parent / ".generations/acme/company.json"
    card.write_text(json.dumps({"version": 1, "active": False, "requires_api_key": True, "daily_quota": 7}))
    (said,) = warnings()
    assert "says active = False, requires_api_key = True, daily_quota = 7; the database says active = True" in said
    assert said in shown(admin_client)
    look_after_companies()  # decides nothing
    assert warnings() == [said]
    admin_client.post(url("change", acme), {"active": "on"})
    assert warnings() == []


@pytest.mark.django_db(transaction=True)
def test_protection_that_cannot_be_read(admin_client: Client, acme: Company) -> None:
    (acme.embeddings_directory.parent / ".generations/acme/company.json").write_text("{")
    assert "company.json cannot be read" in warnings()[0]
    assert "company.json cannot be read" in shown(admin_client)
    admin_client.post(url("change", acme), {"active": "on"})
    assert warnings() == []


def test_whatever_is_wrong_with_one_company_the_others_are_checked(acme: Company) -> None:
    broken = Company.objects.create(name="aaa")
    flask_directory(broken.embeddings_directory, some_vectors(1), ["x.png"])
    (broken.embeddings_directory / "metadata.json").write_text("[" * 100_000)
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 2 companies have a damaged index: aaa"):
        call_command("check_index", all=True, stdout=out)
    assert "aaa: DAMAGED. metadata.json cannot be read" in out.getvalue()
    assert "acme: ok, 2 pictures" in out.getvalue()
