from typing import Any

from django.urls import URLPattern, path, register_converter
from django.urls.converters import StringConverter
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from search.views import CompaniesView, HealthView, SearchView, StatsView


def _with_and_without_slash(route: str, view: Any) -> list[URLPattern]:
    # The one with the slash comes first: <name:...> would take the slash for a part of the name.
    return [path(f"{route}/", view), path(route, view)]


class _AnyName(StringConverter):
    """Also slashes and line breaks: ../etc is a company that is unknown, like any other."""

    regex = "(?s:.+)"


register_converter(_AnyName, "name")

urlpatterns = [
    *_with_and_without_slash("health", HealthView.as_view()),
    *_with_and_without_slash("companies", CompaniesView.as_view()),
    *_with_and_without_slash("stats/<name:company>", StatsView.as_view()),
    *_with_and_without_slash("search/<name:company>", SearchView.as_view()),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
]
