"""A company's pictures in the admin: a page of them, one of them, and deleting and replacing them."""

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBadRequest, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_GET, require_POST

from search import overlay, thumbnails
from search.admin.access import CompanyAccess
from search.admin.details import details
from search.admin.grid import Place, Tile, grid, tile
from search.admin.uploads import upload_limits
from search.engine.errors import DecoderBusy, EngineError, PathRefused, StoreError, StoreUnavailable
from search.engine.index.records import ImageRecord, image_id
from search.engine.pictures.paths import require_path
from search.http import bodies
from search.http.errors import body_of
from search.http.signed_urls import Viewer
from search.originals import PictureGone
from search.pictures import FolderUnusable, Put, delete_image, put_image
from search.storage_limits import LimitReached
from search.templatetags.humane import readable
from tenants import audit
from tenants.models import Company

MAX_AT_ONCE = 200  # pictures that are deleted with one press

_REFUSALS = (EngineError, FolderUnusable, LimitReached)


class Pictures(CompanyAccess):
    """Who may view a company sees its pictures; who may change it deletes and replaces them, as with uploads."""

    def get_urls(self) -> list[URLPattern]:
        def page(route: str, view: Callable[..., HttpResponse], name: str) -> URLPattern:
            return path(f"<int:pk>/pictures/{route}", self.admin_site.admin_view(view), name=f"tenants_company_{name}")

        return [
            page("", require_GET(self.pictures_view), "pictures"),
            page("picture/", require_GET(self.picture_view), "picture"),
            page("thumbnail/", require_GET(self.thumbnail_view), "thumbnail"),
            page("delete/", require_POST(self.delete_pictures_view), "delete_pictures"),
            # The bounds of the body are widened before anything, the CSRF token too, reads it.
            page("replace/", csrf_exempt(self.replace_picture_view), "replace_picture"),
            *super().get_urls(),
        ]

    def pictures_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company, place = self.viewed(request, pk), Place.of(request.GET)
        shown, problem = None, ""
        try:
            shown = grid(company, place, viewer=viewer_of(request))
        except EngineError as error:
            if company.generation is not None or company.live_sequence:
                problem = str(error)
        context = {
            "title": f"Pictures of {company}",
            "grid": shown,
            "place": place,
            "problem": problem,
            "is_building": company.builds.active().exists(),
            **upload_limits(),
        }
        return self._answer(request, company, "pictures", context)

    def picture_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company, place = self.viewed(request, pk), Place.of(request.GET)
        index = overlay.live_index_or_empty(company)
        record = index.find_id(request.GET.get("id", ""))
        if record is None:
            return self._to_others(request, company, place)
        shown = tile(company, record, viewer=viewer_of(request), size=640)
        context = {
            "title": shown.name,
            "tile": shown,
            "details": details(company, index, record, viewer=viewer_of(request)),
            "place": place,
            "folder_query": Place(folder=record.location).query,
            "max_picture_bytes": settings.MAX_UPLOAD_BYTES,
        }
        return self._answer(request, company, "picture", context)

    def thumbnail_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show a picture of the company's folder that no index need have: what was just uploaded."""
        company, file = self.viewed(request, pk), request.GET.get("path")
        if file is None:
            return HttpResponseBadRequest("Say which picture: ?path=...")
        try:
            require_path(file)
            made = thumbnails.thumbnail(company, ImageRecord(file, image_id(company.name, file)), size=160)
        except DecoderBusy as error:
            return HttpResponse(str(error), status=503, headers={"Retry-After": str(error.retry_after)})
        except StoreError:
            return HttpResponse("The store of the pictures is away; try again later", status=503)
        except (PathRefused, PictureGone) as error:
            raise Http404(str(error)) from error
        return HttpResponse(made.content, content_type=thumbnails.CONTENT_TYPE)

    def delete_pictures_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Ask whether the chosen pictures are to be deleted; asked back, delete them."""
        company, place = self.changed(request, pk), Place.of(request.POST)
        chosen = self.chosen(request, company)
        if len(request.POST.getlist("id")) > MAX_AT_ONCE:
            self.message_user(request, f"Choose at most {MAX_AT_ONCE} pictures at a time.", messages.ERROR)
        elif not chosen:
            self.message_user(request, "No picture was deleted: choose those to delete first.", messages.WARNING)
        elif request.POST.get("confirmed") != "1":
            tiles = [tile(company, record, viewer=viewer_of(request), size=160) for record in chosen]
            return self._ask_to_delete(request, company, tiles, place)
        else:
            self.delete_chosen(request, company, chosen)
        return _to_pictures(company, place)

    def replace_picture_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        company = self.changed(request, pk)
        bodies.accept_more(request, most_bytes=settings.MAX_BODY_BYTES, most_parts=bodies.MAX_PARTS)
        return csrf_protect(require_POST(self._replace))(request, company)

    def _replace(self, request: HttpRequest, company: Company) -> HttpResponse:
        place, record = Place.of(request.POST), next(iter(self.chosen(request, company)), None)
        file: Any = request.FILES.get("image")
        if record is None:
            return self._to_others(request, company, place)
        back = HttpResponseRedirect(tile(company, record, viewer=viewer_of(request), place=place).details_url)
        if file is None:
            self.message_user(request, "Nothing was replaced: choose a picture first.", messages.WARNING)
            return back
        try:
            _, change = put_image(company, record.path, file.read(), by=audit.in_admin(request))
        except _REFUSALS as error:
            self.message_user(request, f"{readable(record.path)} was not replaced: {_words(error)}", messages.ERROR)
            return back
        if change is Put.UNCHANGED:
            self.message_user(request, "Nothing has changed: it is the same picture.", messages.WARNING)
            return back
        self.log_change(request, company, f"Replaced {readable(record.path)}.")
        text = f"{readable(record.path)} was replaced: searches find the new one."
        self.message_user(request, text, messages.SUCCESS)
        return back

    def changed(self, request: HttpRequest, pk: int) -> Company:
        """Return the company whose pictures the request changes. Raises PermissionDenied and Http404."""
        company = self.viewed(request, pk)
        if not self.has_change_permission(request, company):
            raise PermissionDenied
        return company

    def chosen(self, request: HttpRequest, company: Company) -> list[ImageRecord]:
        """Return those of the pictures that the form names which are still there."""
        index = overlay.live_index_or_empty(company)
        found = (index.find_id(each) for each in request.POST.getlist("id")[:MAX_AT_ONCE])
        return list(dict.fromkeys(record for record in found if record))

    def _ask_to_delete(self, request: HttpRequest, company: Company, tiles: list[Tile], place: Place) -> HttpResponse:
        number = f"{len(tiles)} pictures" if len(tiles) > 1 else tiles[0].name
        context = {"title": f"Delete {number}?", "tiles": tiles, "place": place}
        return self._answer(request, company, "delete_pictures", context)

    def delete_chosen(self, request: HttpRequest, company: Company, records: list[ImageRecord]) -> None:
        deleted = []
        for record in records:
            try:
                delete_image(company, record.path, by=audit.in_admin(request))
            except _REFUSALS as error:
                text = f"{readable(record.path)} was not deleted: {_words(error)}"
                self.message_user(request, text, messages.ERROR)
                if isinstance(error, StoreUnavailable):  # nobody waits for it once more with each picture
                    break
            else:
                deleted.append(readable(record.path))
        if not deleted:
            return
        text = deleted[0] if len(deleted) == 1 else f"{len(deleted)} pictures"
        self.log_change(request, company, f"Deleted {text}.")
        self.message_user(request, f"Deleted {text} from the folder and from all searches.", messages.SUCCESS)

    def _to_others(self, request: HttpRequest, company: Company, place: Place) -> HttpResponse:
        self.message_user(request, f"{company} has no such picture: it was deleted meanwhile.", messages.ERROR)
        return _to_pictures(company, place)

    def _answer(self, request: HttpRequest, company: Company, page: str, context: dict[str, Any]) -> HttpResponse:
        shared = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "media": self.media,
            "company": company,
            "may_change": self.has_change_permission(request, company),
            "similar_url": f"{reverse('search-page', args=[company.name])}?like=",
        }
        return TemplateResponse(request, f"admin/tenants/company/{page}.html", {**shared, **context})


def viewer_of(request: HttpRequest) -> Viewer:
    """Return as whom the user of the admin sees pictures."""
    return Viewer(user=request.user.pk)


def _to_pictures(company: Company, place: Place) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("admin:tenants_company_pictures", args=[company.pk]) + place.query)


def _words(error: Exception) -> str:
    return error.reason if isinstance(error, PathRefused) else str(body_of(error)["error"])
