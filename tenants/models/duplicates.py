import secrets
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import IntegrityError, models, transaction
from django.db.models.functions import Now

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.jobs import Job, JobQuerySet
from tenants.models.rows import SavedOnce
from tenants.signals import duplicate_search_queued

if TYPE_CHECKING:
    from tenants.models.company import Company


class DuplicateSearchQuerySet(JobQuerySet["DuplicateSearch"]):
    def ask(self, company: "Company", *, edited: bool | None = None, by: Actor | None = None) -> "DuplicateSearch":
        """Return the company's queued search for duplicates: a new one, or the active one, which another then follows.

        edited: look for edited copies as well, which reads pictures; None: as the last search did, else yes.
        Raises Company.DoesNotExist where the company was deleted meanwhile.
        """
        if edited is None:
            last = self.filter(company=company).first()
            edited = last.edited if last else True
        while True:
            try:
                with transaction.atomic():
                    search = self.queue(company=company, edited=edited, requested_by=by.user if by else None)
                    record(by, AuditEvent.Action.DUPLICATES_ASKED, company, f"{search.KIND} {search.pk}")
                    return search
            except IntegrityError:  # the constraint: there is an active one, or there was
                active = self.active().filter(company=company).first()
                if active is None:  # it has just finished, unless the company was deleted
                    type(company).objects.only("pk").get(pk=company.pk)
                elif active.ask_again(edited=edited, by=by):
                    return active

    @transaction.atomic
    def claim(self, company: "Company", *, edited: bool, by: Actor) -> "DuplicateSearch | None":
        """Return the company's search for the caller to carry out; None where another process has one in hand.

        No worker sees it before it is the caller's.
        """
        search = self.ask(company, edited=edited, by=by)
        return search if search.start() else None


class DuplicateSearch(Job):
    """The search for a company's duplicates. What it has found lies in a file; the next one looks at what is new."""

    KIND = "search for duplicates"
    CANCELLATION = AuditEvent.Action.DUPLICATES_CANCELLED

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="duplicate_searches")
    edited = models.BooleanField(default=True, help_text="Look for edited copies as well, which reads pictures.")
    again = models.BooleanField(default=False, help_text="Asked for while it ran: another one follows it.")
    again_edited = models.BooleanField(default=False, help_text="The one that follows looks for edited copies.")
    stage = models.CharField(max_length=40, blank=True, help_text="What it does at present, in words.")
    done = models.PositiveIntegerField(default=0, help_text="Steps of the present stage that are done.")
    total = models.PositiveIntegerField(default=0, help_text="Steps of the present stage.")
    pairs = models.PositiveIntegerField(null=True, help_text="Pairs of duplicates known at the end.")

    objects = DuplicateSearchQuerySet.as_manager()

    class Meta:
        ordering = ["-queued_at", "-id"]
        verbose_name_plural = "duplicate searches"
        constraints = [
            models.UniqueConstraint(
                fields=["company"],
                condition=models.Q(status__in=["queued", "running"]),
                name="one_active_duplicate_search",
            )
        ]

    @property
    def percent(self) -> int:
        return min(100, 100 * self.done // self.total) if self.total else 0

    def hand_to_workers(self) -> None:
        duplicate_search_queued.send(DuplicateSearch, search=self)

    def taken_up(self) -> dict[str, Any]:
        return {"edited": models.Q(edited=True) | models.Q(again_edited=True), "again": False, "again_edited": False}

    def ask_again(self, *, edited: bool, by: Actor | None) -> bool:
        """Have another search follow a running one; False where it is over: ask anew. One that is queued is enough."""
        mine = DuplicateSearch.objects.filter(pk=self.pk)
        overdue = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        with transaction.atomic():
            if mine.filter(status=self.Status.QUEUED, queued_at__lt=overdue).exists():
                self.hand_to_workers()  # its task may have been lost with a worker
            if edited:
                mine.filter(status=self.Status.QUEUED).update(edited=True)
            running = mine.filter(status=self.Status.RUNNING).update(
                again=True, **({"again_edited": True} if edited else {})
            )
            if running:
                record(by, AuditEvent.Action.DUPLICATES_ASKED, self.company, f"after {self.KIND} {self.pk}")
        self.refresh_from_db()
        return self.is_active

    def queue_follow_up(self) -> None:
        ended = DuplicateSearch.objects.get(pk=self.pk)
        if ended.again:
            DuplicateSearch.objects.queue(company=self.company, edited=ended.again_edited)


class NotDuplicatesQuerySet(models.QuerySet["NotDuplicates"]):
    def pairs(self) -> set[tuple[str, str]]:
        return set(self.values_list("first_id", "second_id"))

    @transaction.atomic
    def add(self, company: "Company", pairs: Iterable[tuple[str, str]], *, paths: Sequence[str], by: Actor) -> None:
        """Remember that each of the pairs of ids are no duplicates, as one decision. paths: for the audit."""
        decision = secrets.token_hex(16)
        rows = [
            NotDuplicates(company=company, first_id=min(pair), second_id=max(pair), decision=decision, by=by.name[:200])
            for pair in pairs
            if pair[0] != pair[1]
        ]
        NotDuplicates.objects.bulk_create(rows, ignore_conflicts=True, batch_size=500)
        record(by, AuditEvent.Action.NOT_DUPLICATES, company, ", ".join(paths))

    @transaction.atomic
    def undo(self, company: "Company", decision: str, *, by: Actor, paths: Sequence[str]) -> bool:
        """Forget a decision; False where there is no such one."""
        deleted, _ = self.filter(company=company, decision=decision).delete()
        if deleted:
            record(by, AuditEvent.Action.DUPLICATES_AFTER_ALL, company, ", ".join(paths))
        return bool(deleted)


class NotDuplicates(SavedOnce):
    """Two pictures of a company, by their ids, that somebody has said are no duplicates."""

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="not_duplicates")
    first_id = models.CharField(max_length=36)  # the smaller of the two
    second_id = models.CharField(max_length=36)
    decision = models.CharField(max_length=32, db_index=True, help_text="The same for what was decided at once.")
    by = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True)

    objects = NotDuplicatesQuerySet.as_manager()

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "not duplicates"
        constraints = [
            models.UniqueConstraint(fields=["company", "first_id", "second_id"], name="not_duplicates_once"),
        ]

    def __str__(self) -> str:
        return f"{self.company}: {self.first_id}, {self.second_id}"
