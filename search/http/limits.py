"""How often a caller may come: rates, counted in Django's cache, and a company's searches a day, in the database.

A rate is counted in fixed windows that begin at whole minutes, hours and so on, UTC: never more than the rate passes in
one, but around the turn of two it may come at once twice. Each count is one increment, which local memory and Redis do
atomically, so that among threads, and among processes that share a cache, exactly as many pass as may. (DRF's own
throttles read a list and write it back: among four processes several times the rate passes.)
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address
from math import ceil

from django.conf import settings
from django.core.cache import cache as counters
from django.db import Error
from django.http import HttpRequest
from django.utils import timezone
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tenants.models import ApiKey, Company, SearchUsage
from tenants.models.patience import waiting_at_most

logger = logging.getLogger(__name__)

UNIT_NAMES = {1: "second", 60: "minute", 3600: "hour", 86400: "day"}
QUOTA_REMAINING = "X-Quota-Remaining"  # the header that says how many searches are left today
COUNT_SECONDS = 1.0  # so long a search with a quota waits for who writes to the database
AWAY_SECONDS = 10.0  # so long a cache that fails is not asked again


class LimitExceeded(Exception):
    """The caller may come again after retry_after whole seconds, at least one."""

    def __init__(self, message: str, *, seconds_left: float) -> None:
        self.retry_after = max(1, ceil(seconds_left))
        super().__init__(f"{message}; try again in {self.retry_after} seconds")


class RateExceeded(LimitExceeded):
    """A key or an address comes more often than it may."""


class QuotaExceeded(LimitExceeded):
    """A company has used up today's searches."""


@dataclass(slots=True)
class _Availability:
    """Whether the cache is asked. Threads share it unguarded: at worst one asks, or the log says it, once more."""

    away_until: float = 0.0  # on the monotonic clock

    @property
    def is_away(self) -> bool:
        return time.monotonic() < self.away_until

    def note_failure(self, error: Exception) -> None:
        self.away_until = time.monotonic() + AWAY_SECONDS
        logger.error("The cache of CACHE_URL fails, so rates are not limited for %d seconds: %s", AWAY_SECONDS, error)


_availability = _Availability()


def reset() -> None:
    """Forget that the cache was away, so that the process is as one that has just begun."""
    _availability.away_until = 0.0


@dataclass(frozen=True, slots=True)
class Rate:
    """At most so many things in so many seconds."""

    scope: str
    what: str  # in the words of the refusal
    number: int
    seconds: int

    def count(self, who: str) -> None:
        """Count one more of who's. Raises RateExceeded."""
        if self._incremented(who) > self.number:
            raise self._exceeded()

    def check(self, who: str) -> None:
        """Count nothing. Raises RateExceeded where the next one will be too many."""
        if self._counted(who) >= self.number:
            raise self._exceeded()

    def _incremented(self, who: str) -> int:
        """Return how many there are in this window with this one; 0 where the cache is away: nobody is held up."""
        if _availability.is_away:
            return 0
        key = self._key(who)
        try:
            counters.add(key, 0, timeout=self.seconds + 1)
            return counters.incr(key)
        except ValueError:  # emptied between the two
            return 0
        except _failures() as error:
            _availability.note_failure(error)
            return 0

    def _counted(self, who: str) -> int:
        if _availability.is_away:
            return 0
        try:
            return int(counters.get(self._key(who), 0))
        except _failures() as error:
            _availability.note_failure(error)
            return 0

    def _key(self, who: str) -> str:
        return f"rate:{self.scope}:{self.seconds}:{int(time.time()) // self.seconds}:{who}"

    def _exceeded(self) -> RateExceeded:
        limit = f"Too many {self.what}: at most {self.number} per {UNIT_NAMES[self.seconds]}"
        return RateExceeded(limit, seconds_left=self.seconds - time.time() % self.seconds)


def _failures() -> tuple[type[Exception], ...]:
    """Return what a cache raises that is away."""
    if "redis" not in settings.CACHES["default"]["BACKEND"]:
        return (OSError,)
    from redis.exceptions import RedisError  # here, because its import takes a third of a second

    return (OSError, RedisError)


class CallerThrottle(BaseThrottle):
    """Counts a request by its API key, or by its address where it has none."""

    def allow_request(self, request: Request, view: object) -> bool:
        """Return True. Raises RateExceeded, which tells the limit, where DRF's own refusal would not."""
        if isinstance(request.auth, ApiKey):
            if settings.RATE_PER_KEY:
                Rate("key", "requests with this API key", *settings.RATE_PER_KEY).count(str(request.auth.pk))
        elif settings.RATE_PER_ADDRESS:
            Rate("address", "requests from your address", *settings.RATE_PER_ADDRESS).count(client_address(request))
        return True


class PictureThrottle(BaseThrottle):
    """Counts pictures and thumbnails apart from other requests, because one page of results shows 50."""

    def allow_request(self, request: Request, view: object) -> bool:
        """Return True. Raises RateExceeded."""
        if settings.RATE_PICTURES:
            key = request.auth if isinstance(request.auth, ApiKey) else None
            who = f"key-{key.pk}" if key else client_address(request)
            Rate("pictures", "pictures", *settings.RATE_PICTURES).count(who)
        return True


def client_address(request: HttpRequest | Request) -> str:
    """Return the address that a caller is counted by; an IPv6 one stands for its /64, which is one customer's.

    X-Forwarded-For counts as far as NUM_PROXIES proxies have written it: what is left of that may be made up.
    """
    address = request.META.get("REMOTE_ADDR", "")
    hops = request.META.get("HTTP_X_FORWARDED_FOR", "").split(",")
    if 0 < settings.NUM_PROXIES <= len(hops):
        address = hops[-settings.NUM_PROXIES].strip()
    try:
        parsed = ip_address(address)
    except ValueError:  # a server at a Unix socket without proxies
        return "unknown"
    if isinstance(parsed, IPv6Address):
        parsed = parsed.ipv4_mapped or IPv6Network((int(parsed), 64), strict=False).network_address
    return str(parsed)


@contextmanager
def counted_search(company: Company) -> Iterator[int | None]:
    """Count the search that is done in the block; one that is refused or fails, with whatever exception, costs nothing.

    Yields how many more the quota allows today after this one, None without a quota.

    It is counted before it is done, so that among any number of processes no more are done than the quota allows.
    Without a quota nothing is counted: a search then does not wait for who writes to the database. With one it waits
    for a second and raises OperationalError: a search that nobody can count is not done.
    Raises QuotaExceeded, until midnight UTC.
    """
    if company.daily_quota is None:
        yield None
        return
    with waiting_at_most(COUNT_SECONDS):
        usage = SearchUsage.objects.count_one(company, quota=company.daily_quota)
    if usage is None:
        raise _quota_exceeded(company)
    try:
        yield company.daily_quota - usage.searches
    except BaseException:
        _give_back(company, usage)
        raise


def _give_back(company: Company, usage: SearchUsage) -> None:
    try:
        with waiting_at_most(COUNT_SECONDS):
            SearchUsage.objects.give_back(usage)
    except Error:  # why the search failed is what its caller has to hear
        logger.exception("A search of %s that was counted could not be given back", company)


def _quota_exceeded(company: Company) -> QuotaExceeded:
    now = timezone.now().astimezone(UTC)
    midnight = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    limit = f"Company '{company}' has reached its daily quota of {company.daily_quota} searches (resets 00:00 UTC)"
    return QuotaExceeded(limit, seconds_left=(midnight - now).total_seconds())
