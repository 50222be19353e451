"""The API under /api/: each view reads its input, makes one call and shows the result."""

from typing import Any
from uuid import UUID

from django.conf import settings
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import queries
from search.api.answers import (
    CompaniesBody,
    ErrorBody,
    HealthBody,
    SearchBody,
    SearchForm,
    SimilarForm,
    StatsBody,
    filters,
    index_info,
    search_body,
    validated,
)
from search.api.forms import SearchForm, SimilarForm, filters, validated
from search.engine.timestamps import timestamp
from search.http.access import readable_company, visible_companies
from search.http.bodies import ImageFormParser
from search.http.limits import count_search
from tenants.models import Company

NOT_FOUND = OpenApiResponse(ErrorBody, "The company is unknown, switched off, or not the caller's")
NO_KEY = OpenApiResponse(ErrorBody, "The API key is wrong, expired or revoked; or there is none, and one is required")
FAULT = OpenApiResponse(ErrorBody, "A fault of the service's own; its log tells more")
UNUSABLE = OpenApiResponse(ErrorBody, "The index or the model cannot be used until an operator acts")


class HealthView(APIView):
    throttle_classes = []

    @extend_schema(responses={200: HealthBody, 401: NO_KEY, 500: FAULT})
    def get(self, request: Request) -> Response:
        """Tell whether the service runs and which of the caller's companies this process has loaded."""
        companies = queries.companies_with_index(visible_companies(request))
        loaded = _loaded_names(companies)
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


class CompaniesView(APIView):
    @extend_schema(responses={200: CompaniesBody, 401: NO_KEY, 500: FAULT})
    def get(self, request: Request) -> Response:
        """List the companies that the caller can search."""
        companies = queries.companies_with_index(visible_companies(request))
        loaded = _loaded_names(companies)
        entries = [
            {
                "name": company.name,
                "embeddings_path": f"{settings.EMBEDDINGS_DIR.name}/{company.name}",
                "loaded": company.name in loaded,
            }
            for company in companies
        ]
        return Response({"success": True, "companies": entries, "total": len(entries)})


class StatsView(APIView):
    @extend_schema(responses={200: StatsBody, 400: NOT_FOUND, 401: NO_KEY, 500: FAULT, 503: UNUSABLE})
    def get(self, request: Request, company: str) -> Response:
        """Tell how many pictures a company's index has, and what made it."""
        found = readable_company(request, company)
        info = queries.company_info(found)
        stats = {"total_images": info.total_images, "index_info": index_info(info)}
        return Response({"success": True, "company": found.name, "stats": stats})


class SearchView(APIView):
    parser_classes = [ImageFormParser]

    @extend_schema(
        request={"multipart/form-data": SearchForm},
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or the image or top_k is refused"),
            401: NO_KEY,
            413: OpenApiResponse(ErrorBody, "The image is larger than 16 MB"),
            415: OpenApiResponse(ErrorBody, "The request is not multipart/form-data"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def post(self, request: Request, company: str) -> Response:
        """Return the company's pictures most similar to the image, best first."""
        found = readable_company(request, company)
        index = queries.company_index(found)
        form = validated(SearchForm, request.data)
        image = form["image"]
        count_search(found)
        matches = queries.find_similar(index, image, name=image.name, top_k=form["top_k"], filters=filters(form))
        return Response(search_body(found, matches))


class SimilarView(APIView):
    @extend_schema(
        parameters=[SimilarForm],
        responses={
            200: SearchBody,
            400: OpenApiResponse(ErrorBody, "The company is unknown, or a parameter is refused"),
            401: NO_KEY,
            404: OpenApiResponse(ErrorBody, "The company has no picture with this id"),
            405: OpenApiResponse(ErrorBody, "The id is not a UUID"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str, image_id: UUID) -> Response:
        """Return the pictures most similar to one of the company's own, which is left out, best first."""
        found = readable_company(request, company)
        index = queries.company_index(found)
        form = validated(SimilarForm, request.query_params)
        count_search(found)
        matches = queries.find_similar_to_indexed(index, str(image_id), top_k=form["top_k"], filters=filters(form))
        return Response(search_body(found, matches))


def _loaded_names(companies: list[Company]) -> list[str]:
    directories = queries.loaded_directories()
    return [company.name for company in companies if company.embeddings_directory in directories]


def drop_slashed_paths(endpoints: list[Any]) -> list[Any]:
    """Leave the second spelling of each path, the one with a trailing slash, out of the schema."""
    return [endpoint for endpoint in endpoints if not endpoint[0].endswith("/")]
