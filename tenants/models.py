import logging
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator, RegexValidator
from django.db import DatabaseError, IntegrityError, connection, models, transaction
from django.db.models.functions import Coalesce, Lower, Now
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from tenants.signals import build_queued

logger = logging.getLogger(__name__)

# A folder's name and a URL's segment on every system: no separator, no leading dot, nothing to escape.
NAME_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")


class CompanyQuerySet(models.QuerySet["Company"]):
    def active(self) -> "CompanyQuerySet":
        return self.filter(active=True)


class Company(models.Model):
    """One customer: its pictures in image_folder, its index in embeddings/<name>."""

    name = models.CharField(
        max_length=64,
        validators=[
            RegexValidator(
                re.compile(rf"\A{NAME_PATTERN.pattern}\Z"),
                "A company's name has 1 to 64 letters, digits, '-', '_' and '.', "
                "begins with a letter or a digit and does not end in a dot.",
            )
        ],
        help_text="Names its folder and its URLs, so it cannot be changed later.",
    )
    active = models.BooleanField(default=True, help_text="A company that is switched off is unknown to the API.")
    image_folder = models.CharField(
        max_length=1000,
        blank=True,
        help_text="Where its pictures lie; empty for the folder of its own name in the media directory.",
    )
    requires_api_key = models.BooleanField(
        default=False,
        verbose_name="requires an API key",
        help_text="Without one of its keys it is unknown to the API, whatever IMAGESEARCH_API_KEYS says.",
    )
    daily_quota = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Searches that the API answers a day (UTC); empty for any number.",
    )
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    live_sequence = models.PositiveBigIntegerField(default=0, editable=False)

    objects = CompanyQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "companies"
        constraints = [
            # Not told apart by case, because some file systems do not either.
            models.UniqueConstraint(
                Lower("name"), name="company_name_unique", violation_error_message="This name is taken."
            )
        ]
        permissions = [("reindex_company", "Can start and cancel index builds")]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        super().clean()
        media = Path(settings.MEDIA_ROOT).resolve()
        roots = [media, *(root.resolve() for root in settings.IMAGE_ROOTS)]
        try:
            folder = self.image_directory.resolve()
        except (ValueError, RuntimeError) as error:  # a NUL, links in a circle
            raise ValidationError({"image_folder": f"{self.image_directory} is no folder: {error}."}) from error
        if folder == media:
            raise ValidationError({"image_folder": f"{folder} holds every company's pictures: name one below it."})
        if not any(folder.is_relative_to(root) for root in roots):
            allowed = ", ".join(str(root) for root in roots)
            raise ValidationError(
                {"image_folder": f"{folder} lies outside the allowed folders ({allowed}): see IMAGESEARCH_IMAGE_ROOTS."}
            )

    @property
    def image_directory(self) -> Path:
        """Where its pictures lie; a relative image_folder is one below the media directory."""
        return Path(settings.MEDIA_ROOT) / (self.image_folder or self.name)

    @property
    def embeddings_directory(self) -> Path:
        return Path(settings.EMBEDDINGS_DIR) / self.name

    def queue_build(
        self,
        *,
        full: bool = False,
        checksum: bool = False,
        allow_empty: bool = False,
        fold: bool = False,
        requested_by: Any = None,
    ) -> "IndexBuild":
        """Return the company's queued build: a new one, or the active one, which does more if it still can.

        Asked for while one runs, another follows it, because what has changed since may be missing from it.
        full: embed every picture anew. checksum: compare contents where size and time say unchanged.
        allow_empty: an empty folder empties the index. fold: only make the live changes part of the index.
        """
        wishes = {"full": full, "checksum": checksum, "allow_empty": allow_empty}
        while True:
            try:
                with transaction.atomic():
                    build = IndexBuild.objects.create(company=self, fold=fold, requested_by=requested_by, **wishes)
                    build_queued.send(IndexBuild, build=build)
                    return build
            except IntegrityError:  # the constraint: there is an active one
                active = self.builds.active().first()
                if active is None:  # it has just finished
                    continue
                if fold or active.ask_for_more(**wishes):
                    return active

    def issue_key(
        self, name: str, *, can_write: bool = False, expires: datetime | None = None, created_by: Any = None
    ) -> tuple["ApiKey", str]:
        """Return a new key of the company and the text that its holder sends, which nobody can tell again.

        Raises ValidationError.
        """
        key = ApiKey(company=self, name=name, can_write=can_write, expires=expires, created_by=created_by)
        text = key.draw()
        key.full_clean()
        key.save()
        return key, text

    def count_search(self) -> bool:
        """Count one search of today, UTC; False where the quota is used up, and nothing is counted.

        Without a quota nothing is counted either: a search then does not wait for who writes to the database.
        """
        return self.daily_quota is None or SearchUsage.objects.count_one(self, quota=self.daily_quota)

    def next_live_sequence(self) -> int:
        """Return the number of the next live change. Call it in a transaction: the row stays locked until its end."""
        Company.objects.filter(pk=self.pk).update(live_sequence=models.F("live_sequence") + 1)
        self.refresh_from_db(fields=["live_sequence"])
        return self.live_sequence


