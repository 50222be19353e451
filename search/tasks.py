"""What the workers carry out."""

from contextlib import suppress
from datetime import timedelta

from django.conf import settings
from django.utils import timezone
from django_tasks import task

from search import runtime
from search.builds import StopRequested, run_build
from search.engine.errors import EngineError
from search.monitoring.observation import observing
from tenants.models import BuildStopped, Company, IndexBuild


@task()
def carry_out_build(build_id: int) -> None:
    """Run a build if it is to be had, and come back for it after a lease in case its worker is lost.

    The queue does not give out again a task whose worker was killed, so while a build is active there is always one
    more task that looks after it.
    """
    build = IndexBuild.objects.select_related("company").filter(pk=build_id).first()
    if build is None or not build.is_active:
        return
    _look_again_later(build)
    with suppress(EngineError):  # the build meets it again and records it
        runtime.embedder()  # may be downloaded and exported: before the lease begins to run
    if build.start():
        # Handed back, cancelled, or another worker's by now: the row tells.
        with suppress(StopRequested, BuildStopped), observing(build=build.pk):
            run_build(build)


@task()
def fold_live_changes(company_id: int) -> None:
    """Queue the build that makes the live changes part of the index; while another runs, come back later."""
    company = Company.objects.filter(pk=company_id).first()
    if company is None or not company.live_changes.exists():
        return
    if company.builds.active().exists():
        later = timezone.now() + timedelta(seconds=settings.FOLD_SECONDS)
        fold_live_changes.using(run_after=later).enqueue(company_id)
    else:
        company.queue_build(fold=True)


def _look_again_later(build: IndexBuild) -> None:
    if carry_out_build.get_backend().supports_defer:
        later = timezone.now() + timedelta(seconds=settings.BUILD_LEASE_SECONDS + 1)
        carry_out_build.using(run_after=later).enqueue(build.pk)


def look_after_active_builds() -> None:
    """Hand every active build to the workers again, for a worker that starts after a crash of all."""
    for build in IndexBuild.objects.active():
        carry_out_build.enqueue(build.pk)
