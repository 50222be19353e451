import logging
import re
import secrets
import threading
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.signals import request_finished
from django.db import Error, models, transaction
from django.db.models.functions import Now
from django.dispatch import receiver
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.patience import waiting_at_most
from tenants.models.rows import SavedOnce

logger = logging.getLogger(__name__)


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


class ApiKey(SavedOnce):
    """Lets its holder search one company. The text is `<prefix>.<secret>`; only a digest of the secret is kept."""

    PATTERN = re.compile(r"(?P<prefix>[0-9a-f]{12})\.(?P<secret>[A-Za-z0-9_-]{43})")
    USE_NOTED_EVERY = timedelta(minutes=1)

    company = models.ForeignKey("tenants.Company", on_delete=models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=100, help_text="Who uses the key, or what for.")
    prefix = models.CharField(max_length=12, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    can_write = models.BooleanField(
        default=False, help_text="Can also add and delete pictures, and start and cancel builds."
    )
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    created = models.DateTimeField(auto_now_add=True)
    expires = models.DateTimeField(null=True, blank=True, help_text="When the key stops working. Empty: never.")
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

    def issue(self, *, by: Actor | None = None) -> str:
        """Save a new key; return the text that its holder sends, which nobody can tell again."""
        text = self.draw()
        self.created_by = by.user if by else None
        with transaction.atomic():
            self.save()
            record(by, AuditEvent.Action.KEY_MADE, self.company, self.description)
        return text

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
                if not self.last_used or self.last_used <= timezone.now() - self.USE_NOTED_EVERY:
                    # Where the digest was a fallback's, that one can go.
                    digest = _digest(secret, settings.SECRET_KEY)
                    _unwritten.note(_Use(self.pk, timezone.now(), self.digest, digest))
                return True
        return False

    def revoke(self, *, by: Actor | None = None) -> bool:
        """Have the key refused from the next request on; False where it was revoked before."""
        with transaction.atomic():
            revoked = ApiKey.objects.filter(pk=self.pk, revoked=None).update(revoked=Now())
            if revoked:
                record(by, AuditEvent.Action.KEY_REVOKED, self.company, str(self))
        self.refresh_from_db(fields=["revoked"])
        return bool(revoked)


@dataclass(frozen=True, slots=True)
class _Use:
    """That a key was used, and what is to be kept of its secret from now on."""

    key: int
    at: datetime
    digest_before: str
    digest: str

    def write(self) -> None:
        # Also where two processes find the minute over at once, it is written once: the condition is asked in SQL.
        due = models.Q(last_used=None) | models.Q(last_used__lte=self.at - ApiKey.USE_NOTED_EVERY)
        same = ApiKey.objects.filter(due, pk=self.key, digest=self.digest_before)
        same.update(last_used=self.at, digest=self.digest)


class _Unwritten:
    """The uses of keys that this process has yet to write, the last one of each key.

    Requests add to them; whichever has been answered takes them all and writes them. lock guards the table.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uses: dict[int, _Use] = {}

    def note(self, use: _Use) -> None:
        with self._lock:
            self._uses[use.key] = use

    def forget(self) -> None:
        with self._lock:
            self._uses.clear()

    def write(self) -> None:
        """Write them unless somebody else writes to the database at the moment: then a later request does it."""
        with self._lock:
            uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            with waiting_at_most(0), transaction.atomic():
                for use in uses.values():
                    use.write()
        except Error as error:
            logger.debug("The use of %d keys is noted later: %s", len(uses), error)
            with self._lock:
                self._uses = uses | self._uses


_unwritten = _Unwritten()


def reset() -> None:
    """Forget what is unwritten, so that the process is as one that has just begun."""
    _unwritten.forget()


@receiver(request_finished, dispatch_uid="tenants.write_uses")
def _write_uses(sender: object, **_: object) -> None:
    """Write the uses of keys once the answer is out, so that no search waits for who writes to the database."""
    _unwritten.write()


def _digest(secret: str, secret_key: str) -> str:
    """Return what is kept of a key's secret: 64 hexadecimal digits.

    A fast hash, because 256 random bits cannot be guessed however fast the guessing; made with SECRET_KEY, so that who
    can only write to the database, or restores a backup of it elsewhere, has no key that works.
    """
    return salted_hmac("tenants.ApiKey", secret, secret=secret_key, algorithm="sha256").hexdigest()
