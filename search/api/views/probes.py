"""What probes ask of one server process; open to everybody."""

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import health
from search.api.answers import ErrorBody, LiveBody, ReadyBody
from search.http.errors import error_body

_FAULT = OpenApiResponse(ErrorBody, "A fault of the service's own; its log tells more")


class _ProbeView(APIView):
    authentication_classes = []
    permission_classes = []
    throttle_classes = []


class LiveView(_ProbeView):
    @extend_schema(responses={200: LiveBody, 500: _FAULT})
    def get(self, request: Request) -> Response:
        """Tell that the process answers, and nothing else."""
        return Response({"status": "alive"})


class ReadyView(_ProbeView):
    @extend_schema(
        responses={
            200: ReadyBody,
            500: _FAULT,
            503: OpenApiResponse(ErrorBody, "Something that searches need is missing; `checks` tells what"),
        }
    )
    def get(self, request: Request) -> Response:
        """Tell whether this process can answer searches: database, embeddings and model."""
        checks = health.checks()
        missing = [name for name, says in checks.items() if says != health.OK]
        if missing:
            return Response({**error_body(f"Not ready: {', '.join(missing)}"), "checks": checks}, status=503)
        return Response({"status": "ready", "checks": checks})
