"""The search for a company's duplicates: what it finds, whatever becomes of the index, the company or the worker."""

import pytest

from search import overlay, runtime
from search.companies.duplicates import carry_out
from search.companies.removal import delete_company
from search.companies.rollback import roll_back
from search.duplicates import NotLookedYet
from search.engine.errors import IndexNotBuilt
from search.engine.index.duplicates import Level
from search.engine.storage.layout import duplicates_file, home
from search.pictures import delete_image, put_image
from search.stopping import StopRequested
from tenants.audit import on_command_line
from tenants.models import Company, DuplicateSearch, JobCancelled, NotDuplicates
from tests.support.admin import rebuild
from tests.support.duplicates import company_of, content, drawn, grouped, look, save
from tests.support.fakes import BLUE, RED, FakeEmbedder

Status = DuplicateSearch.Status


@pytest.fixture
def acme(db: None, embedder: FakeEmbedder) -> Company:
    return company_of("acme", {"a.png": drawn(RED), "b.png": drawn(RED), "c.png": drawn(BLUE)})


def put(company: Company, path: str, colour: tuple[int, int, int]) -> None:
    company.refresh_from_db()
    put_image(company, path, content(drawn(colour)), by=on_command_line())


def delete(company: Company, path: str) -> None:
    company.refresh_from_db()
    delete_image(company, path, by=on_command_line())


def test_before_anybody_has_looked_nothing_is_known(acme: Company) -> None:
    with pytest.raises(NotLookedYet, match="Nobody has looked for duplicates of 'acme'"):
        grouped(acme)


def test_a_search_finds_what_shows_the_same(acme: Company) -> None:
    search = look(acme)
    assert (search.status, search.pairs) == (Status.SUCCEEDED, 1)
    assert grouped(acme) == [["a.png", "b.png"]]


def test_while_the_first_search_is_under_way_that_is_said(acme: Company) -> None:
    DuplicateSearch.objects.ask(acme)
    with pytest.raises(NotLookedYet, match="are being looked for"):
        grouped(acme)


def test_what_was_put_and_deleted_since_counts(acme: Company) -> None:
    look(acme)
    put(acme, "b.png", BLUE)
    assert grouped(acme) == []
    put(acme, "d.png", RED)
    look(acme)
    assert sorted(map(sorted, grouped(acme))) == [["a.png", "d.png"], ["b.png", "c.png"]]
    delete(acme, "a.png")
    assert [sorted(group) for group in grouped(acme)] == [["b.png", "c.png"]]


def test_after_a_build_what_is_new_is_looked_at_without_being_asked(acme: Company) -> None:
    look(acme)
    save(acme, "d.png", drawn(BLUE))
    rebuild(acme)
    assert grouped(acme) == [["a.png", "b.png"]]
    queued = acme.duplicate_searches.active().get()
    assert queued.start()
    carry_out(queued)
    assert sorted(map(sorted, grouped(acme))) == [["a.png", "b.png"], ["c.png", "d.png"]]


def test_after_going_back_what_is_new_is_looked_at_without_being_asked(acme: Company) -> None:
    save(acme, "c.png", drawn(RED))
    rebuild(acme)
    look(acme)
    roll_back(acme, by=on_command_line())
    assert acme.duplicate_searches.active().exists()


def test_what_another_model_has_found_tells_nothing_of_an_index(acme: Company, embedder: FakeEmbedder) -> None:
    look(acme)
    runtime.use(FakeEmbedder("e" * 64, weights="new-weights", first=500))
    runtime.use_also(embedder)
    rebuild(acme)
    with pytest.raises(NotLookedYet, match="are being looked for"):
        grouped(acme)
    look(acme)
    assert grouped(acme) == [["a.png", "b.png"]]
    roll_back(acme, by=on_command_line())
    with pytest.raises(NotLookedYet, match="are being looked for"):
        grouped(acme)


def test_edited_copies_are_unknown_until_somebody_has_looked_for_them(acme: Company) -> None:
    quick = DuplicateSearch.objects.claim(acme, edited=False, by=on_command_line())
    assert quick
    carry_out(quick)
    assert grouped(acme) == [["a.png", "b.png"]]
    with pytest.raises(NotLookedYet, match="Nobody has looked for edited copies"):
        grouped(acme, {Level.EDITED})
    search = DuplicateSearch.objects.ask(acme, edited=True)
    assert search.start()
    carry_out(search)
    assert grouped(acme, {Level.EDITED}) == []


