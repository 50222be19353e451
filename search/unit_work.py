"""What a worker does for builds that others publish: it embeds their units."""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Event

from django.conf import settings

from search import runtime
from search.builds import embedder_of_unit, pictures_of
from search.engine.build.units import UnitResult, embed_unit
from search.engine.errors import EngineError
from search.monitoring.observation import observing
from search.outages import outlast
from search.stopping import stop_on_signal
from search.units import UnitHeart, make, place_of
from tenants.models import BuildUnit

logger = logging.getLogger(__name__)

# Until when this process leaves the units of a build to others, by the build's key: it cannot embed them, and would
# only take their attempts.
_left: dict[int, float] = {}


def embed_units(*, others_wait: Callable[[], bool], call_for_help: Callable[[], None]) -> None:
    """Embed units of whichever builds offer some, until there are none, or others wait for this worker.

    call_for_help: has another worker join. Raises StopRequested, with the unit handed back, and LoadingStopped.
    """
    with suppress(EngineError):  # of a build with another model
        runtime.embedder()  # may be downloaded and exported: before a lease begins to run
    with stop_on_signal() as stop:
        while (unit := outlast(partial(BuildUnit.objects.claim, but=_builds_left()))) is not None:
            outlast(call_for_help)
            _embed(unit, stop)
            if outlast(others_wait):
                outlast(call_for_help)
                return


def _embed(unit: BuildUnit, stop: Event) -> None:
    place = place_of(unit.build)

    def embed() -> UnitResult:
        return embed_unit(
            place,
            unit.name,
            attempt=unit.lease,
            folder=pictures_of(unit.build),
            embedder=embedder_of_unit(unit),
            workers=os.cpu_count() or 1,
            report=UnitHeart(unit, stop).report,
        )

    with observing(build=unit.build_id):
        try:
            make(unit, place, embed)
        except EngineError as error:
            logger.warning("This worker leaves the units of build %s to others for a while: %s", unit.build_id, error)
            _left[unit.build_id] = time.monotonic() + settings.BUILD_LEASE_SECONDS


def _builds_left() -> list[int]:
    for build in [build for build, until in _left.items() if until < time.monotonic()]:
        del _left[build]
    return list(_left)
