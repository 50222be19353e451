"""What the workers carry out."""

import logging
from contextlib import suppress
from datetime import timedelta
from functools import partial

from django.conf import settings
from django.db.models import Count, Min, Q
from django.db.models.functions import Now
from django.utils import timezone
from django_tasks import task
from django_tasks.base import Task
from django_tasks_db.models import DBTaskResult

from search import publication, runtime
from search.builds import run_build
from search.companies import duplicates, model_change, removal
from search.engine.errors import EngineError, LoadingStopped, StoreUnavailable
from search.monitoring.observation import observing
from search.outages import outlasting
from search.stopping import StopRequested
from search.unit_work import embed_units
from search.units import drop_place
from tenants.models import BuildUnit, Company, DuplicateSearch, IndexBuild, Job, JobStopped

logger = logging.getLogger(__name__)

# A fold writes the whole index anew, so it waits until the changes are worth it. Until then every search scans them.
FOLD_AT_ONCE = 1000  # changes, or where that is more
FOLD_AT_ONCE_SHARE = 200  # one for so many pictures of the index
FOLD_SOON_SHARE = 1000  # one for so many: after FOLD_SECONDS
FOLD_AT_LAST = timedelta(days=1)

# Priorities; all other tasks have 0.
_LATER = -10  # a search for duplicates
_HELP = -20  # units of builds, which last for hours or days: whoever has nothing else to do embeds them
_LATE = timedelta(minutes=1)  # a task that is so much overdue was lost with its worker; less is no reason to plan anew


@task()
@outlasting
def carry_out_build(build_id: int) -> None:
    """Run a build if it can be claimed, and check on it again after a lease in case its worker is lost.

    The queue does not give out again a task whose worker was killed, so while a build is active there is always one
    more task that looks after it.
    """
    build = IndexBuild.objects.select_related("company").filter(pk=build_id).first()
    if build is None:
        return
    if not build.is_active:
        _clear_away(build)
        return
    _look_again_later(carry_out_build, build)
    try:
        runtime.embedder()  # may be downloaded and exported: before the lease begins to run
    except LoadingStopped:
        return  # the next worker's
    except EngineError:
        pass  # the build meets it again and records it
    if build.start():
        # Handed back, cancelled, or another worker's by now: the row tells.
        with suppress(StopRequested, JobStopped), observing(build=build.pk):
            run_build(build)


@task(priority=_LATER)
@outlasting
def carry_out_duplicate_search(search_id: int) -> None:
    """Look for a company's duplicates if the search can be claimed, and check on it again as on a build.

    It takes minutes to hours, and so lets all other tasks go first.
    """
    search = DuplicateSearch.objects.select_related("company").filter(pk=search_id).first()
    if search is None or not search.is_active:
        return
    _look_again_later(carry_out_duplicate_search, search)
    if search.start():
        with suppress(StopRequested, JobStopped), observing(duplicate_search=search.pk):
            duplicates.carry_out(search, others_wait=_others_wait)


@task(priority=_HELP)
@outlasting
def help_with_builds() -> None:
    """Embed units of builds that other workers publish until there are none, or another task waits.

    A free worker each embeds them; whoever has found one to embed asks for the next worker.
    """
    with suppress(LoadingStopped, StopRequested):
        embed_units(others_wait=partial(_others_wait, _HELP), call_for_help=call_for_help)


def call_for_help() -> None:
    """Have a free worker embed units, unless one is asked already."""
    asked = DBTaskResult.objects.ready().filter(task_path=help_with_builds.module_path)
    if help_with_builds.get_backend().supports_defer and not asked.exists():
        help_with_builds.enqueue()


def number_waiting() -> int:
    """Return how many tasks are ready for a worker; a call for help, which waits as long as a large build, is none."""
    return DBTaskResult.objects.ready().exclude(task_path=help_with_builds.module_path).count()


def _others_wait(priority: int = _LATER) -> bool:
    """Return whether a task waits for a worker that is not to wait for one of this priority."""
    return DBTaskResult.objects.ready().filter(priority__gt=priority).exists()


