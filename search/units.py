"""Builds that many workers share: where their units lie, and how the one that publishes hands them out."""

import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Self

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.db.models import Count, Q, QuerySet, Sum

from search import stores
from search.engine import storage
from search.engine.build.builder import BuildProgress
from search.engine.build.units import FolderPlace, Place, Report, StorePlace, Unit, UnitResult
from search.engine.errors import MachineDiffers, StoreUnavailable, UnitFailed
from search.engine.objects import ObjectStore
from search.engine.storage.layout import workspaces
from search.heartbeat import BuildHeart, Heart
from search.outages import is_outage, outage, outlast
from search.stopping import StopRequested
from tenants.models import BuildUnit, Company, IndexBuild, JobStopped, LeaseLost, UnitLost
from tenants.signals import help_wanted

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.2  # between two looks for results, while there is nothing else to do
_BUILDING = ".building"  # of the store


class SharedBuild:
    """The units of a build that is the caller's: see search.engine.build.units.Units. It embeds units as well."""

    def __init__(self, build: IndexBuild, heart: BuildHeart, *, fingerprint: str) -> None:
        self.place: Place = place_of(build)
        self.pictures: int = settings.UNIT_PICTURES
        self._build, self._heart, self._fingerprint = build, heart, fingerprint
        self._progress = BuildProgress()
        self._taking: BuildUnit | None = None  # whose result is being made part of the build
        self._refused = False
        self._counts = {"units_total": 0, "units_done": 0, "units_running": 0}
        self._under_way = 0  # pictures of units that are not part of the build yet
        self._called_at = -math.inf

    def __enter__(self) -> Self:
        drop_places(self._build.company, before=self._build.pk)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, StopRequested | LeaseLost | StoreUnavailable) or (error and is_outage(error)):
            return  # whoever goes on with the build goes on with its units
        try:
            drop_place(self._build)
        except StoreUnavailable as unavailable:  # the next build does it
            logger.warning("What the units of build %s have left stays: %s", self._build.pk, unavailable)

    def report(self, progress: BuildProgress) -> None:
        """Report the progress of all who work on the build; raises as BuildHeart.report() does."""
        self._progress = progress
        if self._heart.is_due and self._counts["units_total"]:
            self._look()
        self._heart.report(replace(progress, embedded=progress.embedded + self._under_way), **self._counts)

    def finished(
        self, units: Sequence[Unit], embed: Callable[[Unit, str, Report], UnitResult]
    ) -> Iterator[tuple[Unit, UnitResult]]:
        """Raises UnitFailed for a unit that failed three times, and as report() does."""
        remaining = {unit.name: unit for unit in units}
        outlast(partial(self._offer, units))
        while remaining:
            done = outlast(self._rows().filter(status=BuildUnit.Status.SUCCEEDED).order_by("number").first)
            if done is None:
                outlast(self._require_none_failed)
                self._call_for_help()
                if not self._embed_one(embed):
                    self._heart.pause(_LOOK_SECONDS)
                    self.report(self._progress)
                continue
            self._taking, self._refused = done, False
            self._look()
            yield remaining[done.name], UnitResult(done.result, done.sha256, done.embedded, done.skipped)
            if not self._refused:
                outlast(partial(self._forget, done))
                del remaining[done.name]
            self._taking = None
            self._count(len(units), len(units) - len(remaining))
        self._look()
        self._heart.beat(**self._counts)

    def refuse(self, unit: Unit, result: UnitResult, reason: str) -> None:
        assert self._taking is not None
        logger.warning("Unit %s of build %s is made again: %s", unit.name, self._build.pk, reason)
        self._refused = True
        outlast(partial(self._taking.refuse, reason))
        self.place.remove([result.name])

    def _rows(self) -> "QuerySet[BuildUnit]":
        return BuildUnit.objects.filter(build=self._build)

    def _offer(self, units: Sequence[Unit]) -> None:
        with self._build.hold():
            BuildUnit.objects.offer(
                self._build, {unit.name: unit.pictures for unit in units}, fingerprint=self._fingerprint
            )
            self._count(len(units), 0)
            self._build.beat(**self._counts)

    def _count(self, total: int, done: int) -> None:
        self._counts |= {"units_total": total, "units_done": done}

    def _look(self) -> None:
        """Learn what is under way; while the database is locked or away, what was known stays."""
        taking = [self._taking.pk] if self._taking else []
        running = Q(status=BuildUnit.Status.RUNNING)
        rows = self._rows().filter(running | Q(status=BuildUnit.Status.SUCCEEDED)).exclude(pk__in=taking)
        try:
            found = rows.aggregate(done=Sum("done", default=0), running=Count("pk", filter=running))
        except (OperationalError, InterfaceError) as error:
            outage.met(error)
        else:
            self._under_way, self._counts["units_running"] = found["done"], found["running"]

    def _require_none_failed(self) -> None:
        failed = self._rows().filter(status=BuildUnit.Status.FAILED).first()
        if failed:
            raise UnitFailed(
                f"A part of the build, of {failed.pictures} pictures, failed {failed.attempts} times, the last time: "
                f"{failed.error}"
            )

    def _call_for_help(self) -> None:
        """Ask for workers, now and then: those who were asked may have been lost, or have given way to others."""
        if time.monotonic() - self._called_at < settings.BUILD_LEASE_SECONDS:
            return
        self._called_at = time.monotonic()
        if outlast(self._rows().filter(status=BuildUnit.Status.QUEUED).exists):
            outlast(partial(help_wanted.send, IndexBuild))

    def _embed_one(self, embed: Callable[[Unit, str, Report], UnitResult]) -> bool:
        """Embed a unit here; False where there is none to embed."""
        unit = outlast(partial(BuildUnit.objects.claim_of, self._build))
        if unit is None:
            return False
        heart = UnitHeart(unit, Event())

        def report(done: int) -> None:
            heart.report(done)
            self.report(self._progress)

        with suppress(UnitFailed):  # it may be another's next time; see _require_none_failed
            make(unit, self.place, lambda: embed(Unit(unit.name, unit.pictures), unit.lease, report))
        return True

    def _forget(self, unit: BuildUnit) -> None:
        """Remove a unit that is part of the build from now on."""
        with self._build.hold():
            unit.delete()
        self.place.remove([unit.result, unit.name])


