import re
import secrets
from collections.abc import Hashable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from tenants.models.audit import Actor, AuditEvent, record
from tenants.models.rows import SavedOnce
from tenants.models.unwritten import unwritten


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
                    unwritten.note(_Use(self.pk, timezone.now(), self.digest, digest))
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

    @property
    def subject(self) -> Hashable:
        return "key", self.key

    def added_to(self, earlier: Any) -> "_Use":
        return self

    def write(self) -> None:
        # Also where two processes find the minute over at once, it is written once: the condition is asked in SQL.
        due = models.Q(last_used=None) | models.Q(last_used__lte=self.at - ApiKey.USE_NOTED_EVERY)
        same = ApiKey.objects.filter(due, pk=self.key, digest=self.digest_before)
        same.update(last_used=self.at, digest=self.digest)


def _digest(secret: str, secret_key: str) -> str:
    """Return what is kept of a key's secret: 64 hexadecimal digits.

    A fast hash, because 256 random bits cannot be guessed however fast the guessing; made with SECRET_KEY, so that who
    can only write to the database, or restores a backup of it elsewhere, has no key that works.
    """
    return salted_hmac("tenants.ApiKey", secret, secret=secret_key, algorithm="sha256").hexdigest()
