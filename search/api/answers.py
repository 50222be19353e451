from typing import Any

from rest_framework import serializers

from search.engine.index.index import IndexInfo, Match
from search.engine.index.records import metadata_entry
from search.engine.pictures.paths import ALLOWED_EXTENSIONS, has_allowed_extension
from search.engine.storage import info_entries, timestamp
from search.queries import DEFAULT_TOP_K, MAX_TOP_K, Filters
from tenants.models import Company, IndexBuild

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


class SimilarForm(serializers.Serializer[Any]):
    top_k = serializers.IntegerField(
        default=DEFAULT_TOP_K,
        min_value=1,
        error_messages=_whole_number_message("top_k"),
        help_text=f"How many results; larger values are held to {MAX_TOP_K}.",
    )
    min_score = serializers.FloatField(
        required=False,
        min_value=-1,
        max_value=1,
        error_messages=dict.fromkeys(
            ("invalid", "min_value", "max_value", "max_string_length"), "min_score must be a number from -1 to 1"
        ),
        help_text="Only pictures that score at least this.",
    )
    location = serializers.CharField(
        default="",
        allow_blank=True,
        trim_whitespace=False,
        max_length=1000,
        help_text="Only pictures in this folder and the folders below it.",
    )

    def validate_min_score(self, score: float) -> float:
        if not -1 <= score <= 1:  # not a number passes the field's own limits
            raise serializers.ValidationError("min_score must be a number from -1 to 1")
        return score

    def validate_location(self, location: str) -> str:
        return location.strip("/")


class SearchForm(SimilarForm):
    image = serializers.FileField(
        error_messages=_IMAGE_MESSAGES,
        help_text=f"The picture to search with; {', '.join(ALLOWED_EXTENSIONS)}; at most 16 MB.",
    )

    def validate_image(self, image: Any) -> Any:
        if not has_allowed_extension(image.name):
            raise serializers.ValidationError(f"File type not allowed. Allowed types: {', '.join(ALLOWED_EXTENSIONS)}")
        return image


class ImageForm(serializers.Serializer[Any]):
    image = serializers.FileField(error_messages=_IMAGE_MESSAGES, help_text="The picture; at most 16 MB.")


class ImageListForm(serializers.Serializer[Any]):
    location = SimilarForm().fields["location"]
    page = serializers.IntegerField(default=1, min_value=1, error_messages=_whole_number_message("page"))


class ReindexForm(serializers.Serializer[Any]):
    full = serializers.BooleanField(default=False, help_text="Embed every picture anew.")
    checksum = serializers.BooleanField(default=False, help_text="Compare contents, not only sizes and times.")


def validated(form: type[serializers.Serializer[Any]], data: Any) -> dict[str, Any]:
    """Return the form's fields. Raises ValidationError.

    data: a mapping; of a QueryDict the last value of each field counts, and an empty one is not a missing one.
    """
    bound = form(data={name: data[name] for name in data})
    bound.is_valid(raise_exception=True)
    return dict(bound.validated_data)


def filters(form: dict[str, Any]) -> Filters:
    return Filters(location=form["location"], min_score=form.get("min_score"))


def search_body(company: Company, matches: list[Match]) -> dict[str, Any]:
    """Return the answer to a search."""
    return {
        "success": True,
        "company": company.name,
        "results": [result(match) for match in matches],
        "total_results": len(matches),
        "query_processed": True,
        "timestamp": timestamp(),
    }


def build_body(build: IndexBuild) -> dict[str, Any]:
    """Return what the API tells of a build."""
    return dict(BuildBody(build).data)


def result(match: Match) -> dict[str, Any]:
    """Return one entry of a search's results."""
    return {**metadata_entry(match.image), "score": match.score}


def index_info(info: IndexInfo) -> dict[str, Any]:
    """Return what the API tells of an index: what it is and what made it, without what only builds need."""
    entries = info_entries(info)
    return {name: entries[name] for name in IndexInfoBody().get_fields() if name in entries}


# What the schema tells of the answers --------------------------------------------------------------------------------


class ErrorBody(serializers.Serializer[Any]):
    success = serializers.BooleanField(help_text="Always false.")
    error = serializers.CharField()


class ImageBody(serializers.Serializer[Any]):
    fullPath = serializers.CharField()
    id = serializers.CharField()
    location = serializers.CharField(allow_blank=True)
    name = serializers.CharField()
    type = serializers.CharField()


class ResultBody(ImageBody):
    score = serializers.FloatField(min_value=-1.001, max_value=1.001)


class SearchBody(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    results = ResultBody(many=True)
    total_results = serializers.IntegerField()
    query_processed = serializers.BooleanField()
    timestamp = serializers.DateTimeField()


class HealthBody(serializers.Serializer[Any]):
    status = serializers.CharField()
    api_ready = serializers.BooleanField()
    timestamp = serializers.DateTimeField()
    total_companies_available = serializers.IntegerField()
    loaded_companies = serializers.ListField(child=serializers.CharField())
    loaded_count = serializers.IntegerField()


class LiveBody(serializers.Serializer[Any]):
    status = serializers.CharField()


class ReadyBody(serializers.Serializer[Any]):
    status = serializers.CharField()
    checks = serializers.DictField(child=serializers.CharField())


class CompanyBody(serializers.Serializer[Any]):
    name = serializers.CharField()
    embeddings_path = serializers.CharField()
    loaded = serializers.BooleanField()


class CompaniesBody(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    companies = CompanyBody(many=True)
    total = serializers.IntegerField()


class IndexInfoBody(serializers.Serializer[Any]):
    total_images = serializers.IntegerField()
    embedding_dimension = serializers.IntegerField()
    model = serializers.CharField()
    timestamp = serializers.CharField(required=False, help_text="Missing where the Flask service left none.")
    weights = serializers.CharField(required=False, help_text='"untrained": the results mean nothing.')
    fingerprint = serializers.CharField(required=False)


class StatsDetailBody(serializers.Serializer[Any]):
    total_images = serializers.IntegerField()
    index_info = IndexInfoBody()


class StatsBody(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    stats = StatsDetailBody()


class ImageAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    image = ImageBody()


class PutAnswer(ImageAnswer):
    change = serializers.ChoiceField(["created", "replaced", "unchanged"])


class ImageListAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    images = ImageBody(many=True)
    total = serializers.IntegerField()
    page = serializers.IntegerField()
    pages = serializers.IntegerField()


class TimestampField(serializers.DateTimeField):
    """A time as every timestamp of the contract is written."""

    def to_representation(self, value: Any) -> str:
        return timestamp(value)


class BuildBody(serializers.ModelSerializer[IndexBuild]):
    queued_at = TimestampField()
    started_at = TimestampField(allow_null=True)
    finished_at = TimestampField(allow_null=True)
    company = serializers.CharField(source="company.name")
    percent = serializers.IntegerField()

    class Meta:
        model = IndexBuild
        fields = (
            "id",
            "company",
            "status",
            "full",
            "checksum",
            "fold",
            "attempts",
            "queued_at",
            "started_at",
            "finished_at",
            "percent",
            "images_found",
            "images_embedded",
            "images_reused",
            "images_removed",
            "images_skipped",
            "images_per_second",
            "seconds_left",
            "total_images",
            "weights",
            "full_reason",
            "error",
        )
        read_only_fields = fields


class BuildAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    build = BuildBody()
    url = serializers.CharField()