class UnitHeart(Heart):
    """That of a unit, whose row tells how many of its pictures are done."""

    def report(self, done: int) -> None:
        """Raises StopRequested and UnitLost."""
        self.require_going_on()
        if self.is_due:
            self.beat(done=done)


def make(unit: BuildUnit, place: Place, embed: Callable[[], UnitResult]) -> None:
    """Embed a unit that is the caller's, and record its outcome; a result that comes too late is removed.

    Raises UnitFailed where it fails; StopRequested, JobStopped, MachineDiffers and StoreUnavailable leave it to another
    worker.
    """
    try:
        result = embed()
        _hand_in(unit, place, result)
    except UnitLost as error:
        logger.info("%s", error)
    except (StopRequested, JobStopped, MachineDiffers, StoreUnavailable):
        _leave(unit, unit.hand_back)
        raise
    except Exception as error:
        if is_outage(error):
            _leave(unit, unit.hand_back)
            raise
        logger.exception("Unit %s of build %s failed", unit.name, unit.build_id)
        _leave(unit, partial(unit.fail, str(error) or type(error).__name__))
        raise UnitFailed(str(error)) from error


def _hand_in(unit: BuildUnit, place: Place, result: UnitResult) -> None:
    try:
        outlast(
            partial(
                unit.succeed,
                result=result.name,
                sha256=result.sha256,
                embedded=result.embedded,
                skipped=result.skipped,
            )
        )
    except UnitLost:
        _withdraw(place, result.name)
        raise


def _withdraw(place: Place, result: str) -> None:
    place.remove([result])
    if isinstance(place, FolderPlace):  # of a build that is over, whose company may be gone as well
        with suppress(OSError):
            for directory in (place.directory, *place.directory.parents[:2]):
                directory.rmdir()  # which refuses one that holds something


def _leave(unit: BuildUnit, act: Callable[[], None]) -> None:
    with suppress(UnitLost):
        outlast(act)


# Where they lie ------------------------------------------------------------------------------------------------------


def place_of(build: IndexBuild) -> Place:
    """Return where the files of a build's units lie: in the store, or else below the company's indexes."""
    store = _shelf(build.company)
    return StorePlace(store.below(str(build.pk))) if store else FolderPlace(_directory(build.company, build.pk))


def drop_places(company: Company, *, before: int | None = None) -> None:
    """Remove what the units of the company's builds have left. before: the build from which on they stay.

    Raises StoreUnavailable.
    """
    store = _shelf(company)
    if store:
        store.delete([entry.key for entry in store.listing() if _is_before(entry.key.partition("/")[0], before)])
        return
    for directory in workspaces(company.embeddings_directory):
        owner, _, name = directory.name.rpartition("-")
        if f"{owner}-" == _owner(company, "") and _is_before(name, before):
            shutil.rmtree(directory, ignore_errors=True)


def drop_place(build: IndexBuild) -> None:
    """Remove what the units of a build have left; the company's next one may be under way. Raises StoreUnavailable."""
    store = _shelf(build.company)
    if store:
        place = store.below(str(build.pk))
        place.delete([entry.key for entry in place.listing()])
    else:
        shutil.rmtree(_directory(build.company, build.pk), ignore_errors=True)


def _is_before(name: str, build: int | None) -> bool:
    """name: of what a build has left, if it is a number."""
    return name.isdecimal() and (build is None or int(name) < build)


def _shelf(company: Company) -> ObjectStore | None:
    store = stores.root()
    return store.below(f"{_BUILDING}/{company.pk}") if store else None


def _directory(company: Company, build: int) -> Path:
    return storage.workspace(company.embeddings_directory, _owner(company, build))


def _owner(company: Company, build: int | str) -> str:
    return f"{company.pk}-units-{build}"
