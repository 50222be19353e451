"""Searches with an uploaded picture or one of the company's own, under /api/search/."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import MethodNotAllowed
from rest_framework.request import Request
from rest_framework.response import Response

from search import queries
from search.api.answers import ErrorBody, SearchBody, search_body
from search.api.forms import LikeForm, SearchForm, SimilarForm, filters, ignored, validated
from search.api.responses import FAULT, NO_KEY, NO_PICTURES, UNUSABLE
from search.http.access import caller_key, readable_company, viewer_of
from search.http.bodies import ImageFormParser
from search.http.counted import CountedSearchView
from search.http.limits import QUOTA_REMAINING, RateExceeded, counted_search
from search.http.signed_urls import Viewer
from search.queries import Found, ImageNotFound, QueryPicture
from tenants.models import Company, SearchChannel

_REMAINING = OpenApiParameter(
    QUOTA_REMAINING,
    int,
    OpenApiParameter.HEADER,
    response=[200],
    description="Searches that are left today (UTC); missing where the company has no daily quota.",
)


class _ApiSearchView(CountedSearchView):
    channel = SearchChannel.API

    def check_throttles(self, request: Request) -> None:
        try:
            super().check_throttles(request)
        except RateExceeded:
            key = caller_key(request)
            if key and key.company.name == self.kwargs["company"]:  # of a stranger nothing is looked up
                self.searched = key.company
            raise

    def find_company(self, name: str) -> Company:
        self.searched = company = readable_company(self.request, name)
        return company

    def answer(
        self, company: Company, found: Found, *, viewer: Viewer | None, remaining: int | None, ignored: Sequence[str]
    ) -> Response:
        self.note_best(found.matches)
        headers = {} if remaining is None else {QUOTA_REMAINING: str(remaining)}
        without_effect = sorted({*ignored, *found.without_effect})
        return Response(search_body(company, found, viewer=viewer, ignored=without_effect), headers=headers)

    def like(
        self,
        company: Company,
        form: dict[str, Any],
        like: Sequence[str],
        *,
        unlike: Sequence[str] = (),
        ignored: Sequence[str],
    ) -> Response:
        """Answer with the pictures like some of the company's own. form: of the other parameters."""
        viewer = viewer_of(self.request, company) if form["urls"] else None
        with counted_search(company) as remaining:
            found = queries.search_like(
                company, like, unlike=unlike, crop=form.get("crop"), top_k=form["top_k"], filters=filters(form)
            )
        return self.answer(company, found, viewer=viewer, remaining=remaining, ignored=ignored)


class SearchView(_ApiSearchView):
    parser_classes = [ImageFormParser]

    @extend_schema(
        operation_id="search_like",
        parameters=[LikeForm, _REMAINING],
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or a parameter is invalid"),
            401: NO_KEY,
            403: NO_PICTURES,
            404: OpenApiResponse(ErrorBody, "The company has no picture with one of these ids"),
            405: OpenApiResponse(ErrorBody, "Neither like nor unlike is given"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str) -> Response:
        """Return the pictures most similar to some of the company's own, which are left out, best first."""
        if not request.query_params.keys() & {"like", "unlike"}:
            raise MethodNotAllowed("GET", 'Method "GET" not allowed without like, the id of a picture: POST an image')
        searched = self.find_company(company)
        form = validated(LikeForm, request.query_params)
        like, unlike = ([str(image_id) for image_id in form.get(name, ())] for name in ("like", "unlike"))
        return self.like(searched, form, like, unlike=unlike, ignored=ignored(LikeForm, request.query_params))

    @extend_schema(
        parameters=[_REMAINING],
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
        """Return the company's pictures most similar to the image, or to several together, best first."""
        searched = self.find_company(company)
        form = validated(SearchForm, request.data)
        pictures = [QueryPicture(image, image.name) for image in form["image"]]
        viewer = viewer_of(request, searched) if form["urls"] else None
        with counted_search(searched) as remaining:
            found = queries.search(
                searched, pictures, crop=form.get("crop"), top_k=form["top_k"], filters=filters(form)
            )
        without_effect = ignored(SearchForm, request.data, request.query_params)
        return self.answer(searched, found, viewer=viewer, remaining=remaining, ignored=without_effect)


class SimilarView(_ApiSearchView):
    @extend_schema(
        parameters=[SimilarForm, _REMAINING],
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or a parameter is invalid"),
            401: NO_KEY,
            403: NO_PICTURES,
            404: OpenApiResponse(
                ErrorBody, "The company has no picture with this id, or its file, for `crop`, is gone"
            ),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str, image_id: UUID) -> Response:
        """Return the pictures most similar to one of the company's own, which is left out, best first."""
        searched = self.find_company(company)
        form = validated(SimilarForm, request.query_params)
        return self.like(searched, form, [str(image_id)], ignored=ignored(SimilarForm, request.query_params))


@extend_schema(exclude=True)
class NoIdView(SearchView):
    """A path below a company that ends in no UUID, which no picture has, nor has a company a slash in its name."""

    def get(self, request: Request, company: str, image_id: str) -> Response:  # type: ignore[override]
        self.find_company(company)
        raise ImageNotFound(f"No picture with the id {image_id}")

    def post(self, request: Request, company: str, image_id: str) -> Response:  # type: ignore[override]
        return super().post(request, f"{company}/{image_id}")