class SearchUsageQuerySet(models.QuerySet["SearchUsage"]):
    def today(self) -> "SearchUsageQuerySet":
        return self.filter(day=datetime.now(UTC).date())

    def count_one(self, company: Company, *, quota: int) -> bool:
        """Count one of the company's searches of today unless there are as many as quota, at least 1, already.

        One statement, which the database carries out as a whole: among any number of processes exactly quota pass.
        """
        table = connection.ops.quote_name(SearchUsage._meta.db_table)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (company_id, day, searches) VALUES (%s, %s, 1) "  # noqa: S608
                f"ON CONFLICT (company_id, day) DO UPDATE SET searches = {table}.searches + 1 "
                f"WHERE {table}.searches < %s RETURNING searches",
                [company.pk, connection.ops.adapt_datefield_value(datetime.now(UTC).date()), quota],
            )
            return cursor.fetchone() is not None


class SearchUsage(models.Model):
    """How many searches of a day a company's quota was asked for."""

    company = models.ForeignKey(Company, on_delete=models.CASCADE, related_name="search_usage")
    day = models.DateField(help_text="UTC")
    searches = models.PositiveIntegerField()

    objects = SearchUsageQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["company", "day"], name="one_usage_per_company_and_day")]

    def __str__(self) -> str:
        return f"{self.company} {self.day}: {self.searches}"


class BuildStopped(Exception):
    """The build is no longer the caller's to carry out."""


class BuildCancelled(BuildStopped):
    """Somebody cancelled the build."""


class LeaseLost(BuildStopped):
    """The build was without heartbeat for too long, and another worker has taken it over."""


class IndexBuildQuerySet(models.QuerySet["IndexBuild"]):
    def active(self) -> "IndexBuildQuerySet":
        return self.filter(status__in=IndexBuild.ACTIVE)

    def claimable(self) -> "IndexBuildQuerySet":
        """The queued, and the running whose worker has not been heard of for the length of a lease."""
        # The database's clock, because the workers' may differ.
        expired = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        return self.filter(
            models.Q(status=IndexBuild.Status.QUEUED)
            | models.Q(status=IndexBuild.Status.RUNNING, heartbeat_at__lt=expired)
        )