@task()
@outlasting
def fold_live_changes(company_id: int) -> None:
    """Queue the build that makes the live changes part of the index once they are worth it; until then, come back."""
    company = Company.objects.filter(pk=company_id).first()
    if company is None:
        return
    Company.objects.filter(pk=company_id).update(fold_planned_at=None)
    wait = _time_until_fold(company)
    if wait is None:
        return
    if wait > timedelta(0) or company.builds.active().exists() or _has_failed_lately(company):
        _plan(company, max(wait, timedelta(seconds=settings.FOLD_SECONDS)))
    else:
        company.queue_build(fold=True)


def plan_fold(company: Company) -> None:
    """See to it that the company's live changes become part of its index in time.

    While there are changes that the index lacks, a task waits for them or a build is on its way, whatever became of
    the ones before.
    """
    company.refresh_from_db(fields=publication.STATE)
    wait = _time_until_fold(company)
    if wait is None:
        return
    if _has_failed_lately(company):
        wait = max(wait, timedelta(seconds=settings.FOLD_SECONDS))
    if wait <= timedelta(0) or not fold_live_changes.get_backend().supports_defer:
        company.queue_build(fold=True)
    else:
        _plan(company, wait)


def look_after_companies() -> None:
    """Do what is left to do after a crash of all workers: active builds, folds, rows and links that the disk belies."""
    publication.repair()
    publication.collect_leftovers()
    removal.finish_removals()
    for build in IndexBuild.objects.active():
        carry_out_build.enqueue(build.pk)
    for search in DuplicateSearch.objects.active():
        carry_out_duplicate_search.enqueue(search.pk)
    BuildUnit.objects.exclude(build__in=IndexBuild.objects.active()).delete()
    if BuildUnit.objects.exists():
        call_for_help()
    for company in Company.objects.filter(live_changes__isnull=False).distinct():
        with suppress(EngineError):  # that of one company, which its searches and the admin tell of
            plan_fold(company)
    model_change.move_demo()
    model_change.look_after_weights()


def _clear_away(build: IndexBuild) -> None:
    """Remove what the workers of a build that is over have left, where nobody was there to do it: a killed one's."""
    if build.status == IndexBuild.Status.SUCCEEDED:
        return
    try:
        drop_place(build)
    except StoreUnavailable as error:
        logger.warning("What the units of build %s have left stays: %s", build.pk, error)


def _time_until_fold(company: Company) -> timedelta | None:
    """Return how long the live changes that the index lacks may wait; None where there are none."""
    changes = publication.missing_changes(company).aggregate(number=Count("pk"), oldest=Min("changed_at"))
    if not changes["number"]:
        return None
    used = publication.model_in_use(company)
    if used and publication.missing_changes(company).lacking(used.fingerprint).exists():
        return timedelta(0)  # searches hide them until a fold has embedded them
    due = fold_due(changes["number"], pictures=publication.count_pictures(company))
    return due - (timezone.now() - changes["oldest"])


def fold_due(changes: int, *, pictures: int) -> timedelta:
    """Return how old the oldest of so many live changes may become in an index of so many pictures."""
    if changes >= max(FOLD_AT_ONCE, pictures // FOLD_AT_ONCE_SHARE):
        return timedelta(0)
    if changes >= pictures // FOLD_SOON_SHARE:
        return timedelta(seconds=settings.FOLD_SECONDS)
    return max(FOLD_AT_LAST, timedelta(seconds=settings.FOLD_SECONDS))


def _has_failed_lately(company: Company) -> bool:
    """Return whether the last build failed a moment ago: a fold at once would only fail again."""
    last = company.builds.first()
    lately = timezone.now() - timedelta(seconds=settings.FOLD_SECONDS)
    return bool(last and last.status == IndexBuild.Status.FAILED and last.finished_at and last.finished_at > lately)


def _plan(company: Company, wait: timedelta) -> None:
    """Let a task look at the company's changes after that time, unless one does so before."""
    unplanned = (
        Q(fold_planned_at=None) | Q(fold_planned_at__lt=Now() - _LATE) | Q(fold_planned_at__gt=Now() + wait + _LATE)
    )
    planned_at = timezone.now() + wait
    if Company.objects.filter(unplanned, pk=company.pk).update(fold_planned_at=planned_at):
        fold_live_changes.using(run_after=planned_at).enqueue(company.pk)


def _look_again_later(carry_out: Task[[int], None], job: Job) -> None:
    if carry_out.get_backend().supports_defer:
        later = timezone.now() + timedelta(seconds=settings.BUILD_LEASE_SECONDS + 1)
        carry_out.using(run_after=later).enqueue(job.pk)
