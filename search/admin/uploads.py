"""Uploads of pictures and zips to a company's folder, through its page."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied, TooManyFilesSent, ValidationError
from django.core.files.uploadhandler import MemoryFileUploadHandler, TemporaryFileUploadHandler
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_POST

from search import storage_limits
from search.admin.access import to_page
from search.admin.actions import IndexActions
from search.companies.uploads import store_uploads, summary
from search.engine.pictures.intake import Intake, Upload
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
        before = company.builds.active().first()
        try:
            intake, build = store_uploads(
                company,
                [Upload(file.name, file) for file in files],
                location=request.POST.get("location", "").strip().strip("/"),
                replace=request.POST.get("replace") == "1",
                by=audit.in_admin(request),
            )
        except ValidationError as error:
            return self._upload_refused(request, company, " ".join(error.messages))
        except OSError as error:
            return self._upload_refused(request, company, f"{company.image_directory}: {error.strerror}")
        if build:
            self.log_change(request, company, summary(intake))
            self._tell_of_limits(request, company)
            self.tell_of_build(request, build, before=before)
        return self._show_intake(request, company, intake)

    def _tell_of_limits(self, request: HttpRequest, company: Company) -> None:
        for excess in storage_limits.excesses(company):
            self.message_user(request, excess, messages.WARNING)

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
        self.message_user(request, f"Nothing was uploaded to {company}: {reason}", messages.ERROR)
        return to_page(company)
