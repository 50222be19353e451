from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connections
from django.db.models.functions import Now

from tenants.models import BuildUnit, Company, IndexBuild, LeaseLost
from tests.support.processes import Site

Status = BuildUnit.Status
THREADS = 8


@pytest.fixture
def build(db: None) -> IndexBuild:
    return offering("acme", 3)


def offering(name: str, units: int) -> IndexBuild:
    """Return the running build of a new company, cut into so many units of ten pictures."""
    build = Company.objects.create(name=name).queue_build()
    assert build.start()
    offer(build, *(f"{name}{number}" for number in range(units)))
    return build


def offer(build: IndexBuild, *names: str) -> None:
    BuildUnit.objects.offer(build, dict.fromkeys(names, 10), fingerprint="f1")
    build.beat(units_total=len(names))


def claim() -> BuildUnit:
    unit = BuildUnit.objects.claim()
    assert unit is not None
    return unit


def expire(unit: BuildUnit) -> None:
    BuildUnit.objects.filter(pk=unit.pk).update(heartbeat_at=Now() - timedelta(days=1))


def succeed(unit: BuildUnit) -> None:
    unit.succeed(result=f"{unit.name}.{unit.lease}", sha256="5" * 64, embedded=9, skipped=1)


def row(unit: BuildUnit) -> BuildUnit:
    return BuildUnit.objects.get(pk=unit.pk)


def test_units_are_claimed_in_order_and_each_by_one_worker(build: IndexBuild) -> None:
    first, second, third = claim(), claim(), claim()
    assert [first.name, second.name, third.name] == ["acme0", "acme1", "acme2"]
    assert len({first.lease, second.lease, third.lease}) == 3
    assert BuildUnit.objects.claim() is None


def test_a_claim_takes_the_build_that_the_fewest_workers_help(build: IndexBuild) -> None:
    offering("globex", 3)
    names = [claim().name for _ in range(4)]
    assert sorted(names) == ["acme0", "acme1", "globex0", "globex1"]


def test_a_build_that_the_worker_cannot_help_is_passed_over(build: IndexBuild) -> None:
    globex = offering("globex", 1)
    unit = BuildUnit.objects.claim(but=[build.pk])
    assert unit is not None
    assert unit.build == globex
    assert BuildUnit.objects.claim(but=[build.pk]) is None


def test_a_unit_whose_worker_is_lost_is_made_again_after_the_others(build: IndexBuild) -> None:
    lost = claim()
    expire(lost)
    assert [claim().name for _ in range(3)] == ["acme1", "acme2", "acme0"]
    assert row(lost).attempts == 2


@pytest.mark.parametrize("write", [BuildUnit.beat, succeed, BuildUnit.hand_back, lambda unit: unit.fail("late")])
def test_a_worker_that_slept_changes_nothing_in_a_unit_that_another_makes(
    build: IndexBuild, write: Callable[[BuildUnit], None]
) -> None:
    sleeper = claim()
    expire(sleeper)
    others = [claim(), claim(), claim()]
    with pytest.raises(LeaseLost, match="acme0 of build"):
        write(sleeper)
    assert row(sleeper).lease == others[2].lease
    assert row(sleeper).status == Status.RUNNING


def test_a_unit_that_is_handed_back_does_not_count_an_attempt(build: IndexBuild) -> None:
    claim().hand_back()
    again = claim()
    assert (again.name, again.attempts) == ("acme0", 1)


def test_a_unit_that_fails_three_times_fails_for_good_with_the_last_reason(build: IndexBuild) -> None:
    for attempt in (1, 2, 3):
        unit = claim()
        assert (unit.name, unit.attempts) == ("acme0", attempt)
        unit.fail(f"reason {attempt}")
    assert claim().name == "acme1"
    assert (row(unit).status, row(unit).error) == (Status.FAILED, "reason 3")


def test_a_unit_that_loses_three_workers_fails_for_good(build: IndexBuild) -> None:
    BuildUnit.objects.exclude(name="acme0").delete()
    for _ in range(3):
        expire(claim())
    assert BuildUnit.objects.claim() is None
    assert BuildUnit.objects.get().status == Status.FAILED
    assert "worker was lost" in BuildUnit.objects.get().error


def test_a_result_that_cannot_be_used_counts_as_a_failed_attempt(build: IndexBuild) -> None:
    for attempt in (1, 2, 3):
        unit = claim()
        assert (unit.name, unit.attempts) == ("acme0", attempt)
        succeed(unit)
        row(unit).refuse("it is torn")
    assert (row(unit).status, row(unit).error) == (Status.FAILED, "it is torn")


def test_offering_again_keeps_what_is_done_and_in_hand(build: IndexBuild) -> None:
    done, in_hand = claim(), claim()
    succeed(done)
    offer(build, "acme0", "acme1", "fresh")
    in_hand.beat()
    assert row(done).status == Status.SUCCEEDED
    assert [unit.name for unit in BuildUnit.objects.order_by("name")] == ["acme0", "acme1", "fresh"]


def test_a_unit_that_is_offered_no_more_is_no_longer_its_workers(build: IndexBuild) -> None:
    unit = claim()
    offer(build, "fresh")
    with pytest.raises(LeaseLost):
        unit.beat()


@pytest.mark.parametrize(
    "end", [IndexBuild.succeed, IndexBuild.cancel, lambda build: build.fail("no"), lambda build: build.company.delete()]
)
def test_the_units_of_a_build_that_is_over_are_gone(build: IndexBuild, end: Callable[[IndexBuild], Any]) -> None:
    unit = claim()
    end(build)
    assert not BuildUnit.objects.exists()
    with pytest.raises(LeaseLost):
        succeed(unit)


def test_workers_go_on_with_the_units_of_a_build_whose_publisher_was_stopped(build: IndexBuild) -> None:
    build.hand_back()
    assert claim().name == "acme0"


@pytest.mark.slow
def test_many_who_claim_at_once_share_the_units(site: Site) -> None:
    offering("acme", 3 * THREADS)
    together = Barrier(THREADS)

    def work() -> list[str]:
        together.wait()
        try:
            return [claim().name for _ in range(3)]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(THREADS) as threads:
        claimed = [name for each in [threads.submit(work) for _ in range(THREADS)] for name in each.result()]
    assert sorted(claimed) == sorted(f"acme{number}" for number in range(3 * THREADS))
