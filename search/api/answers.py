"""Response bodies of the API and their schema."""

from collections.abc import Sequence
from dataclasses import asdict
from math import ceil
from typing import Any

from rest_framework import serializers
from rest_framework.exceptions import NotFound

from search.companies.usage import Searches, Usage
from search.duplicates import BY_WORD
from search.engine.index.duplicates import Level
from search.engine.index.folders import Folder
from search.engine.index.groups import Group, Member
from search.engine.index.index import IndexInfo
from search.engine.index.match import Match
from search.engine.index.records import ImageRecord, metadata_entry
from search.engine.storage import info_entries
from search.engine.timestamps import timestamp
from search.http.server_paths import without_server_paths
from search.http.signed_urls import Viewer, picture_urls
from search.queries import Found
from tenants.models import Company, IndexBuild, SearchChannel


def search_body(
    company: Company, found: Found, *, viewer: Viewer | None, ignored: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the answer to a search.

    viewer: for whom each result gets URLs; None: it gets none. ignored: parameters that no search knows.
    """
    body = found_body(company.name, found, ignored=ignored)
    for entry, match in zip(body["results"], found.matches, strict=True):
        entry.update(urls(company, match.image, viewer=viewer))
    return body


def found_body(company: str | None, found: Found, *, ignored: Sequence[str] = ()) -> dict[str, Any]:
    """Return the answer to a search without URLs. company: its name; None where an index without one was searched."""
    return {
        "success": True,
        "company": company,
        "results": [result(match) for match in found.matches],
        **({} if found.nothing_similar is None else {"nothing_similar": found.nothing_similar}),
        "total_results": len(found.matches),
        "query_processed": True,
        **({"ignored_parameters": list(ignored)} if ignored else {}),
        "timestamp": timestamp(),
    }


def build_body(build: IndexBuild) -> dict[str, Any]:
    """Return a build as the API shows it: without what its texts tell of the server's directories."""
    body = dict(BuildBody(build).data)
    for text in ("error", "full_reason"):
        body[text] = without_server_paths(body[text], build.image_folder, build.company.image_place)
    return body


def result(match: Match) -> dict[str, Any]:
    """Return one entry of a search's results."""
    percent = {} if match.percent is None else {"match": match.percent}
    return {**metadata_entry(match.image), "score": match.score, **percent}


def duplicate_group(company: Company, group: Group, *, viewer: Viewer | None) -> dict[str, Any]:
    """Return a group of duplicates as the API shows it, its leader, which is itself exactly, first."""
    members = [Member(group.leader, Level.EXACT, 1.0), *group.members]
    return {
        "images": [
            {
                **metadata_entry(member.image),
                "score": member.score,
                "level": member.level.word,
                **urls(company, member.image, viewer=viewer),
            }
            for member in members
        ]
    }


def urls(company: Company, record: ImageRecord, *, viewer: Viewer | None) -> dict[str, str]:
    """Return what a picture's entry says in addition where a viewer wants to see it."""
    return asdict(picture_urls(company, record.id, viewer=viewer)) if viewer else {}


def folder_entry(folder: Folder) -> dict[str, Any]:
    """Return a folder as the API shows it."""
    return {
        "location": folder.location,
        "name": folder.name,
        "images": folder.pictures,
        "total_images": folder.below,
    }


def index_info(info: IndexInfo) -> dict[str, Any]:
    """Return an index as the API shows it, without what only builds need."""
    entries = info_entries(info)
    return {name: entries[name] for name in IndexInfoBody().get_fields() if name in entries}


def require_page(page: int, *, total: int, a_page: int) -> int:
    """Return how many pages there are of total entries. Raises NotFound where page is beyond the last."""
    pages = max(1, ceil(total / a_page))
    if page > pages:
        raise NotFound(f"There is no page {page}: the last page is {pages}", "page_out_of_range")
    return pages


def usage_body(usage: Usage, names: dict[str, str]) -> dict[str, Any]:
    """Return how a company was used. names: of its keys, by prefix; of others nothing is shown."""
    return {
        "total": _searches(usage.total),
        "days": [{"day": day, **_searches(searches)} for day, searches in usage.days.items()],
        "channels": [{"channel": channel, **_searches(searches)} for channel, searches in usage.channels.items()],
        "keys": [
            {"prefix": prefix, "name": names[prefix], **_searches(searches)}
            for prefix, searches in usage.keys.items()
            if prefix in names
        ],
    }


def _searches(searches: Searches) -> dict[str, Any]:
    return {name: _rounded(getattr(searches, name)) for name in SearchesBody().get_fields()}


def _rounded(value: float | None) -> float | None:
    return round(value, 3) if isinstance(value, float) else value


# Schema of the responses --------------------------------------------------------------------------------------------


class ErrorBody(serializers.Serializer[Any]):
    success = serializers.BooleanField(help_text="Always false.")
    error = serializers.CharField(help_text="What is wrong, for people.")
    code = serializers.CharField(help_text="What is wrong, for programs: stays the same when the words change.")
    hint = serializers.CharField(required=False, help_text="What may have been forgotten.")


class ImageBody(serializers.Serializer[Any]):
    fullPath = serializers.CharField()
    id = serializers.CharField()
    location = serializers.CharField(allow_blank=True)
    name = serializers.CharField()
    type = serializers.CharField()


class ShownImageBody(ImageBody):
    url = serializers.CharField(required=False, help_text="With `urls`: the picture as it is.")
    thumbnail_url = serializers.CharField(required=False, help_text="With `urls`: a JPEG of at most 320 pixels a side.")


class ResultBody(ShownImageBody):
    score = serializers.FloatField(min_value=-1.001, max_value=1.001)
    match = serializers.FloatField(
        required=False,
        min_value=0,
        max_value=100,
        help_text="How likely the query shows this very picture, in percent; missing where that cannot be told.",
    )


class SearchBody(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    results = ResultBody(many=True)
    nothing_similar = serializers.BooleanField(
        required=False,
        help_text="Whether the company has nothing like the query; missing where that cannot be told.",
    )
    total_results = serializers.IntegerField()
    query_processed = serializers.BooleanField()
    ignored_parameters = serializers.ListField(
        child=serializers.CharField(),
        required=False,
        help_text="Names of the parameters that had no effect; missing where all had.",
    )
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
    timestamp = serializers.CharField(required=False, help_text="Missing if the Flask service did not record it.")
    weights = serializers.CharField(required=False, help_text='"builtin": finds copies and little else.')
    fingerprint = serializers.CharField(required=False)


class StatsDetailBody(serializers.Serializer[Any]):
    total_images = serializers.IntegerField()
    index_info = IndexInfoBody()


class StatsBody(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    stats = StatsDetailBody()


class SearchesBody(serializers.Serializer[Any]):
    searches = serializers.IntegerField(help_text="Answered searches.")
    without_result = serializers.IntegerField(help_text="Those of them that found nothing.")
    errors = serializers.IntegerField(  # type: ignore[assignment]  # a field never hides the serializer's own
        help_text="Failed on the server (5xx); not among `searches`."
    )
    refused = serializers.IntegerField(help_text="Refused (4xx): quota, rate, invalid input; not among `searches`.")
    mean_ms = serializers.FloatField(allow_null=True, help_text="Mean time of an answered search.")
    p95_ms = serializers.IntegerField(
        allow_null=True, help_text="95 % took at most this: 25, 50, 100, 200, 500, 1000, 2000 or 5000; null if more."
    )
    mean_best_score = serializers.FloatField(allow_null=True, help_text="Mean score of the best results.")


class SearchesOfDayBody(SearchesBody):
    day = serializers.DateField(help_text="UTC")


class SearchesOfChannelBody(SearchesBody):
    channel = serializers.ChoiceField(SearchChannel.values)


class SearchesOfKeyBody(SearchesBody):
    prefix = serializers.CharField(allow_blank=True, help_text="Empty: searches without a key.")
    name = serializers.CharField(allow_blank=True)


class UsageBody(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    total = SearchesBody()
    days = SearchesOfDayBody(many=True, help_text="Each day, oldest first, today included.")
    channels = SearchesOfChannelBody(many=True)
    keys = SearchesOfKeyBody(many=True, help_text="All for staff; for a key's holder only that key.")


class ImageAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    image = ImageBody()


class PutAnswer(ImageAnswer):
    change = serializers.ChoiceField(["created", "replaced", "unchanged"])


class ImageListAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    images = ShownImageBody(many=True)
    total = serializers.IntegerField()
    page = serializers.IntegerField()
    pages = serializers.IntegerField()


class DuplicateBody(ResultBody):
    score = serializers.FloatField(min_value=-1.001, max_value=1.001, help_text="With the first picture of its group.")
    level = serializers.ChoiceField(list(BY_WORD), help_text="How it is known to be a duplicate of the first one.")


class DuplicateGroupBody(serializers.Serializer[Any]):
    images = DuplicateBody(many=True)


class DuplicatesAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    groups = DuplicateGroupBody(many=True)
    total = serializers.IntegerField(help_text="Groups at these levels.")
    page = serializers.IntegerField()
    pages = serializers.IntegerField()


class FolderBody(serializers.Serializer[Any]):
    location = serializers.CharField(allow_blank=True, help_text="Its path; empty for the company's own folder.")
    name = serializers.CharField(allow_blank=True)
    images = serializers.IntegerField(help_text="Pictures in the folder itself.")
    total_images = serializers.IntegerField(help_text="Pictures in the folder and in all folders below it.")


class FolderListAnswer(serializers.Serializer[Any]):
    success = serializers.BooleanField()
    company = serializers.CharField()
    folders = FolderBody(many=True)
    total = serializers.IntegerField()
    page = serializers.IntegerField()
    pages = serializers.IntegerField()


class TimestampField(serializers.DateTimeField):
    """A time in the format of the API's timestamps."""

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
