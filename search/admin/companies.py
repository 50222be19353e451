"""The admin: companies and their indexes, for the person who looks after them daily."""

import csv
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import PermissionDenied, TooManyFilesSent, ValidationError
from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler
from django.db import transaction
from django.db.models import Model, Prefetch, QuerySet
from django.forms import ModelForm
from django.forms.widgets import Script
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_GET, require_POST

from search.admin.overview import Overview, generations, overview, pictures_found
from search.companies import removal
from search.companies.rollback import roll_back
from search.engine import storage
from search.engine.errors import EngineError
from search.engine.model.passport import UNTRAINED
from search.engine.pictures.intake import Intake, IntakeLimits, Upload, take_in
from search.monitoring.durations import format_seconds
from tenants import audit
from tenants.admin import ReadOnlyAdmin
from tenants.models import ApiKey, Company, IndexBuild, LiveChange, SearchUsage, SkippedImage

MAX_UPLOAD_BYTES = 2**30  # of one request, zips as they are
BUILDS_SHOWN = 20
SKIPPED_SHOWN = 50
LINES_SHOWN = 500  # of the stored and of the refused files of an upload

_CELLS = ("status", "pictures", "last_build", "size")
_FORMULA_STARTS = (
    "=",
    "+",
    "-",
    "@",
    "|",
    "\t",
    "\r",
    "\n",
    "\uff1d",
    "\uff0b",
    "\uff0d",
    "\uff20",
)  # the last are wide
_SECTIONS = ("overview", "actions", "generations", "history", "skipped")

admin.site.site_header = admin.site.site_title = "Image search"
admin.site.index_title = "Companies and their indexes"


class _Assets:
    css = {"all": ["search/admin.css"]}
    js = [Script("search/admin.js", defer=True)]


