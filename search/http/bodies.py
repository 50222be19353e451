from io import BytesIO
from typing import Any

from django.conf import settings
from django.core.files.uploadedfile import InMemoryUploadedFile, SimpleUploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import HttpRequest
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser, FormParser, JSONParser, MultiPartParser

_SMALL_BYTES = 64 * 1024  # of a body with options and no picture


class UploadTooLarge(APIException):
    status_code = 413
    default_detail = f"The image is too large: at most {settings.MAX_UPLOAD_BYTES // 2**20} MB are accepted"


class BodyTooLarge(APIException):
    status_code = 413
    default_detail = f"The body is too large: at most {_SMALL_BYTES // 1024} KB are accepted"


class _BoundedMemoryHandler(FileUploadHandler):
    """Keeps uploaded files in memory, so that no temporary file is left behind, and counts their bytes as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._received = 0

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        super().new_file(*args, **kwargs)
        self._content = BytesIO()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        self._received += len(raw_data)
        if self._received > settings.MAX_UPLOAD_BYTES:
            raise UploadTooLarge
        self._content.write(raw_data)

    def file_complete(self, file_size: int) -> InMemoryUploadedFile:
        self._content.seek(0)
        return InMemoryUploadedFile(
            self._content, self.field_name, self.file_name, self.content_type, file_size, self.charset
        )


def _refuse_declared_length(request: HttpRequest) -> None:
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.MAX_BODY_BYTES:
        raise UploadTooLarge


class ImageFormParser(MultiPartParser):
    """Reads a form with an image of at most MAX_UPLOAD_BYTES; a larger one is refused without reading further."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        request = parser_context["request"]._request
        _refuse_declared_length(request)
        request.upload_handlers = [_BoundedMemoryHandler()]
        return super().parse(stream, media_type, parser_context)


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
        content = stream.read(_SMALL_BYTES + 1)
        if len(content) > _SMALL_BYTES:
            raise BodyTooLarge
        try:
            return super().parse(BytesIO(content), media_type, parser_context)
        except RecursionError as error:
            raise ParseError("JSON parse error - nested too deeply") from error


class SmallJSONParser(_Small, JSONParser):
    pass


class SmallFormParser(_Small, FormParser):
    pass


class SmallMultiPartParser(_Small, MultiPartParser):
    pass
