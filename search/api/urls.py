from typing import Any

from django.urls import URLPattern, path, re_path, register_converter
from django.urls.converters import IntConverter, StringConverter
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from search.api import openapi as openapi  # which says how a key is sent
from search.api.views.builds import BuildView, CancelBuildView, ReindexView
from search.api.views.companies import CompaniesView, StatsView
from search.api.views.duplicates import DuplicatesView
from search.api.views.elsewhere import NoSuchPageView
from search.api.views.folders import FoldersView
from search.api.views.images import ImagesView, ImageView
from search.api.views.pictures import PictureView, ThumbnailView
from search.api.views.probes import HealthView, LiveView, ReadyView
from search.api.views.search import NoIdView, SearchView, SimilarView
from search.api.views.usage import UsageView


def _with_and_without_slash(route: str, view: Any, name: str | None = None) -> list[URLPattern]:
    # The route with the slash comes first: <name:...> would take the slash as part of the name.
    return [path(f"{route}/", view), path(route, view, name=name)]


class ApiDocsView(SpectacularSwaggerSplitView):
    template_name = "search/api_docs.html"


class _AnyName(StringConverter):
    """Any text, slashes and line breaks included: ../etc is just an unknown company."""

    regex = "(?s:.+)"


class _RowNumber(IntConverter):
    """A primary key: no more digits than the database's numbers have."""

    regex = "[0-9]{1,18}"


register_converter(_AnyName, "name")
register_converter(_RowNumber, "number")

urlpatterns = [
    *_with_and_without_slash("health", HealthView.as_view()),
    *_with_and_without_slash("health/live", LiveView.as_view()),
    *_with_and_without_slash("health/ready", ReadyView.as_view()),
    *_with_and_without_slash("companies", CompaniesView.as_view()),
    *_with_and_without_slash("stats/<name:company>", StatsView.as_view()),
    *_with_and_without_slash("search/<str:company>/<uuid:image_id>", SimilarView.as_view()),
    *_with_and_without_slash("search/<str:company>/<name:image_id>", NoIdView.as_view()),
    *_with_and_without_slash("search/<name:company>", SearchView.as_view()),
    *_with_and_without_slash("images/<str:company>/<name:image_path>", ImageView.as_view()),
    *_with_and_without_slash("images/<str:company>", ImagesView.as_view()),
    *_with_and_without_slash("pictures/<str:company>/<name:image_id>/thumbnail", ThumbnailView.as_view(), "thumbnail"),
    *_with_and_without_slash("pictures/<str:company>/<name:image_id>", PictureView.as_view(), "picture"),
    *_with_and_without_slash("duplicates/<name:company>", DuplicatesView.as_view()),
    *_with_and_without_slash("folders/<name:company>", FoldersView.as_view()),
    *_with_and_without_slash("usage/<name:company>", UsageView.as_view()),
    *_with_and_without_slash("reindex/<name:company>", ReindexView.as_view()),
    *_with_and_without_slash("builds/<number:build_id>", BuildView.as_view(), name="build"),
    *_with_and_without_slash("builds/<number:build_id>/cancel", CancelBuildView.as_view()),
    path("schema", SpectacularAPIView.as_view()),
    path("schema/", SpectacularAPIView.as_view(), name="schema"),
    path("docs", ApiDocsView.as_view(url_name="schema")),
    path("docs/", ApiDocsView.as_view(url_name="schema"), name="docs"),
    re_path("", NoSuchPageView.as_view()),
]
