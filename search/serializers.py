from typing import Any

from rest_framework import serializers

from search.engine.images import ALLOWED_EXTENSIONS, has_allowed_extension
from search.engine.index import IndexInfo, Match
from search.engine.records import metadata_entry
from search.engine.storage import info_entries
from search.queries import DEFAULT_TOP_K, MAX_TOP_K


class SearchForm(serializers.Serializer[Any]):
    image = serializers.FileField(
        error_messages={
            "required": "No image: send the picture as a multipart field named image",
            "invalid": "No image: send the picture as a multipart field named image",
            "empty": "The image is empty",
            "no_name": "The image has no file name",
        },
        help_text=f"The picture to search with; {', '.join(ALLOWED_EXTENSIONS)}; at most 16 MB.",
    )
    top_k = serializers.IntegerField(
        default=DEFAULT_TOP_K,
        min_value=1,
        error_messages={
            "invalid": "top_k must be a whole number of at least 1",
            "min_value": "top_k must be a whole number of at least 1",
            "max_string_length": "top_k must be a whole number of at least 1",
        },
        help_text=f"How many results; larger values are held to {MAX_TOP_K}.",
    )

    def validate_image(self, image: Any) -> Any:
        if not has_allowed_extension(image.name):
            raise serializers.ValidationError(f"File type not allowed. Allowed types: {', '.join(ALLOWED_EXTENSIONS)}")
        return image


def result(match: Match) -> dict[str, Any]:
    """Return one entry of a search's results."""
    return {**metadata_entry(match.image), "score": match.score}


def index_info(info: IndexInfo) -> dict[str, Any]:
    """Return what the API tells of an index: what it is and what made it, without what only builds need."""
    entries = info_entries(info)
    return {name: entries[name] for name in IndexInfoBody().fields if name in entries}


# What the schema tells of the answers --------------------------------------------------------------------------------


class ErrorBody(serializers.Serializer[Any]):
    success = serializers.BooleanField(help_text="Always false.")
    error = serializers.CharField()


class ResultBody(serializers.Serializer[Any]):
    fullPath = serializers.CharField()
    id = serializers.CharField()
    location = serializers.CharField(allow_blank=True)
    name = serializers.CharField()
    type = serializers.CharField()
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
