"""python -m search.engine.model.export WEIGHTS CACHE HUB: what onnx_model runs to get its network."""

import logging
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator

from search.engine import durable
from search.engine.errors import WeightsUnavailable
from search.engine.model.attempts import WEIGHTS_UNAVAILABLE
from search.engine.model.child import end_with_parent
from search.engine.model.network import OtherNetwork, network
from search.engine.model.onnx_model import (
    TOLERANCE,
    UNFINISHED,
    Export,
    OnnxEmbedder,
    export_paths,
    runtime_version,
    writer,
)
from search.engine.model.probes import probe_pictures
from search.engine.model.state_file import Unfamiliar, read_state
from search.engine.model.weights import Weights, find_weights
from search.engine.vectors import unit_length

logger = logging.getLogger(__name__)


def main(weights: str, cache: str, hub: str) -> int:
    try:
        found = find_weights(weights, hub=Path(hub))
        assert found is not None  # who runs this has fetched them
        export(found, cache=Path(cache))
    except WeightsUnavailable as error:
        sys.stdout.write(str(error))
        return WEIGHTS_UNAVAILABLE
    return 0


def export(weights: Weights, *, cache: Path) -> None:
    """Put the network into cache, if ONNX Runtime computes it right, and the card that says so or not.

    Raises WeightsUnavailable for a file that is no state_dict of the model.
    """
    for leftover in cache.glob(f"{UNFINISHED}*"):  # of one that was killed; nobody else is at it
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=UNFINISHED, ignore_cleanup_errors=True) as unfinished:
        model, card = export_paths(Path(unfinished), weights.passport)
        model.write_bytes(_network(weights))
        made = _try(model, weights)
        made.write(card)
        # The card moves last: without it, or when it tells of another file, nobody takes the network for whole.
        for file in (model, card) if made.sha256 else (card,):
            durable.sync(file)
            file.replace(cache / file.name)
        durable.sync(cache)
    if not made.sha256:
        (cache / model.name).unlink(missing_ok=True)  # of an earlier release


def _network(weights: Weights) -> bytes:
    try:
        return network(_state(weights.path), weights.transform)
    except OtherNetwork as reason:
        raise WeightsUnavailable(
            f"The weights {weights.passport.weights} are not a mobilenet_v3_large state_dict: {reason}"
        ) from reason


def _state(path: Path) -> dict[str, Any]:
    try:
        return read_state(path)
    except (Unfamiliar, OSError) as reason:
        logger.info("Reading the weights with torch (%s)", reason)
        from search.engine.model import torch_model  # late: it takes seconds

        return torch_model.read_arrays(path)


def _try(model: Path, weights: Weights) -> Export:
    """Compare what ONNX Runtime makes of a picture with what ONNX itself defines, computed in NumPy."""
    picture = probe_pictures(weights.transform)[:1]
    pooled: Any = ReferenceEvaluator(str(model)).run(None, {"pixels": picture})
    truth = unit_length(pooled[0])
    vector = OnnxEmbedder(model, weights.passport, weights.transform).embed(list(picture))
    difference = float(np.abs(truth - vector).max())
    return Export(
        sha256=durable.sha256(model).hex() if difference <= TOLERANCE else None,
        weights=weights.passport.weights,
        largest_difference=difference,
        writer=writer(),
        onnx=version("onnx"),
        onnxruntime=runtime_version(),
    )


if __name__ == "__main__":
    end_with_parent()
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    sys.exit(main(*sys.argv[1:]))
