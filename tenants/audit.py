"""Who did what to which company: rows for the admin, and lines of the logger "audit"."""

import logging
import os
import pwd
from dataclasses import dataclass

from django.db import transaction
from django.http import HttpRequest

from tenants.models import ApiKey, AuditEvent

logger = logging.getLogger("audit")

Action = AuditEvent.Action
Channel = AuditEvent.Channel


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked for something, and by which door."""

    name: str
    channel: Channel


def in_admin(request: HttpRequest) -> Actor:
    return Actor(request.user.get_username(), Channel.ADMIN)


def holder_of(key: ApiKey) -> Actor:
    return Actor(str(key), Channel.KEY)


def on_command_line() -> Actor:
    """Return the user of the operating system that runs this process."""
    number = os.getuid()
    try:
        return Actor(pwd.getpwuid(number).pw_name, Channel.COMMAND)
    except KeyError:  # a container's, which nobody has given a name
        return Actor(str(number), Channel.COMMAND)


def record(actor: Actor, action: Action, company: object, detail: str = "") -> None:
    """Keep that actor did this to the company. Call it in the transaction that does it, where there is one.

    company: its name, or the company itself. detail: never a secret.
    """
    name = str(company)
    AuditEvent.objects.create(
        actor=actor.name[:200],
        channel=actor.channel,
        action=action,
        company=name[:64],
        company_key=getattr(company, "pk", None),
        detail=detail,
    )
    line = {"actor": actor.name, "channel": actor.channel.value, "action": action.value, "company": name}
    transaction.on_commit(
        lambda: logger.info(
            "%s (%s): %s of %s%s",
            actor.name,
            actor.channel.label,
            action.value,
            name,
            f": {detail}" if detail else "",
            extra={**line, "detail": detail},
        )
    )
