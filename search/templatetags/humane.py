from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django import template
from django.contrib.admin import ListFilter
from django.contrib.admin.views.main import ChangeList
from django.utils import timezone
from django.utils.timesince import timesince

register = template.Library()


@register.filter
def thousands(number: int) -> str:
    """Return number with its thousands apart: 12,345."""
    return f"{number:,}"


@register.filter
def ago(moment: datetime) -> str:
    """Return how long ago moment was: just now, 3 minutes ago, 2 days ago."""
    if (timezone.now() - moment).total_seconds() < 60:
        return "just now"
    return f"{timesince(moment, depth=1)} ago"


@register.filter
def first_of(items: list[Any], limit: int) -> list[Any]:
    return items[:limit]


@register.filter
def choices_of(filter_: ListFilter, changes: ChangeList) -> list[Mapping[str, object]]:
    """Return what a filter of an admin's list can be set to."""
    return list(filter_.choices(changes))


@register.filter
def readable(name: str) -> str:
    """Return a name of a file or folder as a page can hold it: what is no text in it stands as \\udcff."""
    return name.encode("utf-8", "backslashreplace").decode()
