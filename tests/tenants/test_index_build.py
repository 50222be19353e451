from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, connection, connections, transaction
from django.db.models.functions import Now

from tenants.audit import Actor, Channel, on_command_line
from tenants.models import Company, IndexBuild, JobCancelled, LeaseLost
from tenants.signals import build_queued
from tests.support.processes import Site

Status = IndexBuild.Status
THREADS = 8


@pytest.fixture
def acme(db: None) -> Company:
    return Company.objects.create(name="acme")


def running(company: Company) -> IndexBuild:
    build = company.queue_build()
    assert build.start()
    return build


def expire(build: IndexBuild) -> None:
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at=Now() - timedelta(days=1))


def taken_over(build: IndexBuild) -> IndexBuild:
    """Let another worker take the build over, and return it as that worker sees it."""
    expire(build)
    other = IndexBuild.objects.get(pk=build.pk)
    assert other.start()
    return other


def row(build: IndexBuild) -> dict[str, Any]:
    return IndexBuild.objects.filter(pk=build.pk).values().get()


# Queue --------------------------------------------------------------------------------------------------------------


def test_asking_again_returns_the_build_that_is_queued(acme: Company) -> None:
    assert acme.queue_build().pk == acme.queue_build().pk
    assert acme.builds.count() == 1


def test_asking_again_returns_the_build_that_is_running(acme: Company) -> None:
    build = running(acme)
    assert acme.queue_build(full=True).pk == build.pk
    build.refresh_from_db()
    assert not build.full  # too late for this one


def test_a_queued_build_takes_up_what_is_asked_for_later(acme: Company) -> None:
    build = acme.queue_build(checksum=True)
    acme.queue_build(full=True)
    acme.queue_build()
    build.refresh_from_db()
    assert (build.full, build.checksum, build.allow_empty) == (True, True, False)


def test_a_build_that_is_over_makes_room_for_a_new_one(acme: Company) -> None:
    build = running(acme)
    build.succeed()
    assert acme.queue_build().pk != build.pk


def test_companies_do_not_wait_for_each_other(acme: Company) -> None:
    globex = Company.objects.create(name="globex")
    assert running(acme).pk != running(globex).pk


@pytest.mark.parametrize("first", [Status.QUEUED, Status.RUNNING])
@pytest.mark.parametrize("second", [Status.QUEUED, Status.RUNNING])
def test_the_database_refuses_a_second_active_build(acme: Company, first: str, second: str) -> None:
    IndexBuild.objects.create(company=acme, status=first)
    with pytest.raises(IntegrityError), transaction.atomic():
        IndexBuild.objects.create(company=acme, status=second)


@pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_any_number_of_builds_may_be_over(acme: Company, status: str) -> None:
    for _ in range(3):
        IndexBuild.objects.create(company=acme, status=status)
    acme.queue_build()


# Lease --------------------------------------------------------------------------------------------------------------


def test_start_gives_the_caller_a_lease_and_counts_the_attempt(acme: Company) -> None:
    build = running(acme)
    stored = row(build)
    assert (stored["status"], stored["attempts"], stored["lease"]) == (Status.RUNNING, 1, build.lease)
    assert stored["heartbeat_at"] == stored["started_at"] is not None


def test_a_running_build_is_not_to_be_had(acme: Company) -> None:
    build = running(acme)
    before = row(build)
    assert not IndexBuild.objects.get(pk=build.pk).start()
    assert row(build) == before


def test_a_build_without_heartbeat_is_taken_over(acme: Company, settings: Any) -> None:
    settings.BUILD_LEASE_SECONDS = 60
    build = running(acme)
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at=Now() - timedelta(seconds=55))
    assert not IndexBuild.objects.get(pk=build.pk).start()
    IndexBuild.objects.filter(pk=build.pk).update(heartbeat_at=Now() - timedelta(seconds=65))
    other = IndexBuild.objects.get(pk=build.pk)
    assert other.start()
    assert (other.attempts, other.started_at) == (2, build.started_at)
    assert other.lease != build.lease


