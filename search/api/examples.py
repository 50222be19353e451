"""What the documentation shows: requests that work against the demo of `make run`, and what they answer."""

from typing import Any

from search.companies.demo import COMPANY
from search.engine.index.records import image_id

_FOLDER, _NAME = "Things/Fish", "fish-01.jpg"
_IMAGE_ID = image_id(COMPANY, f"{_FOLDER}/{_NAME}")
_SIGNED, _SIGNATURE = f"/api/pictures/{COMPANY}/{_IMAGE_ID}", "?signed=..."
_TIME = "2026-11-26T09:30:00.000Z"

PICTURE = f"media/{COMPANY}/{_FOLDER}/{_NAME}"
KEY = "KEY"

PATH_PARAMETERS = {  # name -> what it is, an example
    "company": ("The company's name, as in `/api/companies`.", COMPANY),
    "image_id": ("The `id` of a picture, from a search or from `/api/images/{company}`.", _IMAGE_ID),
    "image_path": ("The picture's path below the company's folder.", f"{_FOLDER}/{_NAME}"),
    "build_id": ("The `id` of a build, from `/api/reindex/{company}`.", 1),
}
QUERY_PARAMETERS = {"like": [_IMAGE_ID]}  # those that a request needs
WRITTEN_PATH = f"{_FOLDER}/new.jpg"  # whoever tries everything out still finds what the other examples ask for

FIELDS: dict[str, Any] = {  # of answers; "Schema.field" where a name means several things
    "success": True,
    "ErrorBody.success": False,
    "company": COMPANY,
    "fullPath": f"{_FOLDER}/{_NAME}",
    "id": _IMAGE_ID,
    "BuildBody.id": 1,
    "location": _FOLDER,
    "name": "fish-01",
    "CompanyBody.name": COMPANY,
    "FolderBody.name": "Fish",
    "type": "file",
    "score": 0.8731,
    "match": 91.4,
    "nothing_similar": False,
    "level": "same",
    "query_processed": True,
    "timestamp": _TIME,
    "embeddings_path": f"embeddings/{COMPANY}",
    "loaded": True,
    "total_results": 1,
    "total": 1,
    "page": 1,
    "pages": 1,
    "images": 13,
    "total_images": 234,
    "FolderBody.total_images": 13,
    "embedding_dimension": 960,
    "model": "MobileNetV3-Large",
    "weights": "IMAGENET1K_V1",
    "fingerprint": "b1f6fa44138e20f2cf79e51df63b48fe232656a0f9881ddb99e4ba3353bd2aa9",
    "queued_at": _TIME,
    "started_at": _TIME,
    "finished_at": _TIME,
    "percent": 100,
    "images_found": 234,
    "images_embedded": 234,
    "images_reused": 0,
    "images_removed": 0,
    "images_skipped": 0,
    "images_per_second": 62.5,
    "seconds_left": None,
    "full": False,
    "checksum": False,
    "fold": False,
    "attempts": 1,
    "full_reason": "First build",
    "error": "",
    "BuildAnswer.url": "/api/builds/1",
    "url": f"{_SIGNED}{_SIGNATURE}",
    "thumbnail_url": f"{_SIGNED}/thumbnail{_SIGNATURE}&size=320",
    "HealthBody.status": "healthy",
    "LiveBody.status": "alive",
    "ReadyBody.status": "ready",
    "ReadyBody.checks": {"database": "ok", "embeddings": "ok", "model": "ok"},
    "api_ready": True,
    "total_companies_available": 1,
    "loaded_companies": [COMPANY],
    "loaded_count": 1,
}
