"""Turns errors into {"success": false, "error": "...", "code": "..."} with their HTTP status."""

import logging
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.views import defaults
from rest_framework import exceptions as drf
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from search.duplicates import NotLookedYet
from search.engine.errors import (
    CropRefused,
    DecoderBusy,
    DeviceUnavailable,
    EngineUnavailable,
    ImageUnreadable,
    IndexCorrupt,
    IndexNotBuilt,
    IndexOnItsWay,
    IndexUnusable,
    ModelMismatch,
    NotEnoughSpace,
    PathRefused,
    StoreUnavailable,
    StoreUnsuitable,
    WeightsUnavailable,
)
from search.http.bodies import BodyTooLarge, TooManyParts, UploadTooLarge
from search.http.limits import QUOTA_REMAINING, LimitExceeded, QuotaExceeded
from search.http.server_paths import without_server_paths
from search.http.signed_urls import LinkRefused
from search.originals import PictureGone
from search.pictures import FolderUnusable
from search.queries import CompanyNotFound, ImageNotFound
from search.storage_limits import PictureLimitReached, SpaceLimitReached
from tenants.models import Company
from tenants.read_only import ReadOnly

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """How the API answers to one kind of error."""

    status: int
    code: str  # for programs: stays, whatever becomes of the words
    hint: str | None = None  # what may have been forgotten; never depends on what the caller must not learn


# The first kind that an error is an instance of counts.
KINDS: dict[type[Exception], Kind] = {
    CompanyNotFound: Kind(
        400,
        "company_not_found",
        hint="A company that is inactive, or needs an API key that was not sent, looks the same: send a key of the "
        "company as `X-API-Key: KEY` or `Authorization: Bearer KEY`",
    ),
    Company.DoesNotExist: Kind(400, "company_deleted"),  # since it was found
    ImageNotFound: Kind(404, "image_not_found"),
    NotLookedYet: Kind(409, "duplicates_unknown"),
    PictureGone: Kind(404, "picture_gone"),
    LinkRefused: Kind(403, "link_refused"),
    ReadOnly: Kind(403, "read_only"),
    PathRefused: Kind(400, "path_refused"),
    ImageUnreadable: Kind(400, "image_unreadable"),
    CropRefused: Kind(400, "crop_invalid"),
    IndexNotBuilt: Kind(503, "index_not_built"),
    IndexCorrupt: Kind(503, "index_damaged"),
    ModelMismatch: Kind(503, "model_mismatch"),
    IndexUnusable: Kind(503, "index_unusable"),
    IndexOnItsWay: Kind(503, "index_on_its_way"),
    StoreUnavailable: Kind(503, "store_unavailable"),
    StoreUnsuitable: Kind(503, "store_unsuitable"),
    NotEnoughSpace: Kind(503, "disk_full"),
    WeightsUnavailable: Kind(503, "weights_unavailable"),
    EngineUnavailable: Kind(503, "engine_unavailable"),
    DecoderBusy: Kind(503, "busy"),
    DeviceUnavailable: Kind(503, "device_unavailable"),
    FolderUnusable: Kind(503, "folder_unusable"),
    PictureLimitReached: Kind(413, "picture_limit_reached"),
    SpaceLimitReached: Kind(413, "space_limit_reached"),
    OperationalError: Kind(503, "database_unavailable"),
    InterfaceError: Kind(503, "database_unavailable"),
    QuotaExceeded: Kind(429, "quota_exceeded"),
    LimitExceeded: Kind(429, "rate_exceeded"),
    UnreadablePostError: Kind(400, "body_incomplete"),
    RequestDataTooBig: Kind(413, "body_too_large"),
    TooManyParts: Kind(400, "too_many_parts"),
    SuspiciousOperation: Kind(400, "bad_request"),
    # With a status of their own:
    UploadTooLarge: Kind(413, "image_too_large"),
    BodyTooLarge: Kind(413, "body_too_large"),
    drf.ParseError: Kind(400, "body_malformed"),
    drf.AuthenticationFailed: Kind(401, "credentials_invalid"),
    drf.NotAuthenticated: Kind(401, "credentials_missing"),
    drf.PermissionDenied: Kind(403, "permission_denied"),
    drf.NotFound: Kind(404, "not_found"),
    drf.MethodNotAllowed: Kind(405, "method_not_allowed"),
    drf.UnsupportedMediaType: Kind(415, "media_type_not_supported"),
}
_IMAGE_CODES = {  # by DRF's
    "required": "image_missing",
    "invalid": "image_missing",
    "empty": "image_empty",
    "file_type_not_allowed": "file_type_not_allowed",
    "too_many": "too_many_images",
}


def error_body(message: str, code: str, hint: str | None = None) -> dict[str, Any]:
    return {"success": False, "error": message, "code": code, **({"hint": hint} if hint else {})}


