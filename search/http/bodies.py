"""How much of a request's body is read, and by whom: bounds for all, and the parsers of the API."""

import re
import sys
from collections.abc import Callable, Iterable
from io import BytesIO, IOBase
from typing import Any, BinaryIO, cast

from django.conf import settings
from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import reverse
from django.utils.datastructures import MultiValueDict
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser, DataAndFiles, FormParser, JSONParser

from search.engine.pictures.decode import extension_of
from search.engine.pictures.paths import has_allowed_extension
from search.http.multipart import FormBroken, Part, as_text, split_form

MAX_PARTS = 100  # of a form
SMALL_BYTES = 64 * 1024  # of a body with options and no picture, and of the form of the login

_CHUNK_BYTES = 64 * 1024
_BOUNDARY = re.compile(r"[ -~]{0,200}[!-~]")
_SEARCH_PAGE = re.compile("/search/[^/]+/")


class UploadTooLarge(APIException):
    status_code = 413
    default_detail = f"The image is too large: at most {settings.MAX_UPLOAD_BYTES // 2**20} MB are accepted"


class BodyTooLarge(APIException):
    status_code = 413
    default_detail = f"The body is too large: at most {SMALL_BYTES // 1024} KB are accepted"


class TooManyParts(SuspiciousOperation):
    """A form of more parts than any of ours has."""

    def __init__(self, most: int) -> None:
        super().__init__(f"The form has too many parts: at most {most} are accepted")


# Bounds for every request -------------------------------------------------------------------------------------------


