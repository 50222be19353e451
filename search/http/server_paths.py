"""Takes out of a text where things lie on the server: what a caller of the API reads names files, not directories."""

import re
from pathlib import Path

from django.conf import settings

_QUOTED = re.compile(r"(?P<quote>['\"`])/(?:[^'\"`]*/)?(?P<name>[^'\"`/]+)/?(?P=quote)")
_PLAIN = re.compile(r"(?<![\w.~:/-])/(?:[^\s/'\"`<>|:;,()]+/)*(?P<name>[^\s/'\"`<>|:;,()]+)/?")

_STORED = re.compile(r"s3://(?:[^\s'\"`<>|;,()]*/)?(?P<name>[^\s'\"`<>|:;,()/]+)/?")


def without_server_paths(text: str, *more: str) -> str:
    """Return text with each absolute path, and each URL of a store, cut to what it ends in: below a directory of ours,
    to what is below that. The addresses of the store's server and of Milvus are left out.

    more: directories that text may name besides ours, whose names may have spaces.
    """
    for place in [*sorted(_places(), key=len, reverse=True), *filter(None, more)]:
        text = re.sub(rf"{re.escape(place)}(?=/|\b|$)", lambda _, name=Path(place).name: name, text)  # type: ignore[misc]
    text = _STORED.sub(r"\g<name>", _server_of_store().sub("the store", text))
    if settings.MILVUS_URL:
        scheme, _, address = settings.MILVUS_URL.partition("://")
        text = re.sub(rf"(?:{scheme}://)?{re.escape(address)}(?!\w)", "the search server", text)
    return _PLAIN.sub(r"\g<name>", _QUOTED.sub(r"\g<quote>\g<name>\g<quote>", text))


def _server_of_store() -> re.Pattern[str]:
    server = re.escape(settings.STORE_ENDPOINT) if settings.STORE_ENDPOINT else r"https://[\w.-]+\.amazonaws\.com"
    return re.compile(rf"{server}(?:[^\s'\"`<>|;,()]*[^\s'\"`<>|;,():.])?")


def _places() -> set[str]:
    ours = [
        settings.INDEX_DIR,
        settings.EMBEDDINGS_DIR,
        settings.MEDIA_ROOT,
        settings.CACHE_DIR,
        settings.TORCH_HOME,
        settings.BASE_DIR,
    ]
    places = [place for path in [*ours, *settings.IMAGE_ROOTS] for place in (Path(path), Path(path).resolve())]
    return {str(place) for place in places if len(place.parts) > 1}