def body_of(error: Exception) -> dict[str, Any]:
    """Return the body of the answer to an error; one that is in no table says itself what is wrong."""
    kind = _kind(error) or Kind(500, "failed")
    return error_body(_own_words(error), kind.code, kind.hint)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the answer to an error of a view; None leaves it to Django, which answers with server_error."""
    request = context["request"]
    # Also of views whose answers are a page or YAML.
    request.accepted_renderer, request.accepted_media_type = JSONRenderer(), JSONRenderer.media_type
    if isinstance(error, drf.APIException) or (answer := answer_to(error)) is None:
        return _drf_answer(error, context)
    return Response(answer.body, status=answer.status, headers=answer.headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller gets for an error."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


def answer_to(error: Exception) -> Answer | None:
    """Return the answer to an error of the table, and log a fault; None for an error outside the table."""
    kind = _kind(error)
    if kind is None:
        return None
    body = body_of(error)
    if kind.status >= 500 and not isinstance(error, DecoderBusy | IndexOnItsWay):
        logger.error("%s", error)
        body["error"] = without_server_paths(body["error"])  # the others name what the caller has sent
    return Answer(kind.status, body, _headers(error))


def _kind(error: Exception) -> Kind | None:
    return next((kind for cls, kind in KINDS.items() if isinstance(error, cls)), None)


def _drf_answer(error: Exception, context: dict[str, Any]) -> Response | None:
    response = drf_exception_handler(error, context)
    if response is not None:
        field, detail = _first(response.data)
        response.data = error_body(str(detail), _drf_code(error, field, detail))
    return response


def _drf_code(error: Exception, field: str, detail: drf.ErrorDetail) -> str:
    """Return the code that was given to the error, or that of its kind, or that of the parameter."""
    if isinstance(error, drf.ValidationError):
        return _IMAGE_CODES.get(str(detail.code), "image_invalid") if field == "image" else f"{field}_invalid"
    kind = _kind(error)
    default = getattr(error, "default_code", None)
    return kind.code if kind and detail.code == default else str(detail.code)


def _first(data: Any) -> tuple[str, drf.ErrorDetail]:
    """Return the first of DRF's nested error details, and the name of its field."""
    field = ""
    while isinstance(data, dict | list):
        field, data = next(iter(data.items())) if isinstance(data, dict) else (field, data[0])
    return field, data


def _own_words(error: Exception) -> str:
    """Return the message for the caller; details from drivers and servers go to the log only."""
    if isinstance(error, Company.DoesNotExist):
        return "The company was not found: it has just been deleted"
    if isinstance(error, OperationalError | InterfaceError):
        return "The database is unavailable or busy; try again later"
    if isinstance(error, StoreUnavailable):
        return "The object store is unavailable; try again later"
    if isinstance(error, StoreUnsuitable):
        return "The object store cannot be used; see the server log"
    if isinstance(error, UnreadablePostError):
        return "The request ended before its body was complete"
    if isinstance(error, EngineUnavailable):
        return "What searches this company does not answer; try again later"
    return str(error)


def _headers(error: Exception) -> dict[str, str]:
    if isinstance(error, LimitExceeded | DecoderBusy | EngineUnavailable | IndexOnItsWay):
        left = {QUOTA_REMAINING: "0"} if isinstance(error, QuotaExceeded) else {}
        return {"Retry-After": str(error.retry_after), **left}
    passing = isinstance(error, OperationalError | InterfaceError | StoreUnavailable)
    return {"Retry-After": "2"} if passing else {}


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if isinstance(exception, RequestDataTooBig | TooManyParts):
        return refusal(request, exception)
    if _is_api(request):
        return JsonResponse(error_body("Bad request", KINDS[SuspiciousOperation].code), status=400)
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return JsonResponse(error_body(f"No such page: {request.path}", "page_not_found"), status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if _is_api(request):
        return JsonResponse(error_body("Internal error; see the server log", "internal_error"), status=500)
    return defaults.server_error(request)


def refusal(request: HttpRequest, error: Exception) -> HttpResponse:
    """Return the answer to an error of the table in a request that has not reached a view."""
    kind = _kind(error) or KINDS[SuspiciousOperation]
    if _is_api(request):
        return JsonResponse(body_of(error), status=kind.status, headers=_headers(error))
    plain = "text/plain; charset=utf-8"
    return HttpResponse(str(error), status=kind.status, headers=_headers(error), content_type=plain)


def refusal_in_words(error: Exception) -> HttpResponse:
    """Return the answer of a page to an error of the table, which the log tells in full."""
    logger.error("%s", error)
    kind = _kind(error)
    plain = "text/plain; charset=utf-8"
    return HttpResponse(
        _own_words(error), status=kind.status if kind else 500, headers=_headers(error), content_type=plain
    )


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")
