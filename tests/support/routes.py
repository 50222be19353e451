"""All addresses of the project, from the URL resolver, so that one that is added is asked as well."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RegexPattern

_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")


@dataclass(frozen=True, slots=True)
class Route:
    template: str  # /admin/tenants/company/<int:pk>/reindex/
    name: str

    @property
    def parameters(self) -> list[str]:
        return _PARAMETER.findall(self.template)

    def path(self, values: dict[str, Any]) -> str:
        return _PARAMETER.sub(lambda found: str(values[found[1]]), self.template)


def routes() -> list[Route]:
    """Return every route, but for the ones that match anything, whatever it is."""
    return list(_below(get_resolver(), "/"))


def _below(resolver: URLResolver, prefix: str) -> Iterator[Route]:
    for each in resolver.url_patterns:
        template = prefix + _template(each)
        if isinstance(each, URLResolver):
            yield from _below(each, template)
        elif not template.endswith(("*", "api/")):
            yield Route(template, each.name or "")


def _template(each: URLPattern | URLResolver) -> str:
    if not isinstance(each.pattern, RegexPattern):
        return str(each.pattern)
    # ^(?P<app_label>auth|tenants)/$ and (?P<url>.*)$
    text = str(each.pattern).replace("(?P<url>.*)$", "*")
    return re.sub(r"\(\?P(<\w+>)[^)]*\)", r"\1", text).strip("^$")
