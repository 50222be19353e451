"""Metrics for Prometheus at /metrics: counters of all server processes, and numbers from the database."""

from collections.abc import Iterator
from datetime import timedelta

from django.conf import settings
from django.db.models import Count, F, Sum
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.http import require_GET
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from search import attention, health
from search.http.errors import error_body
from search.tasks import number_waiting
from tenants.models import BuildUnit, Company, DuplicateSearch, IndexBuild, Watch

_OUTCOMES = ("embedded", "reused", "removed", "skipped")


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """Return all metrics as text to clients that send METRICS_TOKEN; 404 if it is not set.

    What the database tells of all machines is left out on read-only ones, and with `?only=machine`: a sum over machines
    that all told it would be as many times too large.
    """
    if not settings.METRICS_TOKEN:
        raise Http404
    if not constant_time_compare(request.headers.get("Authorization", ""), f"Bearer {settings.METRICS_TOKEN}"):
        answer = error_body("Send the header `Authorization: Bearer <METRICS_TOKEN>`", "credentials_missing")
        return JsonResponse(answer, status=401, headers={"WWW-Authenticate": "Bearer"})
    of_all_machines = not settings.READ_ONLY and request.GET.get("only") != "machine"
    text = generate_latest(_processes()) + generate_latest(_database(of_all_machines=of_all_machines))
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)


def _processes() -> CollectorRegistry:
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)
    except ValueError:  # no directory for several processes was set up by gunicorn_conf.py: this is the only one
        return REGISTRY
    return registry


def _database(*, of_all_machines: bool) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_DatabaseCollector(of_all_machines=of_all_machines))
    return registry


class _DatabaseCollector(Collector):
    """Builds and queues of all processes and machines.

    All are gauges: they go down when a company is deleted with its builds. Without of_all_machines it tells only
    whether this machine reaches the database.
    """

    def __init__(self, *, of_all_machines: bool) -> None:
        self._of_all_machines = of_all_machines

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # else registering would query the database

    def collect(self) -> Iterator[GaugeMetricFamily]:
        answers = health.database_answers()
        yield GaugeMetricFamily("imagesearch_database_up", "1 if the database is reachable.", value=answers)
        if answers and self._of_all_machines:
            yield from self._builds()
            yield self._units()
            yield self._duplicate_searches()
            yield self._tasks()
            yield from self._attention()

    def _builds(self) -> Iterator[GaugeMetricFamily]:
        count = GaugeMetricFamily("imagesearch_builds", "Builds by status.", labels=["status"])
        seconds = GaugeMetricFamily("imagesearch_builds_seconds", "Total duration of builds.", labels=["status"])
        pictures = GaugeMetricFamily("imagesearch_builds_pictures", "Total pictures of builds.", labels=["outcome"])
        took = Sum(F("finished_at") - F("started_at"), default=timedelta())
        rows = IndexBuild.objects.order_by().values_list("status").annotate(number=Count("pk"), took=took)
        totals = {status: (number, time) for status, number, time in rows}
        for status in IndexBuild.Status.values:
            number, time = totals.get(status, (0, timedelta()))
            count.add_metric([status], number)
            if status not in IndexBuild.ACTIVE:
                seconds.add_metric([status], time.total_seconds())
        sums = {outcome: Sum(f"images_{outcome}", default=0) for outcome in _OUTCOMES}
        for outcome, number in IndexBuild.objects.aggregate(**sums).items():
            pictures.add_metric([outcome], number)
        yield from (count, seconds, pictures)

    def _units(self) -> GaugeMetricFamily:
        units = GaugeMetricFamily("imagesearch_build_units", "Units of active builds by status.", labels=["status"])
        totals = dict(BuildUnit.objects.order_by().values_list("status").annotate(number=Count("pk")))
        for status in (BuildUnit.Status.QUEUED, BuildUnit.Status.RUNNING):
            units.add_metric([status], totals.get(status, 0))
        return units

    def _duplicate_searches(self) -> GaugeMetricFamily:
        count = GaugeMetricFamily("imagesearch_duplicate_searches", "Searches for duplicates.", labels=["status"])
        rows = DuplicateSearch.objects.order_by().values_list("status").annotate(number=Count("pk"))
        totals = dict(rows)
        for status in DuplicateSearch.Status.values:
            count.add_metric([status], totals.get(status, 0))
        return count

    def _tasks(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(
            "imagesearch_tasks_waiting", "Tasks that are ready for a worker.", value=number_waiting()
        )

    def _attention(self) -> Iterator[GaugeMetricFamily]:
        silent = Watch.objects.is_worker_silent()
        yield GaugeMetricFamily("imagesearch_worker_silent", "1 if no worker has responded lately.", value=silent)
        last = attention.last_builds(Company.objects.active())
        failed = sum(build.status == IndexBuild.Status.FAILED for build in last)
        yield GaugeMetricFamily("imagesearch_companies_failed", "Companies whose last build failed.", value=failed)
