"""Searches for duplicates in the queue, and what somebody has said are none. What jobs share is tested with builds."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db.models.functions import Now

from tenants.audit import Actor, Channel
from tenants.models import AuditEvent, Company, DuplicateSearch, JobCancelled, NotDuplicates
from tenants.signals import duplicate_search_queued

Status = DuplicateSearch.Status
searches = DuplicateSearch.objects


@pytest.fixture
def acme(db: None) -> Company:
    return Company.objects.create(name="acme")


@pytest.fixture
def ann(db: None) -> Actor:
    return Actor("ann", Channel.ADMIN, User.objects.create(username="ann"))


@pytest.fixture
def handed_over() -> Iterator[list[int]]:
    """The searches that were handed to the workers, as it happens."""
    received: list[int] = []

    def note(sender: object, *, search: DuplicateSearch, **_: object) -> None:
        received.append(search.pk)

    duplicate_search_queued.connect(note, weak=False)
    yield received
    duplicate_search_queued.disconnect(note)


def audited() -> list[tuple[str, str]]:
    return [(event.action, event.detail) for event in AuditEvent.objects.order_by("pk")]


def running(company: Company, **wishes: bool) -> DuplicateSearch:
    search = searches.ask(company, **wishes)
    assert search.start()
    return search


def test_a_search_that_is_queued_is_enough(acme: Company, handed_over: list[int]) -> None:
    assert searches.ask(acme).pk == searches.ask(acme).pk
    assert handed_over == [searches.get().pk]


def test_asked_for_while_one_runs_another_follows_it(acme: Company, ann: Actor) -> None:
    search = running(acme)
    for _ in range(2):
        assert searches.ask(acme, by=ann).pk == search.pk
    search.succeed()
    follower = searches.active().get()
    assert follower.pk != search.pk
    assert audited() == [("duplicates asked for", f"after search for duplicates {search.pk}")] * 2


def test_only_a_search_for_edited_copies_reads_pictures_and_what_follows_is_of_its_kind(acme: Company) -> None:
    assert searches.ask(acme).edited
    searches.all().delete()
    search = running(acme, edited=False)
    searches.ask(acme)
    search.succeed()
    assert not searches.active().get().edited


def test_a_queued_search_takes_up_what_is_asked_for_later(acme: Company) -> None:
    searches.ask(acme, edited=False)
    assert searches.ask(acme, edited=True).edited
    assert searches.ask(acme, edited=False).edited


def test_an_attempt_after_a_lost_one_looks_at_everything_and_nothing_follows(acme: Company) -> None:
    search = running(acme)
    searches.ask(acme)
    searches.update(heartbeat_at=Now() - timedelta(days=1))
    assert search.start()
    search.succeed()
    assert searches.count() == 1


def test_cancelling_cancels_what_was_to_follow(acme: Company, ann: Actor) -> None:
    search = running(acme)
    searches.ask(acme)
    assert search.cancel(by=ann)
    assert not searches.active().exists()
    assert audited() == [("duplicates cancelled", f"search for duplicates {search.pk}")]
    with pytest.raises(JobCancelled):
        search.beat()


def test_companies_do_not_wait_for_each_other(acme: Company) -> None:
    globex = Company.objects.create(name="globex")
    assert running(acme).pk != running(globex).pk


@pytest.mark.django_db(transaction=True)
def test_a_company_that_was_deleted_has_no_search() -> None:
    acme = Company.objects.create(name="acme")
    Company.objects.all().delete()
    with pytest.raises(Company.DoesNotExist):
        searches.ask(acme)


@pytest.mark.parametrize("order", [tuple, reversed])
def test_a_pair_is_remembered_once_whichever_comes_first(
    acme: Company, ann: Actor, order: Callable[..., tuple[str, str]]
) -> None:
    pair = tuple(order(("a", "b")))
    for _ in range(2):
        NotDuplicates.objects.add(acme, [pair], paths=["a.png", "b.png"], by=ann)
    assert acme.not_duplicates.pairs() == {("a", "b")}
    assert acme.not_duplicates.get().by == "ann"


def test_a_decision_is_undone_as_a_whole_and_for_its_company_alone(acme: Company, ann: Actor) -> None:
    globex = Company.objects.create(name="globex")
    NotDuplicates.objects.add(acme, [("a", "b"), ("a", "c")], paths=["a.png"], by=ann)
    NotDuplicates.objects.add(acme, [("d", "e")], paths=["d.png"], by=ann)
    decision = acme.not_duplicates.filter(first_id="a").first().decision
    assert not NotDuplicates.objects.undo(globex, decision, paths=[], by=ann)
    assert NotDuplicates.objects.undo(acme, decision, paths=["a.png"], by=ann)
    assert acme.not_duplicates.pairs() == {("d", "e")}
    assert audited()[-1] == ("duplicates after all", "a.png")