class IndexBuild(models.Model):
    """The making of a company's index, from the wish to its outcome.

    A worker owns a running build through its lease: every write of the worker names the lease, so that one which
    was only asleep, and whose build another has taken over, changes nothing any more.
    """

    class Status(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    class Repeat(models.TextChoices):
        CHANGED = "changed"
        FULL = "full"

    ACTIVE = (Status.QUEUED, Status.RUNNING)
    MAX_ATTEMPTS = 3

    company = models.ForeignKey(Company, on_delete=models.CASCADE, related_name="builds")
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED)
    full = models.BooleanField(default=False, help_text="Every picture is embedded anew.")
    checksum = models.BooleanField(default=False, help_text="Contents are compared, not only sizes and times.")
    allow_empty = models.BooleanField(default=False, help_text="An empty folder empties the index.")
    fold = models.BooleanField(default=False, help_text="Only live changes become part of the index.")
    image_folder = models.TextField(blank=True, help_text="Instead of the company's own.")
    repeat = models.CharField(
        max_length=7, choices=Repeat.choices, blank=True, help_text="What was asked for while it ran: it follows."
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    queued_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    heartbeat_at = models.DateTimeField(null=True)
    lease = models.CharField(max_length=32, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    images_found = models.PositiveIntegerField(default=0)
    images_embedded = models.PositiveIntegerField(default=0)
    images_reused = models.PositiveIntegerField(default=0)
    images_removed = models.PositiveIntegerField(default=0)
    images_skipped = models.PositiveIntegerField(default=0)
    images_per_second = models.FloatField(null=True)
    seconds_left = models.FloatField(null=True)
    total_images = models.PositiveIntegerField(null=True, help_text="Pictures in the index that the build made.")
    weights = models.CharField(max_length=200, blank=True, help_text="Weights of the model that made the vectors.")
    full_reason = models.TextField(blank=True, help_text="Why every picture was embedded anew.")
    error = models.TextField(blank=True)

    objects = IndexBuildQuerySet.as_manager()

    class Meta:
        ordering = ["-queued_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["company"],
                condition=models.Q(status__in=["queued", "running"]),
                name="one_active_build_per_company",
            )
        ]

    def __str__(self) -> str:
        return f"{self.company} {self.queued_at:%Y-%m-%d %H:%M} {self.get_status_display()}"

    @property
    def is_active(self) -> bool:
        return self.status in self.ACTIVE

    @property
    def images_done(self) -> int:
        return self.images_embedded + self.images_reused + self.images_skipped

    @property
    def percent(self) -> int:
        return 100 * self.images_done // self.images_found if self.images_found else 0

    def start(self) -> bool:
        """Claim the build for the caller, who holds its lease from now on; False where it is not to be had.

        A build whose workers were lost MAX_ATTEMPTS times fails here instead of being tried again.
        """
        lease = secrets.token_hex(16)
        claimed = (
            IndexBuild.objects.claimable()
            .filter(pk=self.pk, attempts__lt=self.MAX_ATTEMPTS)
            .update(
                status=self.Status.RUNNING,
                lease=lease,
                attempts=models.F("attempts") + 1,
                started_at=Coalesce("started_at", Now()),
                heartbeat_at=Now(),
                # This attempt looks at the folder anew, so it does what was asked for during the one before.
                full=models.Case(
                    models.When(repeat=self.Repeat.FULL, then=models.Value(True)), default=models.F("full")
                ),
                repeat="",
            )
        )
        if not claimed:
            IndexBuild.objects.claimable().filter(pk=self.pk, attempts__gte=self.MAX_ATTEMPTS).update(
                status=self.Status.FAILED,
                finished_at=Now(),
                error=f"Given up: the worker was lost {self.MAX_ATTEMPTS} times. Its log may tell why; "
                "a new build goes on where this one stopped.",
            )
        self.refresh_from_db()
        return bool(claimed) and self.lease == lease

    def ask_for_more(self, **wishes: bool) -> bool:
        """Have a queued build do more than it was queued for, and a running one followed by another.

        False where it is over meanwhile.
        """
        mine = IndexBuild.objects.filter(pk=self.pk)
        wished = {name: True for name, wish in wishes.items() if wish}
        queued = mine.filter(status=self.Status.QUEUED).update(fold=False, **wished)
        overdue = Now() - timedelta(seconds=settings.BUILD_LEASE_SECONDS)
        if mine.filter(status=self.Status.QUEUED, queued_at__lt=overdue).exists():
            build_queued.send(IndexBuild, build=self)  # its task may have been lost with a worker
        repeat = self.Repeat.FULL if wished else self.Repeat.CHANGED
        running = mine.filter(status=self.Status.RUNNING).exclude(repeat=self.Repeat.FULL).update(repeat=repeat)
        self.refresh_from_db()
        return bool(queued or running) or self.is_active

    def beat(self, **values: Any) -> None:
        """Write values and say that the worker lives. Raises BuildCancelled and LeaseLost."""
        self._write(heartbeat_at=Now(), **values)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the build the caller's until the end of the block: nobody cancels or takes it over meanwhile.

        Raises BuildCancelled and LeaseLost.
        """
        with transaction.atomic():
            self._write(heartbeat_at=Now())
            yield

    def succeed(self, **values: Any) -> None:
        self._write(status=self.Status.SUCCEEDED, finished_at=Now(), seconds_left=None, **values)
        self._follow_up()

    def fail(self, error: str) -> None:
        self._write(status=self.Status.FAILED, finished_at=Now(), seconds_left=None, error=error)
        self._follow_up()

    def _follow_up(self) -> None:
        repeat = IndexBuild.objects.values_list("repeat", flat=True).get(pk=self.pk)
        if repeat:
            self.company.queue_build(full=repeat == self.Repeat.FULL, requested_by=self.requested_by)

    def hand_back(self) -> None:
        """Queue the build again, for a worker that was asked to stop; it does not count as an attempt."""
        self._write(status=self.Status.QUEUED, lease="", attempts=models.F("attempts") - 1)
        build_queued.send(IndexBuild, build=self)

    def cancel(self) -> bool:
        """End the build, also a running one, whose worker notices at its next beat; False where it is over."""
        cancelled = (
            IndexBuild.objects.active()
            .filter(pk=self.pk)
            .update(status=self.Status.CANCELLED, finished_at=Now(), seconds_left=None)
        )
        self.refresh_from_db()
        return bool(cancelled)

    def _write(self, **values: Any) -> None:
        """Write values if the build is still the caller's: heartbeat, progress, fencing and cancel check in one."""
        written = IndexBuild.objects.filter(pk=self.pk, lease=self.lease, status=self.Status.RUNNING).update(**values)
        if written:
            return
        status = IndexBuild.objects.filter(pk=self.pk).values_list("status", flat=True).first()
        if status == self.Status.CANCELLED:
            raise BuildCancelled(f"The build of {self.company} was cancelled")
        raise LeaseLost(f"The build of {self.company} is no longer this worker's: another has taken it over")


class LiveChange(models.Model):
    """A picture put or deleted since the company's index was built: every search lays these over the index.

    sequence counts the company's changes; an index says up to which one it holds them.
    """

    company = models.ForeignKey(Company, on_delete=models.CASCADE, related_name="live_changes")
    sequence = models.PositiveBigIntegerField()
    path = models.TextField()
    image_id = models.CharField(max_length=36)
    vector = models.BinaryField(null=True, help_text="float32 [960]; empty for a deleted picture.")
    fingerprint = models.CharField(max_length=64, blank=True, help_text="The model that made the vector.")
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["sequence"]
        constraints = [
            models.UniqueConstraint(fields=["company", "path"], name="one_live_change_per_path"),
            models.UniqueConstraint(fields=["company", "sequence"], name="live_changes_are_numbered"),
        ]

    def __str__(self) -> str:
        return f"{self.company} {'put' if self.vector else 'deleted'} {self.path}"


class SkippedImage(models.Model):
    """A file that a build could not index, and why."""

    build = models.ForeignKey(IndexBuild, on_delete=models.CASCADE, related_name="skipped_files")
    path = models.TextField()
    reason = models.TextField()

    class Meta:
        ordering = ["path"]

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self) -> "ApiKeyQuerySet":
        """Those that are neither revoked nor expired nor of a company that is switched off."""
        return self.filter(
            models.Q(expires=None) | models.Q(expires__gt=Now()), revoked=None, company__active=True
        ).select_related("company")

    def find(self, text: str) -> "ApiKey | None":
        """Return the usable key whose text this is, or None. text: anything a stranger may send."""
        parts = ApiKey.PATTERN.fullmatch(text)
        key = self.usable().filter(prefix=parts["prefix"]).first() if parts else None
        return key if key and parts and key.has_secret(parts["secret"]) else None


