"""Who did what to which company: rows for the admin, and lines of the logger "audit"."""

import os
import pwd

from django.http import HttpRequest

from tenants.models import ApiKey, AuditEvent
from tenants.models.audit import Actor, Channel, record

__all__ = ["Action", "Actor", "Channel", "holder_of", "in_admin", "on_command_line", "record"]

Action = AuditEvent.Action


def in_admin(request: HttpRequest) -> Actor:
    return Actor(request.user.get_username(), Channel.ADMIN, request.user)


def holder_of(key: ApiKey) -> Actor:
    return Actor(str(key), Channel.KEY)


def on_command_line() -> Actor:
    """Return the user of the operating system that runs this process."""
    number = os.getuid()
    try:
        return Actor(pwd.getpwuid(number).pw_name, Channel.COMMAND)
    except KeyError:  # a container's, which nobody has given a name
        return Actor(str(number), Channel.COMMAND)
