"""Builds in the admin: the list, a page for each, and the files it skipped."""

import csv
from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import Truncator
from django.views.decorators.http import require_GET

from search.admin.site import Assets
from search.monitoring.durations import format_seconds
from search.spreadsheets import harmless
from tenants.admin import ReadOnlyAdmin
from tenants.confined_admin import OfCompanies
from tenants.models import IndexBuild

SKIPPED_SHOWN = 50


def _count(field: str, title: str) -> Any:
    """Return a column of the list, in the words of a company's page."""

    @admin.display(description=title, ordering=field)
    def count(build: IndexBuild) -> str:
        return f"{getattr(build, field):,}"

    count.__name__ = field
    return count


_COUNTS = (
    _count("images_found", "Found"),
    _count("images_embedded", "Processed"),
    _count("images_reused", "Unchanged"),
    _count("images_removed", "Removed"),
    _count("images_skipped", "Skipped"),
)


@admin.register(IndexBuild)
class IndexBuildAdmin(OfCompanies, ReadOnlyAdmin):
    """Builds are created by requesting one and cannot be edited."""

    list_display = ("number", "company", "status_and_error", "queued_at", "took", *_COUNTS, "rate")
    list_display_links = ("number",)
    list_filter = ("status", "queued_at")
    list_per_page = 50
    list_select_related = ("company",)
    search_fields = ("company__name", "error")
    fieldsets = (
        (None, {"fields": ("company", "badge", "error", "requested_by")}),
        ("Request", {"fields": ("description", "image_folder")}),
        (
            "Result",
            {
                "fields": (*_COUNTS, "total_images", "units", "rate", "left", "weights", "full_reason"),
            },
        ),
        ("Times", {"fields": ("queued_at", "started_at", "finished_at", "took", "heartbeat_at", "attempts")}),
        ("Skipped files", {"fields": ("skipped",)}),
    )

    Media = Assets

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Who may see a company may see its builds."""
        user = request.user
        return any(user.has_perm(f"tenants.{name}") for name in ("view_indexbuild", "view_company", "change_company"))

    def get_urls(self) -> list[URLPattern]:
        skipped = self.admin_site.admin_view(require_GET(self.skipped_view))
        return [path("<int:pk>/skipped.csv", skipped, name="tenants_indexbuild_skipped"), *super().get_urls()]

    @admin.display(description="Build", ordering="pk")
    def number(self, build: IndexBuild) -> int:
        return build.pk

    @admin.display(description="Status", ordering="status")
    def status_and_error(self, build: IndexBuild) -> SafeString:
        return format_html('{}<span class="quiet">{}</span>', self.badge(build), Truncator(build.error).chars(120))

    @admin.display(description="Status")
    def badge(self, build: IndexBuild) -> SafeString:
        return format_html('<span class="badge is-{}">{}</span>', build.status, build.status)

    @admin.display(description="Duration")
    def took(self, build: IndexBuild) -> str:
        return took(build) or "-"

    @admin.display(description="Pictures/s")
    def rate(self, build: IndexBuild) -> str:
        return f"{build.images_per_second:.1f}" if build.images_per_second else "-"

    @admin.display(description="Shared among workers")
    def units(self, build: IndexBuild) -> str:
        return build.units_description or "-"

    @admin.display(description="Time left")
    def left(self, build: IndexBuild) -> str:
        return "-" if build.seconds_left is None else format_seconds(build.seconds_left)

    @admin.display(description="Files")
    def skipped(self, build: IndexBuild) -> str:
        context = {"skipping": build, "skipped_files": build.skipped_files.all()[:SKIPPED_SHOWN]}
        return render_to_string("admin/tenants/company/_skipped_files.html", context)

    def skipped_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Stream the build's skipped files as CSV."""
        build = get_object_or_404(self.get_queryset(request).select_related("company"), pk=pk)
        if not self.has_view_permission(request, build):
            raise PermissionDenied
        return StreamingHttpResponse(  # type: ignore[return-value]
            _skipped_csv(build),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{build.company.name}-{build.pk}-skipped.csv"'},
        )


def took(build: IndexBuild) -> str:
    """Return how long a finished build took."""
    if not (build.started_at and build.finished_at):
        return ""
    return format_seconds((build.finished_at - build.started_at).total_seconds())


class _Echo:
    """A file that returns what is written, so that a CSV can be streamed."""

    def write(self, text: str) -> str:
        return text


def _skipped_csv(build: IndexBuild) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield "\ufeff"  # byte order mark: Excel needs it to recognise UTF-8
    yield writer.writerow(["path", "reason"])
    for path_, reason in build.skipped_files.values_list("path", "reason").iterator(chunk_size=2000):
        yield writer.writerow([harmless(path_), harmless(reason)])
