"""Health checks of one server process."""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import health, queries
from search.api.answers import ErrorBody, HealthBody, LiveBody, ReadyBody
from search.api.responses import FAULT, NO_KEY
from search.engine.timestamps import timestamp
from search.http.access import visible_companies
from search.http.errors import error_body


class HealthView(APIView):
    throttle_classes = []

    @extend_schema(responses={200: HealthBody, 401: NO_KEY, 500: FAULT})
    def get(self, request: Request) -> Response:
        """Return whether the service runs and which of the caller's companies this process has loaded."""
        companies = queries.companies_with_index(visible_companies(request))
        loaded = queries.loaded_names(companies)
        return Response(
            {
                "status": "healthy",
                "api_ready": True,
                "timestamp": timestamp(),
                "total_companies_available": len(companies),
                "loaded_companies": loaded,
                "loaded_count": len(loaded),
            }
        )


class _ProbeView(APIView):
    """Needs no key, though a wrong one is refused, and has no rate limit."""

    permission_classes = [AllowAny]
    throttle_classes = []


class LiveView(_ProbeView):
    @extend_schema(responses={200: LiveBody, 401: NO_KEY, 500: FAULT})
    def get(self, request: Request) -> Response:
        """Return that the process is alive."""
        return Response({"status": "alive"})


class ReadyView(_ProbeView):
    @extend_schema(
        responses={
            200: ReadyBody,
            401: NO_KEY,
            500: FAULT,
            503: OpenApiResponse(ErrorBody, "Something that searches need is unavailable; see `checks`"),
        }
    )
    def get(self, request: Request) -> Response:
        """Return whether this process can answer searches: database, embeddings and model."""
        checks = health.checks()
        missing = [name for name, says in checks.items() if says != health.OK]
        if missing:
            body = error_body(f"Not ready: {', '.join(missing)}", "not_ready")
            return Response({**body, "checks": checks}, status=503)
        return Response({"status": "ready", "checks": checks})
