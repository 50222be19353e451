"""What this process counts for Prometheus; /metrics adds the processes up, see search/api/views/metrics.py.

The labels' values are bounded, or strangers could fill the memory: patterns of URLs, companies that exist.
"""

import threading
from dataclasses import replace

from django.views import View
from prometheus_client import Counter, Gauge, Histogram

from search.engine.index.index import ImageIndex
from search.engine.storage.cache import CacheCounts, IndexCache, Load
from search.monitoring.counter_files import use_allocated_files
from search.monitoring.observation import Observation

use_allocated_files()

REQUESTS = Counter("imagesearch_requests", "Requests answered.", ["method", "endpoint", "company", "status"])
SEARCHES = Counter("imagesearch_searches", "Searches by outcome.", ["company", "channel", "outcome"])
REQUEST_SECONDS = Histogram("imagesearch_request_seconds", "Time to answer a request.", ["method", "endpoint"])
STAGE_SECONDS = Histogram(
    "imagesearch_stage_seconds",
    "Time of a stage of a search: index, decode, embed, search.",
    ["stage"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)
CACHE_HITS = Counter("imagesearch_index_cache_hits", "Index lookups answered from memory.")
CACHE_LOADS = Counter("imagesearch_index_cache_loads", "Indexes loaded into memory.")
CACHE_EVICTIONS = Counter("imagesearch_index_cache_evictions", "Indexes evicted to keep within the budget.")
CACHE_BYTES = Gauge(
    "imagesearch_index_cache_bytes",
    "Bytes of the indexes in memory, summed over the processes, which share mapped files.",
    multiprocess_mode="livesum",
)
CACHE_COMPANIES = Gauge(
    "imagesearch_index_cache_companies",
    "Companies whose index is in memory, summed over the processes.",
    multiprocess_mode="livesum",
)
REPLICA_FETCHES = Counter("imagesearch_replica_fetches", "Indexes fetched from the store, by outcome.", ["outcome"])
REPLICA_FETCHED_BYTES = Counter("imagesearch_replica_fetched_bytes", "Bytes of the indexes fetched from the store.")
REPLICA_WAITS = Counter("imagesearch_replica_waits", "Requests that waited for an index, by outcome.", ["outcome"])
REPLICA_BYTES = Gauge(
    "imagesearch_replica_bytes",
    "Bytes of this machine's copies of indexes.",
    multiprocess_mode="mostrecent",
)
REPLICA_COPIES = Gauge(
    "imagesearch_replica_copies", "This machine's copies of indexes.", multiprocess_mode="mostrecent"
)
MAILS = Counter("imagesearch_mails", "Mails about failed builds and silent workers, by this server.", ["outcome"])


def count_request(method: str | None, endpoint: str, seen: Observation, status: int, seconds: float) -> None:
    known = method if method and method.lower() in View.http_method_names else "other"
    REQUESTS.labels(known, endpoint, seen.company, status).inc()
    REQUEST_SECONDS.labels(known, endpoint).observe(seconds)
    for stage, taken in seen.stages.items():
        STAGE_SECONDS.labels(stage).observe(taken)


def count_search(company: str, channel: str, outcome: str) -> None:
    SEARCHES.labels(company, channel, outcome).inc()


class CountedCache(IndexCache):
    """An IndexCache whose counts are also the metrics'."""

    def __init__(self, budget_bytes: int) -> None:
        super().__init__(budget_bytes)
        self._counting = threading.Lock()  # guards _counted: what the metrics have been told
        self._counted = CacheCounts()

    def find(self, company: int, version: str) -> ImageIndex | None:
        try:
            return super().find(company, version)
        finally:
            self._count()

    def get(self, company: int, version: str, load: Load, *, or_earlier: bool = False) -> ImageIndex:
        try:
            return super().get(company, version, load, or_earlier=or_earlier)
        finally:
            self._count()

    def _count(self) -> None:
        with self._counting:
            before, now = self._counted, replace(self.counts)
            self._counted = now
            CACHE_HITS.inc(now.hits - before.hits)
            if (now.loads, now.evictions) == (before.loads, before.evictions):
                return
            CACHE_LOADS.inc(now.loads - before.loads)
            CACHE_EVICTIONS.inc(now.evictions - before.evictions)
            CACHE_BYTES.set(self.nbytes())
            CACHE_COMPANIES.set(len(self.loaded()))