@admin.register(Company)
class CompanyAdmin(admin.ModelAdmin):
    list_display = ("name", *_CELLS, "searches_today", "active")
    list_per_page = 50
    search_fields = ("name", "notes")
    fields = ("name", "active", "image_folder", "daily_quota", "searches_today", "requires_api_key", "notes")
    actions = ("reindex", "rebuild", "roll_back")

    Media = _Assets

    def get_readonly_fields(self, request: HttpRequest, obj: Company | None = None) -> tuple[str, ...]:
        return ("name", "searches_today") if obj else ("searches_today",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Company]:
        last_build = Prefetch("builds", queryset=IndexBuild.objects.all()[:1], to_attr="last_builds")
        usage = Prefetch("search_usage", queryset=SearchUsage.objects.today(), to_attr="usage_today")
        return super().get_queryset(request).prefetch_related(last_build, usage)

    def has_reindex_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("tenants.reindex_company") and self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        # The upload checks its size before anything, the CSRF token too, has read it.
        upload = csrf_exempt(self.upload_view)
        return [
            path("live/", view(self.live_list_view), name="tenants_company_live_list"),
            path("<int:pk>/live/", view(self.live_view), name="tenants_company_live"),
            path("<int:pk>/found/", view(self.found_view), name="tenants_company_found"),
            path("<int:pk>/reindex/", view(require_POST(self.reindex_view)), name="tenants_company_reindex"),
            path("<int:pk>/cancel/", view(require_POST(self.cancel_view)), name="tenants_company_cancel"),
            path("<int:pk>/roll-back/", view(require_POST(self.roll_back_view)), name="tenants_company_roll_back"),
            path("<int:pk>/upload/", view(upload), name="tenants_company_upload"),
            *super().get_urls(),
        ]

    # The list

    @admin.display(description="Status")
    def status(self, company: Company) -> SafeString:
        return _live_cell(company, "status")

    @admin.display(description="Pictures")
    def pictures(self, company: Company) -> SafeString:
        return _live_cell(company, "pictures")

    @admin.display(description="Last build")
    def last_build(self, company: Company) -> SafeString:
        return _live_cell(company, "last_build")

    @admin.display(description="Size on disk")
    def size(self, company: Company) -> SafeString:
        return _live_cell(company, "size")

    @admin.display(description="Searches today")
    def searches_today(self, company: Company) -> str:
        if company.daily_quota is None:
            return "no quota"
        used = sum(usage.searches for usage in company.__dict__.get("usage_today", []))
        return f"{used:,} of {company.daily_quota:,}"

    @admin.action(description="Reindex changed", permissions=["reindex"])
    def reindex(self, request: HttpRequest, companies: QuerySet[Company]) -> None:
        for company in companies:
            self._queue_build(request, company, full=False)

    @admin.action(description="Rebuild everything", permissions=["reindex"])
    def rebuild(self, request: HttpRequest, companies: QuerySet[Company]) -> None:
        for company in companies:
            self._queue_build(request, company, full=True)

    @admin.action(description="Roll back to the previous index", permissions=["reindex"])
    def roll_back(self, request: HttpRequest, companies: QuerySet[Company]) -> HttpResponse | None:
        if request.POST.get("confirmed") == "1":
            for company in companies:
                self._roll_back(request, company, None)
            return None
        context = {
            **self.admin_site.each_context(request),
            "title": "Roll back to the previous index?",
            "opts": self.opts,
            "companies": companies,
            "action_checkbox_name": ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/tenants/company/roll_back_confirmation.html", context)

    def live_list_view(self, request: HttpRequest) -> HttpResponse:
        """Answer the list's script: how the companies of the given ids stand."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        texts = request.GET.getlist("id")[: self.list_max_show_all]
        ids = [int(text) for text in texts if text.isdecimal() and len(text) < 19]  # what a database's integer holds
        companies = list(self.get_queryset(request).filter(pk__in=ids))
        return _live_answer(
            [_overview(company) for company in companies],
            {f"{company.pk}-{cell}": _cell(company, cell) for company in companies for cell in _CELLS},
        )

    # One company

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        company = self.get_object(request, object_id)
        page = self._page(request, company) if company and self.has_view_permission(request, company) else {}
        return super().change_view(request, object_id, form_url, {**page, **(extra_context or {})})

    def _page(self, request: HttpRequest, company: Company) -> dict[str, Any]:
        listed, problem = generations(company)
        shown = _overview(company)
        folded = (shown.info.live_sequence or 0) if shown.info else 0
        skipping = company.builds.filter(images_skipped__gt=0, status=IndexBuild.Status.SUCCEEDED).first()
        return {
            "company": company,
            "overview": shown,
            "live_changes": company.live_changes.filter(sequence__gt=folded).count(),
            "generations": [_generation_row(generation) for generation in listed],
            "generations_problem": problem,
            "builds": [(build, took(build)) for build in company.builds.select_related("requested_by")[:BUILDS_SHOWN]],
            "skipping": skipping,
            "skipped_files": skipping.skipped_files.all()[:SKIPPED_SHOWN] if skipping else [],
            **_keys(request, company),
            "may_change": self.has_change_permission(request, company),
            "may_reindex": self.has_reindex_permission(request),
            "max_picture_bytes": settings.MAX_UPLOAD_BYTES,
            "max_upload_bytes": MAX_UPLOAD_BYTES,
            "max_upload_files": settings.DATA_UPLOAD_MAX_NUMBER_FILES,
        }

    def save_model(self, request: HttpRequest, obj: Company, form: ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        action = audit.Action.COMPANY_CHANGED if change else audit.Action.COMPANY_MADE
        audit.record(audit.in_admin(request), action, obj, _changes(form))
        if change and "image_folder" in form.changed_data:
            self.message_user(request, f"The image folder of {obj} is another one now: reindex it.", messages.WARNING)

    def live_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer the company page's script: the sections that change while a build runs."""
        company = self._viewed(request, pk)
        page = self._page(request, company)
        return _live_answer(
            [_overview(company)],
            {name: render_to_string(f"admin/tenants/company/_{name}.html", page) for name in _SECTIONS},
        )

    def found_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Answer how many pictures lie on disk, apart from the page because counting takes a while."""
        return JsonResponse({"text": pictures_found(self._viewed(request, pk))})

    def reindex_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self._reindexed(request, pk)
        self._queue_build(request, company, full=request.POST.get("full") == "1")
        return _to_page(company)

    def cancel_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self._reindexed(request, pk)
        build = company.builds.active().first()
        if build and build.cancel():
            self.log_change(request, company, f"Cancelled build {build.pk}.")
            audit.record(audit.in_admin(request), audit.Action.BUILD_CANCELLED, company, f"build {build.pk}")
            self.message_user(request, f"Build {build.pk} of {company} is cancelled.", messages.SUCCESS)
        else:
            self.message_user(request, f"No build of {company} is queued or running.", messages.WARNING)
        return _to_page(company)

    def roll_back_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self._reindexed(request, pk)
        self._roll_back(request, company, request.POST.get("generation", ""))
        return _to_page(company)

    def _roll_back(self, request: HttpRequest, company: Company, generation: str | None) -> None:
        """Roll back, cancelling an active build, which the pages ask to confirm; say how it went."""
        try:
            index = roll_back(company, generation, cancel_build=True)
        except (EngineError, OSError) as error:
            self.message_user(request, f"The index of {company} was not rolled back. {error}", messages.ERROR)
            return
        self.log_change(request, company, f"Rolled the index back to {index.name}.")
        audit.record(audit.in_admin(request), audit.Action.INDEX_ROLLED_BACK, company, f"to {index.name}")
        text = f"Searches of {company} use {index.name} from now on, until the next build replaces it."
        self.message_user(request, text, messages.SUCCESS)

    def upload_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self._viewed(request, pk)
        if not self.has_change_permission(request, company):
            raise PermissionDenied
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_UPLOAD_BYTES:
            return self._upload_refused(request, company, f"at most {MAX_UPLOAD_BYTES // 2**20} MB at a time")
        request.upload_handlers = [MemoryFileUploadHandler(request), TemporaryFileUploadHandler(request)]
        try:
            return csrf_protect(require_POST(self._receive_upload))(request, company)
        except TooManyFilesSent:
            limit = settings.DATA_UPLOAD_MAX_NUMBER_FILES
            return self._upload_refused(request, company, f"at most {limit} files at a time, or one zip")

    def _receive_upload(self, request: HttpRequest, company: Company) -> HttpResponse:
        files: Sequence[Any] = request.FILES.getlist("files")
        if not files:
            return self._upload_refused(request, company, "choose pictures or a zip first")
        try:
            company.clean()
            intake = take_in(
                [Upload(file.name, file) for file in files],
                company.image_directory,
                limits=IntakeLimits(file_bytes=settings.MAX_UPLOAD_BYTES, max_pixels=settings.MAX_PIXELS),
                location=request.POST.get("location", "").strip().strip("/"),
                replace=request.POST.get("replace") == "1",
            )
        except ValidationError as error:
            return self._upload_refused(request, company, " ".join(error.messages))
        except OSError as error:
            return self._upload_refused(request, company, f"{company.image_directory}: {error.strerror}")
        if intake.stored:
            self.log_change(request, company, _upload_log(intake))
            audit.record(audit.in_admin(request), audit.Action.PICTURES_UPLOADED, company, _upload_log(intake))
            self._queue_build(request, company, full=False)
        return self._show_intake(request, company, intake)

    def _show_intake(self, request: HttpRequest, company: Company, intake: Intake) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": f"Upload to {company}",
            "opts": self.opts,
            "media": self.media,
            "company": company,
            "intake": intake,
            "lines_shown": LINES_SHOWN,
        }
        return TemplateResponse(request, "admin/tenants/company/upload_result.html", context)

    def _upload_refused(self, request: HttpRequest, company: Company, reason: str) -> HttpResponse:
        self.message_user(request, f"Nothing was stored for {company}: {reason}", messages.ERROR)
        return _to_page(company)

    def _queue_build(self, request: HttpRequest, company: Company, *, full: bool) -> None:
        """Queue a build and say so, or say which one is active already."""
        before = company.builds.active().first()
        what = "it embeds every picture anew" if full else "it takes up what has changed"
        with transaction.atomic():
            build = company.queue_build(full=full, requested_by=request.user)
            audit.record(audit.in_admin(request), audit.Action.BUILD_ASKED, company, f"build {build.pk}: {what}")
        if before is None or before.pk != build.pk:
            self.log_change(request, company, f"Queued build {build.pk}: {what}.")
            self.message_user(request, f"Build {build.pk} of {company} is queued: {what}.", messages.SUCCESS)
        elif build.status == IndexBuild.Status.QUEUED:
            text = f"Build {build.pk} of {company} was queued already and does what was asked."
            self.message_user(request, text, messages.WARNING)
        else:
            text = f"Build {build.pk} of {company} is running already, so none was queued: ask again once it has ended."
            self.message_user(request, text, messages.WARNING)

    def _viewed(self, request: HttpRequest, pk: int) -> Company:
        company = get_object_or_404(self.get_queryset(request), pk=pk)
        if not self.has_view_permission(request, company):
            raise PermissionDenied
        return company

    def _reindexed(self, request: HttpRequest, pk: int) -> Company:
        if not self.has_reindex_permission(request):
            raise PermissionDenied
        return get_object_or_404(Company, pk=pk)

    # Deleting

    def get_deleted_objects(
        self, objs: Sequence[Any] | QuerySet[Any], request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[str]]:
        """Count what goes with the companies: a list of a million skipped files helps nobody."""
        counts = {
            str(queryset.model._meta.verbose_name_plural): queryset.count()
            for queryset in (
                IndexBuild.objects.filter(company__in=objs),
                SkippedImage.objects.filter(build__company__in=objs),
                LiveChange.objects.filter(company__in=objs),
                ApiKey.objects.filter(company__in=objs),
            )
        }
        return [f"Company: {company}" for company in objs], {"companies": len(objs), **counts}, set(), []

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        company = self.get_object(request, object_id)
        choices = _removal_choices(company) if company and self.has_delete_permission(request, company) else {}
        return super().delete_view(request, object_id, {**choices, **(extra_context or {})})

    def delete_model(self, request: HttpRequest, obj: Company) -> None:
        _cancel_build(obj)
        super().delete_model(request, obj)
        audit.record(audit.in_admin(request), audit.Action.COMPANY_DELETED, obj)
        transaction.on_commit(lambda: self._remove_files(request, obj))

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Company]) -> None:
        names = [company.name for company in queryset]
        for company in queryset:
            _cancel_build(company)
        with transaction.atomic():
            super().delete_queryset(request, queryset)
            for name in names:
                audit.record(audit.in_admin(request), audit.Action.COMPANY_DELETED, name)
        kept = "The indexes and pictures were kept on disk"
        self.message_user(request, f"{kept}: {', '.join(names)}.", messages.WARNING)

    def _remove_files(self, request: HttpRequest, company: Company) -> None:
        chosen = {"index": removal.remove_index, "pictures": removal.remove_pictures}
        for what, remove in chosen.items():
            if request.POST.get(f"remove_{what}") != "1":
                self.message_user(request, f"The {what} of {company} stayed on disk.", messages.INFO)
                continue
            try:
                remove(company)
                audit.record(
                    audit.in_admin(request), audit.Action.COMPANY_DELETED, company, f"{what} removed from disk"
                )
            except (removal.RemovalRefused, EngineError, OSError) as error:
                self.message_user(request, f"The {what} of {company} stayed on disk. {error}", messages.ERROR)
            else:
                self.message_user(request, f"The {what} of {company}: removed from disk.", messages.SUCCESS)


@admin.register(IndexBuild)
class IndexBuildAdmin(ReadOnlyAdmin):
    """Builds are made by asking for them, and changed by nobody."""

    list_display = (
        "company",
        "badge",
        "queued_at",
        "took",
        "images_found",
        "images_embedded",
        "images_reused",
        "images_removed",
        "images_skipped",
        "rate",
        "error_start",
    )
    list_filter = ("status", "queued_at")
    list_per_page = 50
    list_select_related = ("company",)
    search_fields = ("company__name", "error")
    fieldsets = (
        (None, {"fields": ("company", "badge", "error", "requested_by")}),
        ("What was asked", {"fields": ("full", "checksum", "allow_empty", "fold", "image_folder")}),
        (
            "What was done",
            {
                "fields": (
                    "images_found",
                    "images_embedded",
                    "images_reused",
                    "images_removed",
                    "images_skipped",
                    "total_images",
                    "rate",
                    "left",
                    "weights",
                    "full_reason",
                )
            },
        ),
        ("When", {"fields": ("queued_at", "started_at", "finished_at", "took", "heartbeat_at", "attempts")}),
        ("Skipped files", {"fields": ("skipped",)}),
    )

    Media = _Assets

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Who may see a company may see its builds."""
        user = request.user
        return any(user.has_perm(f"tenants.{name}") for name in ("view_indexbuild", "view_company", "change_company"))

    def get_urls(self) -> list[URLPattern]:
        skipped = self.admin_site.admin_view(require_GET(self.skipped_view))
        return [path("<int:pk>/skipped.csv", skipped, name="tenants_indexbuild_skipped"), *super().get_urls()]

    @admin.display(description="Status", ordering="status")
    def badge(self, build: IndexBuild) -> SafeString:
        return format_html('<span class="badge is-{}">{}</span>', build.status, build.status)

    @admin.display(description="Took")
    def took(self, build: IndexBuild) -> str:
        return took(build) or "-"

    @admin.display(description="Pictures a second")
    def rate(self, build: IndexBuild) -> str:
        return f"{build.images_per_second:.1f}" if build.images_per_second else "-"

    @admin.display(description="Time left")
    def left(self, build: IndexBuild) -> str:
        return "-" if build.seconds_left is None else format_seconds(build.seconds_left)

    @admin.display(description="Error")
    def error_start(self, build: IndexBuild) -> str:
        return build.error if len(build.error) <= 120 else f"{build.error[:120]}..."

    @admin.display(description="Files")
    def skipped(self, build: IndexBuild) -> str:
        context = {"skipping": build, "skipped_files": build.skipped_files.all()[:SKIPPED_SHOWN]}
        return render_to_string("admin/tenants/company/_skipped_files.html", context)

    def skipped_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Stream the build's skipped files as CSV, however many."""
        build = get_object_or_404(IndexBuild.objects.select_related("company"), pk=pk)
        if not self.has_view_permission(request, build):
            raise PermissionDenied
        return StreamingHttpResponse(  # type: ignore[return-value]
            _skipped_csv(build),
            content_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": f'attachment; filename="{build.company.name}-{build.pk}-skipped.csv"'},
        )


# What the pages show ------------------------------------------------------------------------------------------------


def _overview(company: Company) -> Overview:
    """Return the company's overview, made once an instance; the last build comes with get_queryset()."""
    shown: Overview | None = company.__dict__.get("overview")
    if shown is None:
        last_builds = company.__dict__.get("last_builds", [])
        shown = company.__dict__["overview"] = overview(company, last_builds[0] if last_builds else None)
    return shown


def _cell(company: Company, cell: str) -> str:
    return render_to_string(f"admin/tenants/company/_{cell}.html", {"overview": _overview(company)})


def _live_cell(company: Company, cell: str) -> SafeString:
    return format_html(
        '<div data-fragment="{0}-{1}" data-company="{0}">{2}</div>', company.pk, cell, _cell(company, cell)
    )


def _live_answer(overviews: list[Overview], fragments: dict[str, str]) -> JsonResponse:
    return JsonResponse(
        {
            "active": [shown.company.pk for shown in overviews if shown.is_active],
            "states": {shown.company.pk: f"{shown.company}: {shown.label}" for shown in overviews},
            "fragments": fragments,
        }
    )


def _keys(request: HttpRequest, company: Company) -> dict[str, Any]:
    user = request.user
    return {
        "may_view_keys": user.has_perm("tenants.view_apikey"),
        "may_make_keys": user.has_perm("tenants.add_apikey"),
        "may_revoke_keys": user.has_perm("tenants.change_apikey"),
        "api_keys": company.api_keys.select_related("created_by"),
    }


def _changes(form: ModelForm) -> str:
    """Return what the form has changed, for the audit; of the notes only that they were."""
    return ", ".join(name if name == "notes" else f"{name} = {form.cleaned_data[name]!r}" for name in form.changed_data)


def _generation_row(generation: storage.Generation) -> dict[str, Any]:
    try:
        made_at = datetime.fromisoformat(generation.info.timestamp or "")
    except ValueError:
        made_at = None
    return {
        "name": generation.name,
        "published": generation.published,
        "made_at": made_at,
        "total_images": generation.info.total_images,
        "weights": generation.info.weights or "not recorded",
        "untrained": generation.info.weights == UNTRAINED,
    }


def _to_page(company: Company) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:tenants_company_change", args=[company.pk]))


def _upload_log(intake: Intake) -> str:
    text = f"Uploaded {len(intake.stored)} picture{'' if len(intake.stored) == 1 else 's'}"
    text += f", {len(intake.replaced)} of them replaced" if intake.replaced else ""
    return f"{text}; {len(intake.refused)} refused." if intake.refused else f"{text}."


def took(build: IndexBuild) -> str:
    """Return how long a finished build took from its start."""
    if not (build.started_at and build.finished_at):
        return ""
    return format_seconds((build.finished_at - build.started_at).total_seconds())


def _cancel_build(company: Company) -> None:
    for build in company.builds.active():
        build.cancel()


def _removal_choices(company: Company) -> dict[str, Any]:
    """Return what the delete page says of the company's files: where they are, or why they stay."""
    choices: dict[str, Any] = {"company": company, "overview": _overview(company)}
    for what, find in (("index", removal.index_directory), ("pictures", removal.pictures_directory)):
        try:
            choices[f"{what}_directory"] = find(company)
        except removal.RemovalRefused as error:
            choices[f"{what}_stays"] = str(error)
    return choices


class _Echo:
    """A file that gives back what is written, so that a CSV can be streamed."""

    def write(self, text: str) -> str:
        return text


def _skipped_csv(build: IndexBuild) -> Iterator[str]:
    writer = csv.writer(_Echo())
    yield "\ufeff"  # or Excel takes it for another encoding
    yield writer.writerow(["path", "reason"])
    for path_, reason in build.skipped_files.values_list("path", "reason").iterator(chunk_size=2000):
        yield writer.writerow([_harmless(path_), _harmless(reason)])


def _harmless(text: str) -> str:
    """Return text so that no spreadsheet takes a file's name for a formula."""
    formula = text.startswith(_FORMULA_STARTS) or text.lstrip().startswith(_FORMULA_STARTS)
    return f"'{text}" if formula else text
