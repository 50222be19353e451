import logging
from dataclasses import dataclass
from typing import Any

from django.db import models, transaction

from tenants.models.rows import SavedOnce

logger = logging.getLogger("audit")


class Channel(models.TextChoices):
    ADMIN = "admin", "admin"
    BASIC = "basic", "HTTP Basic"
    KEY = "key", "API key"
    COMMAND = "command", "command line"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked for something, and through which channel."""

    name: str
    channel: Channel
    user: Any = None  # of the database, where it is one of those


class AuditEvent(SavedOnce):
    """Who did what to which company. Rows are added by record() and never changed.

    Everything is text, so that it outlives users, keys and companies.
    """

    Channel = Channel

    class Action(models.TextChoices):
        """What is stored is read by others and stays; the labels are what people see."""

        COMPANY_MADE = "company made", "company created"
        COMPANY_CHANGED = "company changed", "company updated"
        COMPANY_DELETED = "company deleted", "company deleted"
        PICTURE_PUT = "picture put", "picture uploaded"
        PICTURE_DELETED = "picture deleted", "picture deleted"
        PICTURES_UPLOADED = "pictures uploaded", "pictures uploaded"
        BUILD_ASKED = "build asked for", "build requested"
        BUILD_CANCELLED = "build cancelled", "build cancelled"
        DUPLICATES_ASKED = "duplicates asked for", "search for duplicates requested"
        DUPLICATES_CANCELLED = "duplicates cancelled", "search for duplicates cancelled"
        NOT_DUPLICATES = "not duplicates", "marked as not duplicates"
        DUPLICATES_AFTER_ALL = "duplicates after all", "no longer marked as not duplicates"
        COMPANY_EXPORTED = "company exported", "company exported"
        INDEX_IMPORTED = "index imported", "index imported"
        ENGINE_CHOSEN = "engine chosen", "search engine chosen"
        INDEX_ROLLED_BACK = "index rolled back", "index rolled back"
        MODEL_CHOSEN = "model chosen", "model chosen"
        KEY_MADE = "key made", "API key created"
        KEY_REVOKED = "key revoked", "API key revoked"
        USER_CONFINED = "user confined", "user confined to companies"
        CONFINEMENT_CHANGED = "confinement changed", "user's companies changed"
        CONFINEMENT_LIFTED = "confinement lifted", "confinement lifted"

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.CharField(max_length=200, help_text="A user's name, a key's prefix and name, or a system user.")
    channel = models.CharField(max_length=10, choices=Channel.choices)
    action = models.CharField(max_length=20, choices=Action.choices)
    company = models.CharField(max_length=64, db_index=True)
    company_key = models.BigIntegerField(
        null=True,
        default=None,
        db_default=None,
        db_index=True,
        help_text="The company's primary key: one made anew under an old name is another.",
    )
    detail = models.TextField(blank=True)

    class Meta:
        ordering = ["-at", "-id"]

    def __str__(self) -> str:
        return f"{self.actor}: {', '.join(filter(None, [self.company, self.get_action_display()]))}"


def record(by: Actor | None, action: AuditEvent.Action, company: models.Model | str, detail: str = "") -> None:
    """Keep who did this to the company. Call it in the transaction that does it, where there is one.

    by: None for what the service does by itself, of which nothing is kept. company: or its name, where nothing else is
    left of it; "" where it concerns none alone. detail: never a secret.
    """
    if by is None:
        return
    name = str(company)
    AuditEvent.objects.create(
        actor=by.name[:200],
        channel=by.channel,
        action=action,
        company=name[:64],
        company_key=company.pk if isinstance(company, models.Model) else None,
        detail=detail,
    )
    line = {"actor": by.name, "channel": by.channel.value, "action": action.value, "company": name}
    transaction.on_commit(
        lambda: logger.info(
            "%s (%s): %s%s%s",
            by.name,
            by.channel.label,
            action.label,
            f", company {name}" if name else "",
            f": {detail}" if detail else "",
            extra={**line, "detail": detail},
        )
    )
