"""python -m search.engine.model.export WEIGHTS CACHE HUB PICTURES: what onnx_model runs to get its network."""

import logging
import shutil
import sys
import tempfile
import warnings
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path

import numpy as np

from search.engine import durable
from search.engine.errors import WeightsUnavailable
from search.engine.model.attempts import WEIGHTS_UNAVAILABLE
from search.engine.model.child import end_with_parent
from search.engine.model.onnx_model import (
    TOLERANCE,
    UNFINISHED,
    Export,
    OnnxEmbedder,
    export_paths,
    runtime_version,
)
from search.engine.model.probes import probe_pictures
from search.engine.model.torch_model import TorchEmbedder, load_embedder


def main(weights: str, cache: str, hub: str, pictures: str) -> int:
    warnings.simplefilter("ignore")  # of torch's exporter, about itself
    try:
        with redirect_stdout(sys.stderr):
            reference = load_embedder(weights, device="cpu", hub=Path(hub))
            export(reference, cache=Path(cache), pictures=Path(pictures) if pictures else None)
    except WeightsUnavailable as error:
        sys.stdout.write(str(error))
        return WEIGHTS_UNAVAILABLE
    return 0


def export(reference: TorchEmbedder, *, cache: Path, pictures: Path | None) -> Export:
    """Put the network into cache, if its vectors are the reference's, and the card that says so or not."""
    for leftover in cache.glob(f"{UNFINISHED}*"):  # of one that was killed; nobody else is at it
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=UNFINISHED, ignore_cleanup_errors=True) as unfinished:
        model, card = export_paths(Path(unfinished), reference.passport)
        reference.export_onnx(model)
        made = _compare(reference, model, pictures)
        made.write(card)
        # The card moves last: without it, or when it tells of another file, nobody takes the network for whole.
        for file in (model, card) if made.sha256 else (card,):
            durable.sync(file)
            file.replace(cache / file.name)
        durable.sync(cache)
    return made


def _compare(reference: TorchEmbedder, model: Path, folder: Path | None) -> Export:
    probes = list(probe_pictures(reference.transform, folder=folder))
    exported = OnnxEmbedder(model, reference.passport, reference.transform)
    # Alone and together, because a network can be exported for the one batch size and wrong for others.
    alone = np.concatenate([exported.embed([probe]) for probe in probes])
    truth = reference.embed(probes)
    difference = float(max(np.abs(truth - alone).max(), np.abs(truth - exported.embed(probes)).max()))
    return Export(
        sha256=durable.sha256(model).hex() if difference <= TOLERANCE else None,
        weights=reference.passport.weights,
        largest_difference=difference,
        pictures_compared=len(probes),
        onnxruntime=runtime_version(),
        torch=version("torch"),
    )


if __name__ == "__main__":
    end_with_parent()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    sys.exit(main(*sys.argv[1:]))
