"""Input of the API: forms, their limits and error messages."""

from functools import cache
from typing import Any

from django.core.files.uploadedfile import UploadedFile
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from search.duplicates import BY_WORD
from search.engine.errors import CropRefused
from search.engine.pictures.crop import MIN_CROP_SIDE, Crop
from search.engine.pictures.paths import ALLOWED_EXTENSIONS, has_allowed_extension
from search.queries import DEFAULT_TOP_K, MAX_LIKE, MAX_PICTURES, MAX_TOP_K, Filters
from search.thumbnails import SIZES
from tenants.models.searches import DAYS_KEPT

_MAX_IGNORED = 100  # names that an answer repeats, about as many as an honest client can send
_MAX_NAME = 100  # letters of each

_NO_IMAGE = "No image: send the picture as a multipart field named image"
_IMAGE_MESSAGES: dict[str, Any] = {
    "required": _NO_IMAGE,
    "invalid": _NO_IMAGE,
    "empty": "The image is empty",
    "no_name": "The image has no file name",
}


def _whole_number_message(name: str) -> dict[str, Any]:
    message = f"{name} must be a whole number of at least 1"
    return {"invalid": message, "min_value": message, "max_string_length": message}


class LocationField(serializers.CharField):
    """A folder below the company's, with or without slashes around it."""

    def to_internal_value(self, data: Any) -> str:
        return str(super().to_internal_value(data)).strip("/")


@extend_schema_field({"type": "string", "format": "crop"})
class CropField(serializers.CharField):
    """A part of a picture, as fractions of it."""

    def __init__(self, **options: Any) -> None:
        wrong: dict[str, Any] = dict.fromkeys(("invalid", "blank", "null"), "crop must be x,y,width,height")
        super().__init__(required=False, trim_whitespace=False, error_messages=wrong, **options)

    def to_internal_value(self, data: Any) -> Crop:  # type: ignore[override]
        try:
            return Crop.parse(super().to_internal_value(data))
        except CropRefused as error:
            raise serializers.ValidationError(str(error)) from error


class SimilarForm(serializers.Serializer[Any]):
    top_k = serializers.IntegerField(
        default=DEFAULT_TOP_K,
        min_value=1,
        error_messages=_whole_number_message("top_k"),
        help_text=f"Number of results; default {DEFAULT_TOP_K}, maximum {MAX_TOP_K} (also for larger values).",
    )
    min_score = serializers.FloatField(
        required=False,
        min_value=-1,
        max_value=1,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value", "max_string_length"), "min_score must be a number from -1 to 1"
        ),
        help_text="Return only pictures with at least this score.",
    )
    min_match = serializers.FloatField(
        required=False,
        min_value=0,
        max_value=100,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value", "max_string_length"), "min_match must be a number from 0 to 100"
        ),
        help_text="Return only pictures whose `match` is at least this. Without effect, and named among "
        "`ignored_parameters`, where results have no `match`.",
    )
    location = LocationField(
        default="",
        allow_blank=True,
        trim_whitespace=False,
        max_length=1000,
        help_text="Return only pictures in this folder and its subfolders.",
    )
    crop = CropField(
        help_text="Search with this part of the picture alone: x,y,width,height from its upper left corner, as "
        f"fractions of the upright picture, such as 0.25,0.1,0.5,0.4. At least {MIN_CROP_SIDE} pixels wide and high.",
    )
    collapse = serializers.ChoiceField(
        ["duplicates"],
        required=False,
        error_messages={"invalid_choice": "collapse must be duplicates"},
        help_text="`duplicates`: of pictures that show the same (levels `exact` and `same` of "
        "`/api/duplicates/{company}`) return only the best, and so many more others.",
    )
    urls = serializers.BooleanField(
        default=False,
        help_text="Give each result signed URLs, `url` of the picture and `thumbnail_url`, which work in a browser "
        "without a key for one to two hours. Only for callers who may see the company's pictures.",
    )

    def validate_min_score(self, score: float) -> float:
        if not -1 <= score <= 1:  # not a number passes the field's own limits
            raise serializers.ValidationError("min_score must be a number from -1 to 1")
        return score

    def validate_min_match(self, match: float) -> float:
        if not 0 <= match <= 100:
            raise serializers.ValidationError("min_match must be a number from 0 to 100")
        return match


class RepeatedField(serializers.ListField):
    """All values that were sent under one name. What is wrong with one is said as if it were alone."""

    def run_child_validation(self, data: Any) -> list[Any]:
        return [self.child.run_validation(each) for each in data]


@extend_schema_field(OpenApiTypes.BINARY)
class PicturesField(RepeatedField):
    """The files under one name; texts beside them count for nothing."""

    def to_internal_value(self, data: Any) -> Any:
        files = [each for each in data if isinstance(each, UploadedFile)]
        if len(files) > MAX_PICTURES:
            self.fail("too_many")
        return super().to_internal_value(files or data[-1:])


