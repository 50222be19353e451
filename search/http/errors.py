"""Turns errors into {"success": false, "error": "..."} with their HTTP status."""

import logging
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.views import defaults
from rest_framework import status
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler

from search.engine.errors import (
    DecoderBusy,
    DeviceUnavailable,
    ImageUnreadable,
    IndexUnusable,
    PathRefused,
    WeightsUnavailable,
)
from search.http.limits import LimitExceeded
from search.pictures import FolderUnusable
from search.queries import CompanyNotFound, ImageNotFound
from tenants.models import Company

logger = logging.getLogger(__name__)

STATUS: dict[type[Exception], int] = {
    CompanyNotFound: status.HTTP_400_BAD_REQUEST,
    Company.DoesNotExist: status.HTTP_400_BAD_REQUEST,  # deleted since it was found
    ImageNotFound: status.HTTP_404_NOT_FOUND,
    PathRefused: status.HTTP_400_BAD_REQUEST,
    ImageUnreadable: status.HTTP_400_BAD_REQUEST,
    IndexUnusable: status.HTTP_503_SERVICE_UNAVAILABLE,
    WeightsUnavailable: status.HTTP_503_SERVICE_UNAVAILABLE,
    DecoderBusy: status.HTTP_503_SERVICE_UNAVAILABLE,
    DeviceUnavailable: status.HTTP_503_SERVICE_UNAVAILABLE,
    FolderUnusable: status.HTTP_503_SERVICE_UNAVAILABLE,
    OperationalError: status.HTTP_503_SERVICE_UNAVAILABLE,
    InterfaceError: status.HTTP_503_SERVICE_UNAVAILABLE,
    LimitExceeded: status.HTTP_429_TOO_MANY_REQUESTS,
    UnreadablePostError: status.HTTP_400_BAD_REQUEST,
    RequestDataTooBig: status.HTTP_413_REQUEST_ENTITY_TOO_LARGE,
    SuspiciousOperation: status.HTTP_400_BAD_REQUEST,
}


def error_body(message: str) -> dict[str, Any]:
    return {"success": False, "error": message}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Return the answer to an error of a view; None leaves it to Django, which answers with server_error."""
    for kind, code in STATUS.items():
        if isinstance(error, kind):
            if code >= 500 and not isinstance(error, DecoderBusy):
                logger.error("%s", error)
            return Response(error_body(_own_words(error)), status=code, headers=_headers(error))
    response = drf_exception_handler(error, context)
    if response is not None:
        response.data = error_body(_message(response.data))
    return response


def _own_words(error: Exception) -> str:
    """Return the message for the caller; details from drivers and servers go to the log only."""
    if isinstance(error, Company.DoesNotExist):
        return "The company was not found: it has just been deleted"
    if isinstance(error, OperationalError | InterfaceError):
        return "The database is unavailable or busy; try again later"
    if isinstance(error, UnreadablePostError):
        return "The request ended before its body was complete"
    return str(error)


def _headers(error: Exception) -> dict[str, str]:
    return {"Retry-After": str(error.retry_after)} if isinstance(error, LimitExceeded | DecoderBusy) else {}


def _message(detail: Any) -> str:
    """Return the first message of DRF's nested error details."""
    while isinstance(detail, dict | list):
        detail = next(iter(detail.values() if isinstance(detail, dict) else detail))
    return str(detail)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return JsonResponse(error_body("Bad request"), status=400)
    return defaults.bad_request(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return JsonResponse(error_body(f"No such page: {request.path}"), status=404)
    return defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    if _is_api(request):
        return JsonResponse(error_body("Internal error; see the server log"), status=500)
    return defaults.server_error(request)


def limit_exceeded(request: HttpRequest, error: LimitExceeded) -> HttpResponse:
    """Return the response for a request that has not reached a view."""
    code, headers = STATUS[LimitExceeded], _headers(error)
    if _is_api(request):
        return JsonResponse(error_body(str(error)), status=code, headers=headers)
    return HttpResponse(str(error), status=code, headers=headers, content_type="text/plain; charset=utf-8")


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")