def test_a_heartbeat_keeps_the_build(acme: Company) -> None:
    build = running(acme)
    expire(build)
    build.beat(images_found=7)
    assert not IndexBuild.objects.get(pk=build.pk).start()
    assert row(build)["images_found"] == 7


def hold(build: IndexBuild) -> None:
    with build.hold():
        pytest.fail("the build was not the caller's to publish")


WRITES: list[Any] = [
    pytest.param(lambda build: build.beat(images_found=99), id="beat"),
    pytest.param(hold, id="hold"),
    pytest.param(lambda build: build.succeed(total_images=99), id="succeed"),
    pytest.param(lambda build: build.fail("no"), id="fail"),
    pytest.param(lambda build: build.hand_back(), id="hand_back"),
    pytest.param(lambda build: build.abandon(), id="abandon"),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_worker_that_slept_through_a_takeover_changes_nothing(
    acme: Company, write: Callable[[IndexBuild], None]
) -> None:
    sleeper = running(acme)
    other = taken_over(sleeper)
    before = row(other)
    with pytest.raises(LeaseLost, match="build of acme is no longer this worker's"):
        write(sleeper)
    assert row(other) == before


@pytest.mark.parametrize("write", WRITES)
def test_a_worker_that_slept_until_the_build_was_over_changes_nothing(
    acme: Company, write: Callable[[IndexBuild], None]
) -> None:
    sleeper = running(acme)
    other = taken_over(sleeper)
    other.succeed(total_images=5)
    before = row(other)
    with pytest.raises(LeaseLost):
        write(sleeper)
    assert row(other) == before


@pytest.mark.parametrize("write", WRITES)
def test_the_worker_of_a_cancelled_build_is_told_and_changes_nothing(
    acme: Company, write: Callable[[IndexBuild], None]
) -> None:
    build = running(acme)
    assert IndexBuild.objects.get(pk=build.pk).cancel()
    before = row(build)
    with pytest.raises(JobCancelled, match="build of acme was cancelled"):
        write(build)
    assert row(build) == before


def test_hold_undoes_what_was_written_in_it_when_the_publication_fails(acme: Company) -> None:
    build = running(acme)

    def publish() -> None:
        with build.hold():
            acme.next_live_sequence(at_least=0)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        publish()
    acme.refresh_from_db()
    assert acme.live_sequence == 0


# Outcomes -----------------------------------------------------------------------------------------------------------


def test_a_queued_build_is_cancelled(acme: Company) -> None:
    build = acme.queue_build()
    assert build.cancel()
    assert (build.status, build.finished_at is not None) == (Status.CANCELLED, True)
    assert not build.start()


def test_a_build_that_is_over_cannot_be_cancelled(acme: Company) -> None:
    build = running(acme)
    build.succeed(total_images=5)
    assert not build.cancel()
    assert row(build)["status"] == Status.SUCCEEDED


def test_a_build_that_lost_three_workers_fails_and_says_so(acme: Company) -> None:
    build = running(acme)
    for attempt in (2, 3):
        build = taken_over(build)
        assert build.attempts == attempt
    expire(build)
    assert not build.start()
    assert build.status == Status.FAILED
    assert build.error.startswith("Given up: the worker was lost 3 times")
    assert build.finished_at is not None
    assert acme.queue_build().start()


def test_a_third_attempt_that_lives_is_not_given_up(acme: Company) -> None:
    build = taken_over(taken_over(running(acme)))
    assert not IndexBuild.objects.get(pk=build.pk).start()
    build.succeed()
    assert row(build)["status"] == Status.SUCCEEDED


def test_handing_back_does_not_count_as_an_attempt(acme: Company) -> None:
    build = acme.queue_build()
    for _ in range(5):
        assert build.start()
        build.hand_back()
        build.refresh_from_db()
        assert (build.status, build.attempts) == (Status.QUEUED, 0)
    assert build.start()


def test_progress_is_told_in_per_cent(acme: Company) -> None:
    build = acme.queue_build()
    assert build.percent == 0
    build.images_found, build.images_embedded, build.images_reused, build.images_skipped = 200, 30, 60, 10
    assert build.percent == 50


def test_an_instance_that_knows_an_old_state_cannot_be_saved_over_the_row(acme: Company) -> None:
    old = acme.queue_build()
    assert IndexBuild.objects.get(pk=old.pk).cancel()
    with pytest.raises(TypeError, match="is changed by its own methods"):
        old.save()
    assert row(old)["status"] == Status.CANCELLED


# Races, on each database --------------------------------------------------------------------------------------------


def in_threads(act: Callable[[], Any], threads: int = THREADS) -> list[Any]:
    """Return what act gives in many threads at once."""
    barrier = Barrier(threads)

    def run(_: int) -> Any:
        barrier.wait()
        try:
            return act()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(run, range(threads)))


