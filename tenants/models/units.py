from collections.abc import Collection, Mapping
from typing import Any, NoReturn

from django.db import models, transaction
from django.db.models.functions import Coalesce

from tenants.models.builds import IndexBuild
from tenants.models.leases import Leased, LeasedQuerySet, LeaseLost

_ROWS_A_STATEMENT = 500


class UnitLost(LeaseLost):
    """The unit is another worker's by now, or nobody's: its build is over, or offers others."""


class BuildUnitQuerySet(LeasedQuerySet["BuildUnit"]):
    def offer(self, build: IndexBuild, units: Mapping[str, int], *, fingerprint: str) -> None:
        """Have workers embed these units of the build and no others; what has become of those known already stays.

        units: how many pictures each has, by its name. Call it while the build is the caller's.
        """
        known = dict(self.filter(build=build).values_list("name", "pk"))
        obsolete = [pk for name, pk in known.items() if name not in units]
        for start in range(0, len(obsolete), _ROWS_A_STATEMENT):
            self.filter(pk__in=obsolete[start : start + _ROWS_A_STATEMENT]).delete()
        fresh = (
            BuildUnit(build=build, number=number, name=name, pictures=pictures, fingerprint=fingerprint)
            for number, (name, pictures) in enumerate(units.items())
            if name not in known
        )
        self.bulk_create(fresh, batch_size=_ROWS_A_STATEMENT)

    def claim(self, *, but: Collection[int] = ()) -> "BuildUnit | None":
        """Claim a unit of the build that the fewest workers help; None where there is nothing to do.

        but: builds that the caller cannot help.
        """
        offering = IndexBuild.objects.active().filter(units_total__gt=0).exclude(pk__in=but)
        helpers = self.filter(build=models.OuterRef("pk"), status=BuildUnit.Status.RUNNING).order_by().values("build")
        number = helpers.annotate(number=models.Count("pk")).values("number")
        for build in offering.order_by(Coalesce(models.Subquery(number), 0), "pk"):
            if unit := self.claim_of(build):
                return unit
        return None

    def claim_of(self, build: IndexBuild) -> "BuildUnit | None":
        """Claim a unit of the build that is queued, or else one whose worker is lost."""
        mine = self.filter(build=build)
        for rows in (mine.filter(status=BuildUnit.Status.QUEUED), mine.expired()):
            # The lock only chooses, so that many who claim at once do not all try the same one; start() decides.
            with transaction.atomic():
                unit = rows.order_by("number").select_for_update(skip_locked=True).first()
                if unit and unit.start():
                    return unit
        return None


class BuildUnit(Leased):
    """A part of a build: pictures that one worker embeds. It is gone when the build has taken its result in, or ends.

    Its pictures and its result are files; the result's name has the lease in it.
    """

    KIND = "unit"

    build = models.ForeignKey(
        # No constraint: a release before this table, which may still run, deletes builds without looking here.
        IndexBuild,
        on_delete=models.CASCADE,
        related_name="units",
        db_index=False,
        db_constraint=False,
    )
    number = models.PositiveIntegerField(help_text="Those that come first are embedded first.")
    name = models.CharField(max_length=64, help_text="The same for the same pictures.")
    fingerprint = models.CharField(max_length=64, help_text="That of the model that embeds them.")
    pictures = models.PositiveIntegerField()
    done = models.PositiveIntegerField(default=0, help_text="Pictures that its worker has looked at so far.")
    result = models.CharField(max_length=120, blank=True)
    sha256 = models.CharField(max_length=64, blank=True, help_text="The checksum of the result.")
    embedded = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)

    objects = BuildUnitQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["build", "name"], name="unit_of_a_build_once")]
        indexes = [models.Index(fields=["build", "status", "number"], name="units_to_claim")]

    def __str__(self) -> str:
        return f"{self.name} of build {self.build_id}"

    @property
    def company(self) -> Any:
        return self.build.company

    def give_up(self) -> None:
        lost = self._rows().claimable().filter(pk=self.pk, attempts__gte=self.MAX_ATTEMPTS)
        lost.update(status=self.Status.FAILED, error="its worker was lost, whose log may tell why")

    def succeed(self, *, result: str, sha256: str, embedded: int, skipped: int) -> None:
        """Raises UnitLost."""
        self._write(
            status=self.Status.SUCCEEDED,
            result=result,
            sha256=sha256,
            embedded=embedded,
            skipped=skipped,
            done=self.pictures,
            error="",
        )

    def fail(self, error: str) -> None:
        """Leave the unit to another worker, unless it has failed MAX_ATTEMPTS times by now. Raises UnitLost."""
        self._write(**self._failed(error))

    def refuse(self, error: str) -> None:
        """Have a unit made again whose result cannot be used, as if its worker had failed."""
        done = self._rows().filter(pk=self.pk, lease=self.lease, status=self.Status.SUCCEEDED)
        done.update(**self._failed(error))

    def hand_back(self) -> None:
        """Leave the unit to another worker; it does not count as an attempt. Raises UnitLost."""
        self._write(status=self.Status.QUEUED, lease="", done=0, attempts=models.F("attempts") - 1)

    def _failed(self, error: str) -> dict[str, Any]:
        often = models.When(attempts__gte=self.MAX_ATTEMPTS, then=models.Value(self.Status.FAILED))
        return {
            "status": models.Case(often, default=models.Value(self.Status.QUEUED)),
            "lease": "",
            "done": 0,
            "error": error,
        }

    def _refuse(self) -> NoReturn:
        raise UnitLost(f"Unit {self.name} of build {self.build_id} is no longer this worker's")
