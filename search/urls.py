from typing import Any

from django.urls import URLPattern, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from search.views import CompaniesView, HealthView, SearchView, StatsView


def _with_and_without_slash(route: str, view: Any) -> list[URLPattern]:
    # The one with the slash comes first: <path:...> would take the slash for a part of the name.
    return [path(f"{route}/", view), path(route, view)]


# Names are matched as <path:...> so that one with a slash, such as ../etc, is an unknown company like any other.
urlpatterns = [
    *_with_and_without_slash("health", HealthView.as_view()),
    *_with_and_without_slash("companies", CompaniesView.as_view()),
    *_with_and_without_slash("stats/<path:company>", StatsView.as_view()),
    *_with_and_without_slash("search/<path:company>", SearchView.as_view()),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
]
