"""The page of a company's duplicates: looking for them, deleting them, saying what is none, without scripts."""

import re
from typing import Any

import pytest
from django.test import Client

from search.admin import duplicates as page
from search.companies.duplicates import carry_out
from search.pictures import delete_image, put_image
from tenants.audit import on_command_line
from tenants.models import AuditEvent, Company, DuplicateSearch
from tests.conftest import Colleague
from tests.support.admin import CHANGE, REINDEX, VIEW, logged, messages, text, url
from tests.support.duplicates import company_of, content, drawn, grouped, look
from tests.support.fakes import BLUE, GREEN, RED, FakeEmbedder


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder) -> Company:
    red, blue = drawn(RED), drawn(BLUE)
    others = {"c.png": drawn(RED, size=90), "f.png": drawn(GREEN)}
    return company_of("acme", {"a.png": red, "B/b.png": red, "d.png": blue, "e.png": blue, **others})


@pytest.fixture
def looked(acme: Company) -> Company:
    look(acme)
    return acme


def show(client: Client, company: Company, query: str = "") -> Any:
    response = client.get(url("duplicates", company) + query)
    assert response.status_code == 200
    return response


def post(client: Client, company: Company, view: str, **form: Any) -> Any:
    return client.post(url(f"duplicates_{view}", company), form, follow=True)


def ids(company: Company, *paths: str) -> list[str]:
    from search.queries import company_index

    company.refresh_from_db()
    index = company_index(company)
    return [record.id for path in paths if (record := index.find_path(path))]


def paths(company: Company) -> list[set[str]]:
    return [set(group) for group in grouped(company)]


def audited(action: str) -> list[str]:
    return list(AuditEvent.objects.filter(action=action, actor="ann").order_by("pk").values_list("detail", flat=True))


def test_the_companys_page_leads_to_it(admin_client: Client, acme: Company) -> None:
    assert url("duplicates", acme) in admin_client.get(url("change", acme)).content.decode()


def test_before_anybody_has_looked_it_offers_to(admin_client: Client, acme: Company) -> None:
    html = text(show(admin_client, acme).content.decode())
    assert "Nobody has looked for duplicates of acme yet" in html
    response = post(admin_client, acme, "look")
    assert "is queued" in messages(response)
    search = DuplicateSearch.objects.get()
    assert (search.status, search.edited, search.requested_by.username) == ("queued", True, "ann")
    assert audited("duplicates asked for") == [f"search for duplicates {search.pk}"]
    html = text(show(admin_client, acme).content.decode())
    assert "begins as soon as a worker has nothing else to do" in html
    assert "Cancel the search" in html


def test_a_search_for_none_but_quick_ones_can_be_asked_for(admin_client: Client, acme: Company) -> None:
    post(admin_client, acme, "look", quick="1")
    assert not DuplicateSearch.objects.get().edited


def test_what_nobody_has_looked_for_leaves_the_choice_of_others(admin_client: Client, acme: Company) -> None:
    search = DuplicateSearch.objects.claim(acme, edited=False, by=on_command_line())
    assert search
    carry_out(search)
    html = show(admin_client, acme, "?level=edited").content.decode()
    assert "Nobody has looked for these of acme yet" in text(html)
    assert 'value="exact"' in html


def test_a_running_search_shows_how_far_it_is_and_can_be_cancelled(admin_client: Client, acme: Company) -> None:
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()
    search.beat(stage="comparing all pictures", done=2_000, total=8_000, seconds_left=90)
    live = admin_client.get(url("duplicates_live", acme)).json()
    assert live["active"] == [acme.pk]
    assert "comparing all pictures: 2,000 of 8,000, 01:30 left" in text(live["fragments"]["state"])
    assert "was cancelled" in messages(post(admin_client, acme, "cancel"))
    search.refresh_from_db()
    assert search.status == "cancelled"
    assert "No search for duplicates of acme is active" in messages(post(admin_client, acme, "cancel"))


def test_groups_show_each_picture_with_its_size_and_path(admin_client: Client, looked: Company) -> None:
    html = show(admin_client, looked).content.decode()
    assert html.count('class="tile is-leader"') == 2
    assert html.count("<img") == 5
    assert "90 \N{MULTIPLICATION SIGN} 90" in text(html)
    assert 'title="B/b.png"' in html
    assert "2 groups of duplicates" in text(html)


def test_a_picture_that_is_gone_is_said_to_be(admin_client: Client, looked: Company) -> None:
    (looked.image_directory / "d.png").unlink()
    assert "file is gone" in text(show(admin_client, looked).content.decode())


def test_levels_are_chosen(admin_client: Client, looked: Company) -> None:
    html = show(admin_client, looked, "?level=exact").content.decode()
    assert html.count("<img") == 4
    assert html.count("checked") == 1
    assert show(admin_client, looked, "?level=nonsense").content.decode().count("<img") == 5


def test_pages(admin_client: Client, looked: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "GROUPS_A_PAGE", 1)
    assert "page 1 of 2" in text(show(admin_client, looked).content.decode())
    assert "page 2 of 2" in text(show(admin_client, looked, "?page=9").content.decode())


def test_ticked_pictures_are_deleted_once_that_is_confirmed(admin_client: Client, looked: Company) -> None:
    chosen = ids(looked, "B/b.png", "e.png")
    asked = post(admin_client, looked, "delete", id=chosen, level=["exact"])
    assert "Delete 2 pictures?" in text(asked.content.decode())
    assert "Nothing would be left" not in asked.content.decode()
    assert (looked.image_directory / "e.png").exists()
    done = post(admin_client, looked, "delete", id=chosen, level=["exact"], confirmed="1")
    assert done.redirect_chain[-1][0].endswith("?level=exact")
    assert "Deleted 2 pictures" in messages(done)
    assert not (looked.image_directory / "e.png").exists()
    assert paths(looked) == [{"a.png", "c.png"}]
    assert sorted(audited("picture deleted")) == ["B/b.png", "e.png"]


