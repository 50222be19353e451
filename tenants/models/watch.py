from datetime import datetime, timedelta

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models.functions import Now


class WatchQuerySet(models.QuerySet["Watch"]):
    def beat(self) -> None:
        """Say that a worker is alive."""
        self._change(beat_at=Now())

    def claim_round(self, *, every: timedelta) -> bool:
        """Tell whether the next look at workers and builds is the caller's: one process of the installation at a time.

        every: until the next one is due.
        """
        if self.due().exists():  # so that those who come too early write nothing
            return bool(self.due().update(next_round_at=Now() + every))
        return not self.exists() and self._added(next_round_at=Now() + every)

    def due(self) -> "WatchQuerySet":
        return self.filter(models.Q(next_round_at=None) | models.Q(next_round_at__lte=Now()))

    def put_off(self, wait: timedelta) -> None:
        """Have nobody look before that time is over."""
        self._change(next_round_at=Now() + wait)

    def is_worker_silent(self) -> bool:
        """Return whether no worker has been heard of for the length of a lease, or ever."""
        lately = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        return not self.filter(beat_at__gte=lately).exists()

    def last_beat(self) -> datetime | None:
        return self.values_list("beat_at", flat=True).first()

    def _change(self, **values: object) -> None:
        if not self.update(**values) and not self._added(**values):
            self.update(**values)

    def _added(self, **values: object) -> bool:
        """Add the row, which is there from the first beat or look on; tell whether nobody else has meanwhile."""
        try:
            with transaction.atomic():
                self.create(pk=Watch.ONLY, **values)
        except IntegrityError:
            return False
        return True


class Watch(models.Model):
    """The installation's one row about its workers: when one was last heard of, and when a process looks next."""

    ONLY = 1

    beat_at = models.DateTimeField(null=True)
    next_round_at = models.DateTimeField(null=True)

    objects = WatchQuerySet.as_manager()

    def __str__(self) -> str:
        return f"last heard of a worker: {self.beat_at}"


class AlertQuerySet(models.QuerySet["Alert"]):
    def begin(self, subject: str, company: models.Model | None = None) -> bool:
        """Tell whether the caller is the one who tells people of the subject: nobody has told them before."""
        try:
            with transaction.atomic():
                self.create(subject=subject, company=company)
        except IntegrityError:  # told, or the company is deleted
            return False
        return True

    def end(self, subject: str) -> bool:
        """Tell whether the caller is the one who tells people that the subject is over."""
        return bool(self.filter(subject=subject).delete()[0])


class Alert(models.Model):
    """Something that people were told of by mail and that is not over yet."""

    subject = models.CharField(max_length=40, unique=True)
    company = models.ForeignKey("tenants.Company", null=True, on_delete=models.CASCADE, related_name="+")
    at = models.DateTimeField(auto_now_add=True)

    objects = AlertQuerySet.as_manager()

    def __str__(self) -> str:
        return self.subject
