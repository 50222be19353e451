"""Builds in the API: start, watch, cancel; for staff users and holders of the company's keys."""

from django.urls import reverse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search.api.answers import BuildAnswer, ErrorBody, build_body
from search.api.forms import ReindexForm, validated
from search.api.responses import FAULT, FORBIDDEN, NOT_FOUND, UNAUTHORISED
from search.http.access import actor_of, known_companies, staff_or_key, writable_company
from search.http.bodies import SmallFormParser, SmallJSONParser, SmallMultiPartParser
from search.http.errors import error_body
from tenants.models import IndexBuild

_NO_BUILD = OpenApiResponse(ErrorBody, "No such build")


class ReindexView(APIView):
    permission_classes = [staff_or_key("tenants.reindex_company")]
    parser_classes = [SmallJSONParser, SmallFormParser, SmallMultiPartParser]

    @extend_schema(
        request=ReindexForm,
        responses={
            202: BuildAnswer,
            400: NOT_FOUND,
            401: UNAUTHORISED,
            403: FORBIDDEN,
            413: OpenApiResponse(ErrorBody, "The body is larger than 64 KB"),
            500: FAULT,
        },
    )
    def post(self, request: Request, company: str) -> Response:
        """Queue a build of the company's index, or return the active build if there is one.

        A running build is followed by another one that does what was requested.
        """
        found = writable_company(request, company)
        form = validated(ReindexForm, request.data if isinstance(request.data, dict) else {})
        build = found.queue_build(full=form["full"], checksum=form["checksum"], by=actor_of(request))
        return Response(_answer(build), status=202, headers={"Location": _url(build)})


class BuildView(APIView):
    permission_classes = [staff_or_key("tenants.view_indexbuild", writes=False)]

    @extend_schema(responses={200: BuildAnswer, 401: UNAUTHORISED, 403: FORBIDDEN, 404: _NO_BUILD, 500: FAULT})
    def get(self, request: Request, build_id: int) -> Response:
        """Return the progress or the result of a build."""
        return Response(_answer(_find_build(request, build_id)))


class CancelBuildView(APIView):
    permission_classes = [staff_or_key("tenants.reindex_company")]

    @extend_schema(
        request=None,
        responses={
            200: BuildAnswer,
            401: UNAUTHORISED,
            403: FORBIDDEN,
            404: _NO_BUILD,
            409: OpenApiResponse(ErrorBody, "The build has already finished"),
            500: FAULT,
        },
    )
    def post(self, request: Request, build_id: int) -> Response:
        """Cancel a queued or running build and its follow-up; searches keep using the current index."""
        build = _find_build(request, build_id)
        if not build.cancel(by=actor_of(request)):
            body = error_body(f"Build {build.pk} has already finished: {build.status}", "build_finished")
            return Response(body, status=409)
        return Response(_answer(build))


def _find_build(request: Request, build_id: int) -> IndexBuild:
    """Return the build if it is of a company that exists for the caller. Raises NotFound."""
    builds = IndexBuild.objects.select_related("company").filter(company__in=known_companies(request))
    build = builds.filter(pk=build_id).first()
    if build is None:
        raise NotFound(f"No build {build_id}", "build_not_found")
    return build


def _answer(build: IndexBuild) -> dict[str, object]:
    return {"success": True, "build": build_body(build), "url": _url(build)}


def _url(build: IndexBuild) -> str:
    return reverse("build", args=[build.pk])