def test_one_of_many_claims_a_queued_build(site: Site) -> None:
    build = Company.objects.create(name="acme").queue_build()
    claims = in_threads(lambda: IndexBuild.objects.get(pk=build.pk).start())
    assert sorted(claims) == [False] * (THREADS - 1) + [True]
    assert row(build)["attempts"] == 1


def test_one_of_many_takes_over_a_build_without_heartbeat(site: Site) -> None:
    build = running(Company.objects.create(name="acme"))
    site.lease_seconds = 60
    expire(build)
    claims = in_threads(lambda: IndexBuild.objects.get(pk=build.pk).start())
    assert sorted(claims) == [False] * (THREADS - 1) + [True]
    assert row(build)["attempts"] == 2


def test_many_who_ask_at_once_get_the_same_build(site: Site) -> None:
    acme = Company.objects.create(name="acme")
    builds = in_threads(lambda: acme.queue_build().pk)
    assert len(set(builds)) == 1
    assert acme.builds.count() == 1


def test_a_build_cannot_be_cancelled_while_it_publishes(site: Site) -> None:
    build = running(Company.objects.create(name="acme"))
    order: list[str] = []

    def cancel() -> None:
        try:
            IndexBuild.objects.get(pk=build.pk).cancel()
            order.append("cancelled")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        with build.hold():
            cancelling = pool.submit(cancel)
            with pytest.raises(TimeoutError):
                cancelling.result(timeout=0.3)
            order.append("published")
        cancelling.result(timeout=60)
    assert order == ["published", "cancelled"]


# What is asked for while a build runs ---------------------------------------------------------------------------------


def wishes(build: IndexBuild) -> tuple[bool, bool, bool]:
    return build.full, build.checksum, build.allow_empty


@pytest.mark.parametrize("wish", ["full", "checksum", "allow_empty"])
def test_what_is_asked_for_while_a_build_runs_follows_it(acme: Company, wish: str) -> None:
    build = running(acme)
    assert acme.queue_build() == build
    assert acme.queue_build(**{wish: True}) == build
    assert acme.queue_build() == build
    build.succeed()
    following = acme.builds.active().get()
    assert wishes(following) == (wish == "full", wish == "checksum", wish == "allow_empty")


def test_all_that_is_asked_for_while_a_build_runs_follows_in_one_build(acme: Company) -> None:
    build = running(acme)
    acme.queue_build(checksum=True)
    acme.queue_build(allow_empty=True)
    build.fail("no")
    assert wishes(acme.builds.active().get()) == (False, True, True)


def test_a_plain_build_asked_for_while_one_runs_follows_it(acme: Company) -> None:
    build = running(acme)
    acme.queue_build()
    build.succeed()
    assert wishes(acme.builds.active().get()) == (False, False, False)


def test_nothing_follows_a_build_that_nobody_has_asked_more_of(acme: Company) -> None:
    running(acme).succeed()
    assert not acme.builds.active().exists()


def test_a_fold_asked_for_while_a_build_runs_does_not_follow_it(acme: Company) -> None:
    build = running(acme)
    assert acme.queue_build(fold=True) == build
    build.succeed()
    assert not acme.builds.active().exists()


def test_the_build_that_follows_names_who_has_asked_for_it(acme: Company) -> None:
    ann, bob = (Actor(name, Channel.ADMIN, User.objects.create_user(name)) for name in ("ann", "bob"))
    build = acme.queue_build(by=ann)
    assert build.start()
    acme.queue_build(by=on_command_line())  # of whom the database knows no user
    acme.queue_build(by=bob)
    build.succeed()
    assert (build.requested_by, acme.builds.active().get().requested_by) == (ann.user, bob.user)