class ApiKey(models.Model):
    """Lets its holder search one company. The text is `<prefix>.<secret>`; only a digest of the secret is kept."""

    PATTERN = re.compile(r"(?P<prefix>[0-9a-f]{12})\.(?P<secret>[A-Za-z0-9_-]{43})")
    USE_NOTED_EVERY = timedelta(minutes=1)

    company = models.ForeignKey(Company, on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, help_text="Who holds it, or what for.")
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    can_write = models.BooleanField(
        default=False, help_text="May also put and delete pictures, and start and cancel builds."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField(null=True, blank=True, help_text="From then on it is refused; empty for never.")
    last_used = models.DateTimeField(null=True, editable=False, help_text="To the minute.")
    revoked = models.DateTimeField(null=True, editable=False)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        ordering = ["company__name", "-created"]

    def __str__(self) -> str:
        return f"{self.prefix} ({self.name})"

    @property
    def state(self) -> str:
        if self.revoked:
            return "revoked"
        return "expired" if self.expires and self.expires <= timezone.now() else "valid"

    @property
    def description(self) -> str:
        """What the key is for, in the audit's words."""
        until = f", expires {self.expires:%Y-%m-%d %H:%M} UTC" if self.expires else ""
        return f"{self}{', may write' if self.can_write else ''}{until}"

    def draw(self) -> str:
        """Give a key that is not saved yet its secret; return the text, which the row does not hold."""
        secret = secrets.token_urlsafe(32)
        self.prefix = secrets.token_hex(6)
        self.digest = _digest(secret, settings.SECRET_KEY)
        return f"{self.prefix}.{secret}"

    def has_secret(self, secret: str) -> bool:
        """Tell whether the secret is the key's, in a time that tells nothing about it; note that the key is used."""
        for secret_key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS):
            if constant_time_compare(self.digest, _digest(secret, secret_key)):
                self._note_use(secret)
                return True
        return False

    def _note_use(self, secret: str) -> None:
        # Also where two processes find the minute over at once, it is written once: the condition is asked in SQL.
        due = timezone.now() - self.USE_NOTED_EVERY
        if self.last_used and self.last_used > due:
            return
        try:
            ApiKey.objects.filter(models.Q(last_used=None) | models.Q(last_used__lte=due), pk=self.pk).update(
                last_used=Now(),
                digest=_digest(secret, settings.SECRET_KEY),  # where it was a fallback's, that one can go
            )
        except DatabaseError:  # busy or full: a search does not fail over it
            logger.warning("The use of the key %s could not be noted", self.prefix, exc_info=True)

    def revoke(self) -> bool:
        """Have the key refused from the next request on; False where it was revoked before."""
        revoked = ApiKey.objects.filter(pk=self.pk, revoked=None).update(revoked=Now())
        self.refresh_from_db(fields=["revoked"])
        return bool(revoked)