def test_a_company_that_nobody_has_looked_through_is_left_alone_by_builds(acme: Company) -> None:
    save(acme, "d.png", drawn(BLUE))
    rebuild(acme)
    assert not acme.duplicate_searches.exists()


def test_a_build_that_changes_nothing_asks_for_no_search(acme: Company) -> None:
    look(acme)
    rebuild(acme)
    assert not acme.duplicate_searches.active().exists()


def test_an_index_that_is_replaced_while_it_is_looked_through_does_no_harm(acme: Company) -> None:
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()

    def replace() -> bool:
        if not acme.builds.filter(pk__gt=first.pk).exists():
            save(acme, "d.png", drawn(BLUE))
            (acme.image_directory / "b.png").unlink()
            rebuild(acme)
            rebuild(acme)
        return False

    first = acme.builds.get()
    carry_out(search, others_wait=replace)
    assert grouped(acme) == []
    look(acme)
    assert grouped(acme) == [["c.png", "d.png"]]


def test_a_search_that_gives_way_goes_on_from_what_it_has_found(acme: Company) -> None:
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()
    with pytest.raises(StopRequested):
        carry_out(search, others_wait=lambda: True)
    search.refresh_from_db()
    assert (search.status, search.attempts) == (Status.QUEUED, 0)
    assert search.start()
    carry_out(search)
    assert grouped(acme) == [["a.png", "b.png"]]


def test_a_search_that_begins_anew_tells_nothing_until_its_end(acme: Company) -> None:
    look(acme)
    duplicates_file(acme.embeddings_directory).unlink()
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()
    with pytest.raises(StopRequested):
        carry_out(search, others_wait=lambda: True)
    with pytest.raises(NotLookedYet, match="are being looked for"):
        grouped(acme)
    assert search.start()
    carry_out(search)
    assert grouped(acme) == [["a.png", "b.png"]]


def test_new_pictures_that_are_being_looked_at_hide_nothing(acme: Company) -> None:
    look(acme)
    put(acme, "d.png", BLUE)
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()
    with pytest.raises(StopRequested):
        carry_out(search, others_wait=lambda: True)
    assert ["a.png", "b.png"] in grouped(acme)


def test_a_search_that_is_cancelled_keeps_what_it_has_found_to_itself(acme: Company) -> None:
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()
    with pytest.raises(JobCancelled):
        carry_out(search, others_wait=lambda: DuplicateSearch.objects.get().cancel())
    with pytest.raises(NotLookedYet):
        grouped(acme)


@pytest.mark.django_db(transaction=True)
def test_a_company_that_is_deleted_meanwhile_leaves_nothing_behind(acme: Company) -> None:
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()

    def remove() -> bool:
        delete_company(Company.objects.get(), by=on_command_line(), remove_index=True)
        return False

    directory = acme.embeddings_directory
    with pytest.raises(JobCancelled, match="acme was deleted"):
        carry_out(search, others_wait=remove)
    assert not home(directory).exists()


def test_a_company_without_an_index_fails_its_search_in_words(db: None) -> None:
    acme = Company.objects.create(name="acme")
    search = DuplicateSearch.objects.ask(acme)
    assert search.start()
    with pytest.raises(IndexNotBuilt):
        carry_out(search)
    search.refresh_from_db()
    assert (search.status, search.error) == (
        Status.FAILED,
        "acme has no index yet, and so nothing to compare: build it first",
    )


def test_what_somebody_has_said_is_none_is_in_no_group(db: None, embedder: FakeEmbedder) -> None:
    acme = company_of("acme", dict.fromkeys(("a.png", "b.png", "c.png"), drawn(RED)))
    look(acme)
    [[leader, *others]] = grouped(acme)
    ids = {record.path: record.id for record in overlay.live_index(acme).page(0, 9)[0]}
    pairs = [(ids[others[0]], ids[each]) for each in (leader, others[1])]
    NotDuplicates.objects.add(acme, pairs, paths=[others[0]], by=on_command_line())
    assert sorted(map(sorted, grouped(acme))) == [sorted([leader, others[1]])]
    NotDuplicates.objects.undo(acme, acme.not_duplicates.first().decision, by=on_command_line(), paths=[])
    assert grouped(acme) == [[leader, *others]]