def _ids(name: str, *, help_text: str, required: bool) -> RepeatedField:
    return RepeatedField(
        child=serializers.UUIDField(error_messages={"invalid": f"{name} must be the id of a picture"}),
        required=required,
        max_length=MAX_LIKE,
        error_messages={
            "required": f"{name} is missing: the id of a picture, up to {MAX_LIKE} times",
            "max_length": f"{name} names too many pictures: at most {MAX_LIKE}",
        },
        help_text=help_text,
    )


class LikeForm(SimilarForm):
    like = _ids("like", required=True, help_text=f"The `id` of a picture to be similar to; up to {MAX_LIKE} times.")
    unlike = _ids(
        "unlike",
        required=False,
        help_text=f"The `id` of a picture to be less similar to, a quarter as important; up to {MAX_LIKE} times.",
    )


class SearchForm(SimilarForm):
    image = PicturesField(
        child=serializers.FileField(error_messages=_IMAGE_MESSAGES),
        error_messages={
            "required": _NO_IMAGE,
            "too_many": f"Too many images: at most {MAX_PICTURES} are searched with at a time",
        },
        help_text=f"The picture to search with; {', '.join(ALLOWED_EXTENSIONS)}; at most 16 MB. Up to {MAX_PICTURES} "
        "times, together at most 16 MB: a search for what lies between the pictures.",
    )

    def validate_image(self, images: Any) -> Any:
        if not all(has_allowed_extension(image.name) for image in images):
            raise serializers.ValidationError(
                f"File type not allowed. Allowed types: {', '.join(ALLOWED_EXTENSIONS)}", "file_type_not_allowed"
            )
        return images


class ImageForm(serializers.Serializer[Any]):
    image = serializers.FileField(error_messages=_IMAGE_MESSAGES, help_text="The picture; at most 16 MB.")


class FolderListForm(serializers.Serializer[Any]):
    location = LocationField(
        default="",
        allow_blank=True,
        trim_whitespace=False,
        max_length=1000,
        help_text="List only this folder and those below it.",
    )
    page = serializers.IntegerField(
        default=1, min_value=1, error_messages=_whole_number_message("page"), help_text="Which page, from 1."
    )


class ImageListForm(serializers.Serializer[Any]):
    location = SimilarForm().fields["location"]
    urls = SimilarForm().fields["urls"]
    page = FolderListForm().fields["page"]


class DuplicatesForm(serializers.Serializer[Any]):
    level = RepeatedField(
        child=serializers.ChoiceField(
            list(BY_WORD), error_messages={"invalid_choice": f"level must be one of {', '.join(BY_WORD)}"}
        ),
        default=list(BY_WORD),
        help_text="Only duplicates of this level, which may be given several times: `exact` (the files are the same), "
        "`same` (another size, format or compression), `edited` (cropped, bordered, mirrored and the like). "
        "Default: all.",
    )
    page = FolderListForm().fields["page"]
    urls = SimilarForm().fields["urls"]


class ThumbnailForm(serializers.Serializer[Any]):
    size = serializers.ChoiceField(
        SIZES,
        default=320,
        error_messages={"invalid_choice": f"size must be one of {', '.join(map(str, SIZES))}"},
        help_text="Pixels of the longer side; smaller pictures are not enlarged.",
    )


class UsageForm(serializers.Serializer[Any]):
    days = serializers.IntegerField(
        default=30,
        min_value=1,
        max_value=DAYS_KEPT,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value", "max_string_length"),
            f"days must be a whole number from 1 to {DAYS_KEPT}",
        ),
        help_text="How many days, today (UTC) included.",
    )


class ReindexForm(serializers.Serializer[Any]):
    full = serializers.BooleanField(default=False, help_text="Process all pictures, not only changed ones.")
    checksum = serializers.BooleanField(default=False, help_text="Compare contents, not only sizes and times.")


def validated(form: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """Return the form's fields. Raises ValidationError.

    data: a mapping; of a QueryDict the last value of each field counts, unless the field takes all of them, and an
    empty one is not a missing one.
    """
    fields = _shared(form).fields
    given = {name: data.getlist(name) if isinstance(fields.get(name), RepeatedField) else data[name] for name in data}
    return dict(_shared(form).run_validation(given))


@cache
def _shared(form: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """Return a form for all requests: making one copies its fields, and validation leaves nothing in it."""
    return form()


def ignored(form: type[serializers.Serializer[Any]], data: Any, query: Any = ()) -> list[str]:
    """Return the names of what was sent without effect, sorted: the first 100, and the first 100 letters of each.

    data: where the form's fields are. query: the parameters of the address, where these are none of them.
    """
    known = _shared(form).fields.keys() & set(data)
    return sorted({name[:_MAX_NAME] for name in {*data, *query} - known})[:_MAX_IGNORED]


def filters(form: dict[str, Any]) -> Filters:
    return Filters(
        location=form["location"],
        min_score=form.get("min_score"),
        min_match=form.get("min_match"),
        collapse="collapse" in form,
    )