def _digest(secret: str, secret_key: str) -> str:
    """Return what is kept of a key's secret: 64 hexadecimal digits.

    A fast hash, because 256 random bits cannot be guessed however fast the guessing; made with SECRET_KEY, so that who
    can only write to the database, or restores a backup of it elsewhere, has no key that works.
    """
    return salted_hmac("tenants.ApiKey", secret, secret=secret_key, algorithm="sha256").hexdigest()


class AuditEvent(models.Model):
    """Who did what to which company. Rows are added by tenants.audit.record and never changed.

    Everything is text, so that it outlives users, keys and companies.
    """

    class Channel(models.TextChoices):
        ADMIN = "admin", "admin"
        BASIC = "basic", "HTTP Basic"
        KEY = "key", "API key"
        COMMAND = "command", "command line"

    class Action(models.TextChoices):
        COMPANY_MADE = "company made"
        COMPANY_CHANGED = "company changed"
        COMPANY_DELETED = "company deleted"
        PICTURE_PUT = "picture put"
        PICTURE_DELETED = "picture deleted"
        PICTURES_UPLOADED = "pictures uploaded"
        BUILD_ASKED = "build asked for"
        BUILD_CANCELLED = "build cancelled"
        COMPANY_EXPORTED = "company exported"
        INDEX_IMPORTED = "index imported"
        INDEX_ROLLED_BACK = "index rolled back"
        KEY_MADE = "key made"
        KEY_REVOKED = "key revoked"

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.CharField(max_length=200, help_text="A user's name, a key's prefix and name, or a system user.")
    channel = models.CharField(max_length=10, choices=Channel.choices)
    action = models.CharField(max_length=20, help_text="One of Action's.")
    company = models.CharField(max_length=64, db_index=True)
    detail = models.TextField(blank=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.actor}: {self.company}, {self.action}"