def test_deleting_every_copy_of_a_picture_is_warned_of(admin_client: Client, looked: Company) -> None:
    asked = post(admin_client, looked, "delete", id=ids(looked, "d.png", "e.png", "a.png"))
    assert "Nothing would be left of one group" in text(asked.content.decode())


def hidden(response: Any, name: str) -> str:
    found = re.search(f'name="{name}" value="([^"]*)"', response.content.decode())
    assert found
    return found[1]


def test_every_copy_is_deleted_by_who_has_seen_the_warning(admin_client: Client, looked: Company) -> None:
    chosen = ids(looked, "d.png", "e.png")
    last = hidden(post(admin_client, looked, "delete", id=chosen), "last")
    assert set(last.split()) == set(chosen)
    assert "Deleted 2 pictures" in messages(post(admin_client, looked, "delete", id=chosen, last=last, confirmed="1"))


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_the_last_copy_is_not_deleted_from_a_page_that_shows_another(
    admin_client: Client, looked: Company, change: str
) -> None:
    chosen = ids(looked, "e.png")
    last = hidden(post(admin_client, looked, "delete", id=chosen), "last")
    assert last == ""
    by = on_command_line()
    if change == "deleted":
        delete_image(looked, "d.png", by=by)
    else:
        put_image(looked, "e.png", content(drawn(GREEN, size=40)), by=by)
    asked = post(admin_client, looked, "delete", id=chosen, last=last, confirmed="1")
    assert "No duplicate any more: e.png" in text(asked.content.decode())
    assert ids(looked, "e.png") == chosen
    post(admin_client, looked, "delete", id=chosen, last=hidden(asked, "last"), confirmed="1")
    assert ids(looked, "e.png") == []


def test_nothing_ticked_deletes_nothing(admin_client: Client, looked: Company) -> None:
    assert "choose those to delete first" in messages(post(admin_client, looked, "delete"))


def leader_of(company: Company, path: str) -> str:
    [group] = [group for group in grouped(company) if path in group]
    return ids(company, group[0])[0]


def test_what_is_said_to_be_none_is_no_group_any_more_until_that_is_undone(
    admin_client: Client, looked: Company
) -> None:
    before = paths(looked)
    said = post(admin_client, looked, "tell_apart", leader=leader_of(looked, "d.png"))
    assert "will not be shown as duplicates" in messages(said)
    assert paths(looked) == [{"a.png", "B/b.png", "c.png"}]
    assert {frozenset(each.split(", ")) for each in audited("not duplicates")} == {frozenset({"d.png", "e.png"})}
    html = admin_client.get(url("duplicates_apart", looked)).content.decode()
    assert "Not duplicates, says ann" in text(html)
    assert 'title="d.png"' in html
    decision = looked.not_duplicates.get().decision
    assert "Undone" in messages(post(admin_client, looked, "undo", decision=decision))
    assert paths(looked) == before
    assert len(audited("duplicates after all")) == 1
    assert "undone before" in messages(post(admin_client, looked, "undo", decision=decision))


def test_of_a_group_only_the_ticked_are_none(admin_client: Client, looked: Company) -> None:
    [group] = [group for group in grouped(looked) if "a.png" in group]
    post(admin_client, looked, "tell_apart", leader=ids(looked, group[0])[0], id=ids(looked, group[2]))
    assert paths(looked) == [set(group[:2]), {"d.png", "e.png"}] or paths(looked) == [
        {"d.png", "e.png"},
        set(group[:2]),
    ]
    assert looked.not_duplicates.count() == 2


def test_the_leader_of_a_large_group_is_told_apart_from_all_of_it(
    admin_client: Client, looked: Company, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "TOLD_APART", 2)
    leader = leader_of(looked, "a.png")
    post(admin_client, looked, "tell_apart", leader=leader, id=[leader])
    assert sorted(map(len, paths(looked))) == [2, 2]
    assert leader not in ids(looked, *(path for group in paths(looked) for path in group))


def test_a_group_that_has_changed_meanwhile_is_looked_at_again(admin_client: Client, looked: Company) -> None:
    said = post(admin_client, looked, "tell_apart", leader=ids(looked, "f.png")[0])
    assert "has changed meanwhile" in messages(said)
    assert not looked.not_duplicates.exists()


def test_who_may_only_look_changes_nothing(colleague: Colleague, looked: Company) -> None:
    client = colleague(VIEW)
    html = show(client, looked).content.decode()
    assert 'name="id"' not in html
    assert "Look again" not in html
    for view in ("look", "cancel", "delete", "tell_apart", "undo"):
        assert client.post(url(f"duplicates_{view}", looked)).status_code == 403, view
    assert client.get(url("duplicates_apart", looked)).status_code == 200


def test_each_permission_allows_its_own(colleague: Colleague, looked: Company) -> None:
    assert colleague(VIEW, REINDEX).post(url("duplicates_look", looked)).status_code == 302
    assert colleague(VIEW, REINDEX).post(url("duplicates_delete", looked)).status_code == 403
    assert colleague(VIEW, CHANGE).post(url("duplicates_delete", looked)).status_code == 302
    assert colleague().get(url("duplicates", looked)).status_code == 403


def test_what_was_done_is_in_the_history(admin_client: Client, looked: Company) -> None:
    post(admin_client, looked, "tell_apart", leader=leader_of(looked, "d.png"))
    post(admin_client, looked, "look")
    assert logged()[0] == "Marked 2 pictures as not duplicates."
    assert logged()[1].startswith("Queued search for duplicates")
