"""A company's pictures one at a time, under /api/images/."""

from urllib.parse import unquote_to_bytes

from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.permissions import AllowAny, BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from search import pictures, queries
from search.api.answers import ErrorBody, ImageAnswer, ImageListAnswer, PutAnswer, require_page, urls
from search.api.forms import ImageForm, ImageListForm, validated
from search.api.responses import FAULT, FORBIDDEN, NO_KEY, NO_PICTURES, NOT_FOUND, UNAUTHORISED, UNUSABLE
from search.engine.errors import PathRefused
from search.engine.index.records import metadata_entry
from search.engine.pictures.paths import NOT_UTF8
from search.http.access import actor_of, readable_company, staff_or_key, viewer_of, writable_company
from search.http.bodies import ImageBodyParser, ImageFormParser
from search.queries import ImageNotFound

IMAGES_A_PAGE = 100

_NO_IMAGE = OpenApiResponse(ErrorBody, "The company has no such picture")


def _require_utf8(path: str) -> None:
    """Raise PathRefused where the URL's bytes are no UTF-8: in the place of such Django leaves three letters, %E9."""
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise PathRefused(path, NOT_UTF8) from error


class ImagesView(APIView):
    @extend_schema(
        operation_id="images_list",
        parameters=[ImageListForm],
        responses={
            200: ImageListAnswer,
            400: NOT_FOUND,
            401: NO_KEY,
            403: NO_PICTURES,
            404: OpenApiResponse(ErrorBody, "No such page"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def get(self, request: Request, company: str) -> Response:
        """List the company's pictures, 100 per page; pictures added since the last build come last."""
        found = readable_company(request, company)
        form = validated(ImageListForm, request.query_params)
        viewer = viewer_of(request, found) if form["urls"] else None
        start = (form["page"] - 1) * IMAGES_A_PAGE
        index = queries.company_index(found)
        records, total = index.page(start, start + IMAGES_A_PAGE, location=form["location"])
        pages = require_page(form["page"], total=total, a_page=IMAGES_A_PAGE)
        return Response(
            {
                "success": True,
                "company": found.name,
                "images": [{**metadata_entry(record), **urls(found, record, viewer=viewer)} for record in records],
                "total": total,
                "page": form["page"],
                "pages": pages,
            }
        )


class ImageView(APIView):
    parser_classes = [ImageFormParser, ImageBodyParser]

    def get_permissions(self) -> list[BasePermission]:
        reads = self.request.method in {"GET", "HEAD", "OPTIONS"}
        return [AllowAny() if reads else staff_or_key("tenants.change_company")()]

    @extend_schema(responses={200: ImageAnswer, 400: NOT_FOUND, 401: NO_KEY, 404: _NO_IMAGE, 500: FAULT, 503: UNUSABLE})
    def get(self, request: Request, company: str, image_path: str) -> Response:
        """Return a picture's entry."""
        found = readable_company(request, company)
        record = pictures.find_picture(queries.company_index(found), image_path)
        if record is None:
            raise ImageNotFound(f"No picture {image_path}")
        return Response({"success": True, "company": found.name, "image": metadata_entry(record)})

    @extend_schema(
        request={"multipart/form-data": ImageForm, "image/*": bytes},
        responses={
            200: PutAnswer,
            201: PutAnswer,
            400: NOT_FOUND,
            401: UNAUTHORISED,
            403: FORBIDDEN,
            413: OpenApiResponse(ErrorBody, "The image is larger than 16 MB, or the company may store no more"),
            500: FAULT,
            503: UNUSABLE,
        },
    )
    def put(self, request: Request, company: str, image_path: str) -> Response:
        """Store a picture in the company's folder and make it searchable immediately. Idempotent."""
        found = writable_company(request, company)
        _require_utf8(image_path)
        image = validated(ImageForm, request.data)["image"]
        record, change = pictures.put_image(found, image_path, image.read(), by=actor_of(request))
        body = {"success": True, "company": found.name, "image": metadata_entry(record), "change": change.value}
        return Response(body, status=201 if change is pictures.Put.CREATED else 200)

    @extend_schema(
        responses={
            200: ImageAnswer,
            400: NOT_FOUND,
            401: UNAUTHORISED,
            403: FORBIDDEN,
            404: _NO_IMAGE,
            500: FAULT,
            503: UNUSABLE,
        }
    )
    def delete(self, request: Request, company: str, image_path: str) -> Response:
        """Remove a picture from the company's folder and, immediately, from its searches."""
        found = writable_company(request, company)
        record = pictures.delete_image(found, image_path, by=actor_of(request))
        if record is None:
            raise ImageNotFound(f"No picture {image_path}")
        return Response({"success": True, "company": found.name, "image": metadata_entry(record)})
