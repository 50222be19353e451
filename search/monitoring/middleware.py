import logging
import re
from collections.abc import Callable
from time import perf_counter
from uuid import uuid4

from django.http import HttpRequest, HttpResponse
from django.utils.encoding import escape_uri_path

from search.monitoring import metrics
from search.monitoring.observation import Observation, observing

logger = logging.getLogger("search.requests")

_QUIET = {"/api/health/live", "/api/health/ready", "/metrics"}  # asked every few seconds by machines


class ObserveRequests:
    """Gives each request an id, a line in the log, its place in the metrics, and its answer X-Request-ID and
    Server-Timing. The outermost middleware: the answers of the others are observed as well.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        began = perf_counter()
        request_id = _request_id(request)
        with observing(request_id=request_id) as seen:
            response = self._get_response(request)
            seconds = perf_counter() - began
            response["X-Request-ID"] = request_id
            if seen.stages:
                response["Server-Timing"] = _server_timing(seen.stages, seconds)
            route = _route(request)
            metrics.count_request(request.method, route, seen, response.status_code, seconds)
            _write_line(request, response, route, seen, seconds)
        return response


def _request_id(request: HttpRequest) -> str:
    given = request.META.get("HTTP_X_REQUEST_ID", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", given) else str(uuid4())


def _route(request: HttpRequest) -> str:
    """Return the pattern that the path has met, such as /api/search/<name:company>; "" where it has met none."""
    return f"/{request.resolver_match.route.rstrip('/')}" if request.resolver_match else ""


def _server_timing(stages: dict[str, float], total: float) -> str:
    return ", ".join(f"{name};dur={1000 * seconds:.2f}" for name, seconds in [*stages.items(), ("total", total)])


def _write_line(request: HttpRequest, response: HttpResponse, route: str, seen: Observation, seconds: float) -> None:
    level = logging.DEBUG if route in _QUIET else logging.INFO
    if not logger.isEnabledFor(level):
        return
    path = escape_uri_path(request.path)  # the query string may hold secrets
    key = getattr(request, "auth", None)
    line = {
        "method": request.method,
        "route": route,
        "path": path,
        "status": response.status_code,
        "duration_ms": round(1000 * seconds, 2),
        "stages_ms": {name: round(1000 * stage, 2) for name, stage in seen.stages.items()},
        "company": seen.company,
        "key_prefix": getattr(key, "prefix", ""),
        "bytes_in": _length(request.META.get("CONTENT_LENGTH", "")),
        "bytes_out": _length(response.get("Content-Length", "")),
    }
    logger.log(level, "%s %s %d %.0f ms", request.method, path, response.status_code, 1000 * seconds, extra=line)


def _length(header: str) -> int | None:
    return int(header) if header.isdecimal() and len(header) < 20 else None
