"""The pictures themselves, and thumbnails of them, under /api/pictures/: what a page shows of a search's results.

A file may be anything by now, whatever it was when it was indexed. So nothing in it can run: its type is what its first
bytes say, no browser guesses another one, and were it opened as a page, the page could do nothing.
"""

from typing import cast

from django.http import FileResponse, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from search import queries, thumbnails
from search.api.answers import ErrorBody
from search.api.forms import ThumbnailForm, validated
from search.api.responses import FAULT, NO_KEY, NOT_FOUND, UNUSABLE
from search.engine.index.records import ImageRecord
from search.http.access import pictured_company
from search.http.limits import PictureThrottle
from search.http.signed_urls import PARAMETER, company_of_link
from search.originals import UNKNOWN_TYPE, content_type, open_original
from tenants.models import Company

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # browsers give a picture's own page a style
_CACHING = "private, no-cache"  # kept by the viewer's browser alone, which asks at each use whether it still may

_SIGNED = OpenApiParameter(
    PARAMETER,
    description="What the URLs of a search with `urls=true` carry; it takes the place of a key until it expires.",
)
_ERRORS = {
    400: NOT_FOUND,
    401: NO_KEY,
    403: OpenApiResponse(ErrorBody, "The link has expired or is not valid, or the staff user lacks the permission"),
    404: OpenApiResponse(ErrorBody, "The company has no such picture, or its file is gone"),
    500: FAULT,
    503: UNUSABLE,
}
_NOT_CHANGED = OpenApiResponse(description="The caller has it already, as its If-None-Match says")


class PictureView(APIView):
    throttle_classes = [PictureThrottle]

    @extend_schema(
        operation_id="picture",
        parameters=[_SIGNED],
        responses={(200, "image/*"): OpenApiTypes.BINARY, 304: _NOT_CHANGED, **_ERRORS},
    )
    def get(self, request: Request, company: str, image_id: str) -> HttpResponseBase:
        """Return a picture's file as it is."""
        found, record = _picture(request, company, image_id, size=None)
        opened = open_original(found, record, at_once=True)
        kind = content_type(opened)
        response = FileResponse(opened.file, content_type=kind)
        response["Content-Disposition"] = _disposition(record, attachment=kind == UNKNOWN_TYPE)
        return _finished(request, response, version=opened.version)


class ThumbnailView(APIView):
    throttle_classes = [PictureThrottle]

    @extend_schema(
        operation_id="thumbnail",
        parameters=[ThumbnailForm, _SIGNED],
        responses={(200, thumbnails.CONTENT_TYPE): OpenApiTypes.BINARY, 304: _NOT_CHANGED, **_ERRORS},
    )
    def get(self, request: Request, company: str, image_id: str) -> HttpResponseBase:
        """Return a small JPEG of a picture, upright, on white and without metadata such as where it was taken."""
        size = validated(ThumbnailForm, request.query_params)["size"]
        found, record = _picture(request, company, image_id, size=size)
        made = thumbnails.thumbnail(found, record, size=size)
        response = HttpResponse(made.content, content_type=thumbnails.CONTENT_TYPE)
        return _finished(request, response, version=made.version)


def _picture(request: Request, name: str, image_id: str, *, size: int | None) -> tuple[Company, ImageRecord]:
    """Return the picture that the caller, or whoever holds the link, may see. Raises what tells why there is none."""
    token = request.query_params.get(PARAMETER)
    if token is None:
        company = pictured_company(request, name)
    else:
        company = company_of_link(name, image_id, size=size, token=token)
    return company, queries.find_picture(company, image_id)


def _disposition(record: ImageRecord, *, attachment: bool) -> str:
    name = record.path.rpartition("/")[2].encode("utf-8", "replace").decode()
    return content_disposition_header(attachment, name) or "inline"


def _finished(request: Request, response: HttpResponseBase, *, version: str) -> HttpResponseBase:
    """Return the response, or a 304 in its place."""
    response["ETag"] = etag = f'"{version}"'
    response["Cache-Control"] = _CACHING
    response["Content-Security-Policy"] = _POLICY
    answer = get_conditional_response(request._request, etag=etag, response=cast(HttpResponse, response)) or response
    if answer is not response:
        response.close()  # and the file with it
    return answer