def test_the_worker_that_takes_over_does_what_was_asked_for_meanwhile(acme: Company) -> None:
    lost = running(acme)
    acme.queue_build(checksum=True)
    acme.queue_build(allow_empty=True)
    other = taken_over(lost)
    assert wishes(other) == (False, True, True)
    other.succeed()
    assert not acme.builds.active().exists()


def test_a_fold_that_is_taken_over_becomes_the_build_asked_for_meanwhile(acme: Company) -> None:
    lost = acme.queue_build(fold=True)
    assert lost.start()
    acme.queue_build()
    assert not taken_over(lost).fold


def test_who_takes_over_a_build_of_another_folder_does_what_was_asked_for_with_the_companys_own(acme: Company) -> None:
    lost = running(acme)
    lost.beat(image_folder="/mnt/other", checksum=True, allow_empty=True)
    acme.queue_build(full=True)
    other = taken_over(lost)
    assert other.image_folder == ""
    assert wishes(other) == (True, True, False)  # that the other folder might be empty says nothing of this one


def test_a_build_that_is_given_up_is_followed_by_what_was_asked_for(acme: Company) -> None:
    build = taken_over(taken_over(running(acme)))
    acme.queue_build(checksum=True)
    expire(build)
    assert not build.start()
    assert build.status == Status.FAILED
    assert wishes(acme.builds.active().get()) == (False, True, False)


def test_who_cancels_a_build_cancels_what_was_to_follow_it_and_the_row_says_so(acme: Company) -> None:
    build = running(acme)
    acme.queue_build(full=True)
    assert build.cancel()
    assert not acme.builds.active().exists()
    assert build.error == "Cancelled together with the build that was to follow: all pictures"


def test_a_process_that_is_stopped_leaves_what_was_asked_for_meanwhile(acme: Company) -> None:
    build = running(acme)
    acme.queue_build(full=True)
    build.abandon()
    assert row(build)["status"] == Status.CANCELLED
    assert acme.builds.active().get().full


def test_a_build_does_not_end_without_the_one_that_follows(acme: Company) -> None:
    build = running(acme)
    acme.queue_build(full=True)

    def break_off(**_: Any) -> None:
        raise SystemExit

    build_queued.connect(break_off)
    try:
        with pytest.raises(SystemExit):
            build.succeed()
    finally:
        build_queued.disconnect(break_off)
    assert row(build)["status"] == Status.RUNNING
    build.succeed()
    assert acme.builds.active().get().full


def test_what_is_asked_for_at_the_moment_a_build_is_handed_back_is_not_lost(acme: Company) -> None:
    build = running(acme)
    updates: list[str] = []

    def hand_back_after_the_first(execute: Any, sql: str, *rest: Any) -> Any:
        result = execute(sql, *rest)
        if sql.startswith("UPDATE"):
            updates.append(sql)
            if len(updates) == 1:
                build.hand_back()
        return result

    with connection.execute_wrapper(hand_back_after_the_first):
        acme.queue_build(full=True)
    assert build.start()
    assert build.full


def test_of_many_who_ask_at_once_while_a_build_runs_none_is_forgotten(site: Site) -> None:
    acme = Company.objects.create(name="acme")
    build = running(acme)
    asked = iter([{"full": True}, {"checksum": True}, {"allow_empty": True}, *[{}] * (THREADS - 3)])
    in_threads(lambda: acme.queue_build(**next(asked)))
    build.succeed()
    assert wishes(acme.builds.active().get()) == (True, True, True)


def test_a_wish_at_the_end_of_a_build_is_carried_out(site: Site) -> None:
    """Whether it comes before the end or after it: of twenty builds that end while somebody asks, each is followed."""
    acme = Company.objects.create(name="acme")
    for _ in range(20):
        acts = iter([running(acme).succeed, lambda: acme.queue_build(checksum=True)])
        in_threads(lambda acts=acts: next(acts)(), threads=2)  # type: ignore[misc]
        following = acme.builds.active().get()
        assert wishes(following) == (False, True, False)
        following.cancel()
