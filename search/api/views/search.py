"""Searches with an uploaded picture or one of the company's own, under /api/search/."""

from uuid import UUID

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import queries
from search.api.answers import ErrorBody, SearchBody, search_body
from search.api.forms import SearchForm, SimilarForm, filters, validated
from search.api.responses import FAULT, NO_KEY, NO_PICTURES, UNUSABLE
from search.http.access import readable_company, viewer_of
from search.http.bodies import ImageFormParser
from search.http.limits import counted_search
from search.queries import ImageNotFound


class SearchView(APIView):
    parser_classes = [ImageFormParser]

    @extend_schema(
        request={"multipart/form-data": SearchForm},
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or the image or a parameter is invalid"),
            401: NO_KEY,
            403: NO_PICTURES,
            413: OpenApiResponse(ErrorBody, "The image is larger than 16 MB"),
            415: OpenApiResponse(ErrorBody, "The request is not multipart/form-data"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def post(self, request: Request, company: str) -> Response:
        """Return the company's pictures most similar to the image, best first."""
        found = readable_company(request, company)
        form = validated(SearchForm, request.data)
        image = form["image"]
        viewer = viewer_of(request, found) if form["urls"] else None
        with counted_search(found):
            matches = queries.search(found, image, name=image.name, top_k=form["top_k"], filters=filters(form))
        return Response(search_body(found, matches, viewer=viewer))


class SimilarView(APIView):
    @extend_schema(
        parameters=[SimilarForm],
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or a parameter is invalid"),
            401: NO_KEY,
            403: NO_PICTURES,
            404: OpenApiResponse(ErrorBody, "The company has no picture with this id"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str, image_id: UUID) -> Response:
        """Return the pictures most similar to one of the company's own, which is left out, best first."""
        found = readable_company(request, company)
        form = validated(SimilarForm, request.query_params)
        viewer = viewer_of(request, found) if form["urls"] else None
        with counted_search(found):
            matches = queries.search_like(found, str(image_id), top_k=form["top_k"], filters=filters(form))
        return Response(search_body(found, matches, viewer=viewer))


@extend_schema(exclude=True)
class NoIdView(SearchView):
    """A path below a company that ends in no UUID, which no picture has, nor has a company a slash in its name."""

    def get(self, request: Request, company: str, image_id: str) -> Response:
        readable_company(request, company)
        raise ImageNotFound(f"No picture with the id {image_id}")

    def post(self, request: Request, company: str, image_id: str) -> Response:  # type: ignore[override]
        return super().post(request, f"{company}/{image_id}")
