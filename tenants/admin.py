from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from tenants.models import Company, IndexBuild, SkippedImage

admin.site.site_header = admin.site.site_title = "Image search"
admin.site.index_title = "Companies and their indexes"

_BADGE_COLOURS = {"queued": "#6c757d", "running": "#0d6efd", "succeeded": "#198754", "failed": "#dc3545"}


def _badge(text: str, colour: str) -> SafeString:
    style = f"background:{colour};color:#fff;padding:2px 8px;border-radius:8px;white-space:nowrap"
    return format_html('<span style="{}">{}</span>', style, text)


class ReadOnlyAdminMixin:
    """Rows that only the builds write."""

    def has_add_permission(self, *args: Any, **kwargs: Any) -> bool:
        return False

    def has_change_permission(self, *args: Any, **kwargs: Any) -> bool:
        return False

    def has_delete_permission(self, *args: Any, **kwargs: Any) -> bool:
        return False


@admin.register(Company)
class CompanyAdmin(admin.ModelAdmin):
    list_display = ("name", "active", "status", "pictures", "last_build")
    list_filter = ("active",)
    search_fields = ("name", "notes")
    fields = ("name", "active", "image_folder", "notes")
    actions = ("reindex",)

    def get_readonly_fields(self, request: HttpRequest, obj: Company | None = None) -> tuple[str, ...]:
        return ("name",) if obj else ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Company]:
        return super().get_queryset(request).prefetch_related("builds")

    @admin.action(description="Reindex", permissions=["reindex"])
    def reindex(self, request: HttpRequest, companies: QuerySet[Company]) -> None:
        for company in companies:
            build = company.queue_build()
            self.message_user(request, f"{company}: build {build.pk} is {build.status}", messages.SUCCESS)

    def has_reindex_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.reindex_company")

    @admin.display(description="Status")
    def status(self, company: Company) -> SafeString:
        build = _last_build(company)
        return _build_badge(build) if build else _badge("no index yet", "#6c757d")

    @admin.display(description="Pictures")
    def pictures(self, company: Company) -> str | SafeString:
        build = next((b for b in company.builds.all() if b.status == IndexBuild.Status.SUCCEEDED), None)
        if build is None:
            return "-"
        if build.weights == "untrained":
            return format_html("{} {}", build.total_images, _badge("untrained weights", "#dc3545"))
        return str(build.total_images)

    @admin.display(description="Last build")
    def last_build(self, company: Company) -> str:
        build = _last_build(company)
        return f"{timesince(build.finished_at or build.queued_at)} ago" if build else "never"


class SkippedImageInline(ReadOnlyAdminMixin, admin.TabularInline):
    model = SkippedImage
    fields = ("path", "reason")
    extra = 0


@admin.register(IndexBuild)
class IndexBuildAdmin(ReadOnlyAdminMixin, admin.ModelAdmin):
    list_display = (
        "company",
        "badge",
        "queued_at",
        "finished_at",
        "images_found",
        "images_embedded",
        "images_skipped",
        "error",
    )
    list_filter = ("status", "company")
    list_select_related = ("company",)
    inlines = (SkippedImageInline,)

    @admin.display(description="Status", ordering="status")
    def badge(self, build: IndexBuild) -> SafeString:
        return _build_badge(build)


def _last_build(company: Company) -> IndexBuild | None:
    return next(iter(company.builds.all()), None)


def _build_badge(build: IndexBuild) -> SafeString:
    return _badge(build.get_status_display(), _BADGE_COLOURS[build.status])
