"""The plain way: the Flask service as anybody would write it from its description, for comparison.

torch eager with torchvision's own transforms on the whole decoded picture, one IndexFlatIP read into memory and one
metadata.json parsed whole per company. Werkzeug is what Flask is made of.
"""

import json
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from PIL import Image
from werkzeug.wrappers import Request, Response

from search.engine.model.torch_model import mobilenet_v3_large, torch, torchvision


class PlainModel:
    def __init__(self, weights: str) -> None:
        model = mobilenet_v3_large()
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.features = torch.nn.Sequential(model.features, model.avgpool, torch.nn.Flatten(1)).eval()
        self.transform = torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V1.transforms()

    def embed(self, files: list[Any]) -> np.ndarray:
        """Return the unit vectors of picture files, float32 [files, 960]."""
        batch = torch.stack([self.transform(Image.open(file).convert("RGB")) for file in files])
        with torch.no_grad():
            vectors = self.features(batch).numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class PlainIndex:
    def __init__(self, directory: Path) -> None:
        self.index = faiss.read_index(str(directory / "faiss_index.bin"))
        self.metadata = json.loads((directory / "metadata.json").read_text())

    def vectors(self) -> np.ndarray:
        """Return the vectors, float32 [N, 960], as they lie in the index, which must stay."""
        flat = faiss.rev_swig_ptr(self.index.get_xb(), self.index.ntotal * self.index.d)
        return flat.reshape(-1, self.index.d)

    def search(self, vector: np.ndarray, top_k: int) -> list[dict[str, Any]]:
        scores, rows = self.index.search(vector[np.newaxis], top_k)
        return [{**self.metadata[row], "score": float(score)} for score, row in zip(scores[0], rows[0], strict=True)]


def build(model: PlainModel, folder: Path, directory: Path, batch_size: int = 32) -> None:
    files = sorted(folder.rglob("*.jpg"))
    vectors = np.concatenate(
        [model.embed(list(files[start : start + batch_size])) for start in range(0, len(files), batch_size)]
    )
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    directory.mkdir(parents=True, exist_ok=True)
    faiss.write_index(index, str(directory / "faiss_index.bin"))
    np.save(directory / "embeddings.npy", vectors)
    metadata = [{"fullPath": str(file.relative_to(folder)), "name": file.stem, "type": "file"} for file in files]
    (directory / "metadata.json").write_text(json.dumps(metadata))


class PlainService:
    """A WSGI application: POST /api/search/<company>."""

    def __init__(self, weights: str, embeddings: Path) -> None:
        self.model = PlainModel(weights)
        self.embeddings = embeddings
        self.indexes: dict[str, PlainIndex] = {}

    def __call__(self, environ: Any, start_response: Any) -> Any:
        request = Request(environ)
        company = request.path.rsplit("/", 1)[-1]
        if company not in self.indexes:
            self.indexes[company] = PlainIndex(self.embeddings / company)
        vector = self.model.embed([request.files["image"].stream])[0]
        results = self.indexes[company].search(vector, 10)
        body = json.dumps({"success": True, "company": company, "results": results})
        return Response(body, mimetype="application/json")(environ, start_response)


def application() -> PlainService:
    """gunicorn 'benchmarks.plain:application()' with the weights and the embeddings directory after --."""
    import os

    return PlainService(os.environ["PLAIN_WEIGHTS"], Path(os.environ["PLAIN_EMBEDDINGS"]))


if __name__ == "__main__":
    build(PlainModel(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