def bound_bodies(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware: whoever reads a body, a view or the check of its CSRF token, reads it within bounds.

    Django's parser counts only parts that have a name; it takes 2 s for a megabyte of others.
    """

    def middleware(request: HttpRequest) -> HttpResponse:
        if hasattr(request, "_stream"):
            request._stream = cast(BinaryIO, _BoundedStream(request, most_bytes=_most_bytes(request)))
        return get_response(request)

    return middleware


def accept_more(request: HttpRequest, *, most_bytes: int, most_parts: int) -> None:
    """Widen the bounds of a body that nobody has begun to read."""
    stream = cast(_BoundedStream, request._stream)
    stream.most_bytes, stream.most_parts = most_bytes, most_parts


def _most_bytes(request: HttpRequest) -> int:
    if request.path_info.startswith("/api/") or _SEARCH_PAGE.fullmatch(request.path_info):
        return sys.maxsize  # the API's parsers, which the search page uses too, have bounds of their own
    if request.path_info == reverse("admin:login"):
        return SMALL_BYTES
    return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)


class _BoundedStream(IOBase):
    """The body of a request; raises RequestDataTooBig and TooManyParts as soon as it is more than it may be."""

    def __init__(self, request: HttpRequest, *, most_bytes: int) -> None:
        self.most_bytes, self.most_parts = most_bytes, MAX_PARTS
        self._stream = request._stream
        in_chunks = "HTTP_TRANSFER_ENCODING" in request.META  # then the length is none that the client gave
        self._bytes_left_to_come = 0 if in_chunks else int(request.META.get("CONTENT_LENGTH") or 0)
        boundary = (request.content_params or {}).get("boundary", "")
        self._delimiter = b"--" + boundary.encode("ascii", "replace") if boundary else b""
        self._bytes = self._delimiters = 0
        self._end = b""  # of what was read, in which a delimiter may have begun

    def read(self, size: int | None = -1) -> bytes:
        self._require_small(self._bytes_left_to_come)
        content = self._stream.read(-1 if size is None else size)
        self._count(content)
        return content

    def readline(self, size: int | None = -1) -> bytes:
        line = self._stream.readline(-1 if size is None else size)
        self._count(line)
        return line

    def _count(self, content: bytes) -> None:
        self._bytes += len(content)
        self._require_small(self._bytes)
        if not self._delimiter:
            return
        seen = self._end + content
        self._delimiters += seen.count(self._delimiter)
        if self._delimiters > self.most_parts + 1:  # one more than parts, where the form ends
            raise TooManyParts(self.most_parts)
        begun = len(self._delimiter) - 1
        self._end = seen[-begun:] if not seen.endswith(self._delimiter) else b""

    def _require_small(self, number: int) -> None:
        if number > self.most_bytes:
            raise RequestDataTooBig(f"The body is too large: at most {self.most_bytes:,} bytes are accepted")


# Parsers of the API -------------------------------------------------------------------------------------------------


def _refuse_declared_length(request: HttpRequest) -> None:
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.MAX_BODY_BYTES:
        raise UploadTooLarge


class SmallMultiPartParser(BaseParser):
    """Reads a form into memory, so that no temporary file is left behind."""

    media_type = "multipart/form-data"
    most_bytes = SMALL_BYTES
    too_large: type[APIException] = BodyTooLarge

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> DataAndFiles:
        boundary = parser_context["request"]._request.content_params.get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary):
            raise ParseError("The Content-Type header names no boundary: let your HTTP library write that header")
        try:
            return self._sorted(split_form(self._read(stream), boundary.encode()))
        except FormBroken as error:
            raise ParseError(str(error)) from error

    def _read(self, stream: Any) -> bytes:
        chunks, left = [], self.most_bytes
        while chunk := stream.read(_CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise self.too_large
            chunks.append(chunk)
        return b"".join(chunks)

    def _sorted(self, parts: Iterable[Part]) -> DataAndFiles:
        fields, files, left = QueryDict(mutable=True), MultiValueDict[str, Any](), SMALL_BYTES
        for part in parts:
            if name := _file_name(part):
                if len(part.content) > settings.MAX_UPLOAD_BYTES:
                    raise self.too_large
                files.appendlist(part.name, SimpleUploadedFile(name, part.content))
                continue
            left -= len(part.content)
            if left < 0:
                raise BodyTooLarge
            fields.appendlist(part.name, as_text(part.content))
        return DataAndFiles(fields, files)


class ImageFormParser(SmallMultiPartParser):
    """Reads a form with an image of at most MAX_UPLOAD_BYTES; a larger one is refused without reading further."""

    most_bytes = settings.MAX_BODY_BYTES
    too_large = UploadTooLarge

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> DataAndFiles:
        _refuse_declared_length(parser_context["request"]._request)
        return super().parse(stream, media_type, parser_context)


def _file_name(part: Part) -> str | None:
    """Return the name of a part that is a file; None where it is a field.

    A picture that came without a name, or as the blob that browsers make of a script's picture, is named by its kind.
    """
    name = re.split(r"[/\\]", part.filename or "")[-1]
    without_query = re.split("[?#]", name)[0]  # of the URL that the picture was taken from
    name = without_query if has_allowed_extension(without_query) else name
    if name in {"", "blob"} and (ending := extension_of(part.content[:12])):
        return f"image.{ending}"
    return name or None


class ImageBodyParser(BaseParser):
    """Reads a body that is the picture itself, of any media type, within the same bounds."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> dict[str, Any]:
        _refuse_declared_length(parser_context["request"]._request)
        content = stream.read(settings.MAX_UPLOAD_BYTES + 1)
        if len(content) > settings.MAX_UPLOAD_BYTES:
            raise UploadTooLarge
        return {"image": SimpleUploadedFile("body", content)}


class _Small(BaseParser):
    """Gives a parser without a limit of its own a body read into memory; one too large is refused."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        content = stream.read(SMALL_BYTES + 1)
        if len(content) > SMALL_BYTES:
            raise BodyTooLarge
        try:
            return super().parse(BytesIO(content), media_type, parser_context)
        except RecursionError as error:
            raise ParseError("JSON parse error - nested too deeply") from error


class SmallJSONParser(_Small, JSONParser):
    pass


class SmallFormParser(_Small, FormParser):
    pass
