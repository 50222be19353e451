"""Uploads of pictures and zips to a company's folder, through its page."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied, TooManyFilesSent, ValidationError
from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_POST

from search import storage_limits
from search.admin.access import to_page
from search.admin.actions import IndexActions
from search.companies.uploads import store_uploads, summary
from search.engine.errors import PathRefused, StoreError
from search.engine.pictures.folder import SkippedFile
from search.engine.pictures.intake import Intake, Upload
from search.engine.pictures.paths import new_path
from search.folders import folder_of
from search.http import bodies
from tenants import audit
from tenants.models import Company

MAX_UPLOAD_BYTES = 2**30  # per request; zips count packed
LINES_SHOWN = 500  # of the stored and of the refused files of an upload


class Uploads(IndexActions):
    """Uploads queue a build when pictures were stored."""

    def get_urls(self) -> list[URLPattern]:
        # The upload checks its size before anything, the CSRF token too, has read it.
        upload = self.admin_site.admin_view(csrf_exempt(self.upload_view))
        return [path("<int:pk>/upload/", upload, name="tenants_company_upload"), *super().get_urls()]

    def upload_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.viewed(request, pk)
        if not self.has_change_permission(request, company):
            raise PermissionDenied
        if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_UPLOAD_BYTES:
            return self._upload_refused(request, company, f"at most {MAX_UPLOAD_BYTES // 2**20} MB per upload")
        # A hundred files, and the fields beside them.
        bodies.accept_more(request, most_bytes=MAX_UPLOAD_BYTES, most_parts=2 * bodies.MAX_PARTS)
        request.upload_handlers = [MemoryFileUploadHandler(request), TemporaryFileUploadHandler(request)]
        try:
            return csrf_protect(require_POST(self._receive_upload))(request, company)
        except (TooManyFilesSent, bodies.TooManyParts):
            limit = settings.DATA_UPLOAD_MAX_NUMBER_FILES
            return self._upload_refused(request, company, f"at most {limit} files per upload; upload a zip instead")

    def _receive_upload(self, request: HttpRequest, company: Company) -> HttpResponse:
        files: Sequence[Any] = request.FILES.getlist("files")
        if not files:
            return self._upload_refused(request, company, "choose pictures or a zip first")
        before, location = company.builds.active().first(), request.POST.get("location", "").strip().strip("/")
        try:
            intake, build = store_uploads(
                company,
                [Upload(name, file) for name, file in zip(_names(request, files), files, strict=True)],
                location=location,
                replace=request.POST.get("replace") == "1",
                by=audit.in_admin(request),
            )
        except ValidationError as error:
            return self._upload_refused(request, company, " ".join(error.messages))
        except OSError as error:
            return self._upload_refused(request, company, f"{company.image_place}: {error.strerror}")
        if build:
            self.log_change(request, company, summary(intake))
            self._tell_of_limits(request, company)
            self.tell_of_build(request, build, before=before)
        return self._show_intake(request, company, intake, location)

    def _tell_of_limits(self, request: HttpRequest, company: Company) -> None:
        with suppress(StoreError):  # the upload is there, whoever can count it
            for excess in storage_limits.excesses(company):
                self.message_user(request, excess, messages.WARNING)

    def _show_intake(self, request: HttpRequest, company: Company, intake: Intake, location: str) -> HttpResponse:
        stored = [_Stored.of(company, path, intake) for path in intake.stored[:LINES_SHOWN]]
        refused = [_Refused.of(company, file, location) for file in intake.refused[:LINES_SHOWN]]
        if _is_from_script(request):
            counts = {"stored_count": len(intake.stored), "refused_count": len(intake.refused)}
            entries = {"stored": [asdict(each) for each in stored], "refused": [asdict(each) for each in refused]}
            return JsonResponse({**counts, **entries, "ignored": intake.passed_over, "messages": _told(request)})
        context = {
            **self.admin_site.each_context(request),
            "title": f"Upload to {company}",
            "opts": self.opts,
            "media": self.media,
            "company": company,
            "intake": intake,
            "stored": stored,
            "refused": refused,
            "lines_shown": LINES_SHOWN,
        }
        return TemplateResponse(request, "admin/tenants/company/upload_result.html", context)

    def _upload_refused(self, request: HttpRequest, company: Company, reason: str) -> HttpResponse:
        text = f"Nothing was uploaded to {company}: {reason}"
        if _is_from_script(request):
            return JsonResponse({"error": text}, status=400)
        self.message_user(request, text, messages.ERROR)
        return to_page(company)


def upload_limits() -> dict[str, int]:
    """Return what the form for uploads says of their size."""
    return {
        "max_picture_bytes": settings.MAX_UPLOAD_BYTES,
        "max_upload_bytes": MAX_UPLOAD_BYTES,
        "max_upload_files": settings.DATA_UPLOAD_MAX_NUMBER_FILES,
    }


@dataclass(frozen=True, slots=True)
class _Stored:
    path: str
    replaced: bool
    thumbnail_url: str

    @classmethod
    def of(cls, company: Company, path: str, intake: Intake) -> "_Stored":
        return cls(path, path in intake.replaced, _thumbnail_url(company, path))


@dataclass(frozen=True, slots=True)
class _Refused:
    path: str
    reason: str
    thumbnail_url: str  # of the picture that has its path; "" where none has

    @classmethod
    def of(cls, company: Company, file: SkippedFile, location: str) -> "_Refused":
        with suppress(OSError, PathRefused, StoreError), folder_of(company).shelf() as shelf:
            path = new_path(file.path, location=location)
            shelf.require(path)
            return cls(file.path, file.reason, _thumbnail_url(company, path))
        return cls(file.path, file.reason, "")


def _thumbnail_url(company: Company, path: str) -> str:
    """Return the address of a thumbnail of what lies in the company's folder, which no index need have yet."""
    return f"{reverse('admin:tenants_company_thumbnail', args=[company.pk])}?{urlencode({'path': path})}"


def _names(request: HttpRequest, files: Sequence[Any]) -> list[str]:
    """Return the files' names: with their folders where the script tells these, because browsers leave them out."""
    paths = request.POST.getlist("path")
    return paths if len(paths) == len(files) else [file.name for file in files]


def _is_from_script(request: HttpRequest) -> bool:
    return request.headers.get("Accept") == "application/json"


def _told(request: HttpRequest) -> list[str]:
    """Return what the next page would have told, which then does not tell it again."""
    return [str(message) for message in messages.get_messages(request)]
