"""MobileNetV3-Large in ONNX Runtime: the way on a CPU. A process that embeds with it never imports torch.

The network is written from the weights once, into a cache folder, by a process of its own, because what it takes
would stay in the memory of the one that serves. Of each fingerprint the folder holds the network and a card that
says what it is; see Export.
"""

import json
import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from search.engine import durable
from search.engine.model.attempts import StepFailed, once
from search.engine.model.downloads import fetch
from search.engine.model.passport import ModelPassport
from search.engine.model.preparation import MIN_DECODED_SIDE, PREPARATION
from search.engine.model.transform import Pixels, Transform
from search.engine.model.weights import Weights
from search.engine.vectors import Vectors, unit_length

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5  # largest difference of a number in two unit vectors that still count as the same
UNFINISHED = ".export-"  # how folders of exports under way begin

_NETWORK = Path(__file__).with_name("network.py")  # not imported: onnx would come with it
_ALONE_SECONDS = 0.2  # since runs last met; then the next is taken to be alone


class OnnxUnusable(Exception):
    """ONNX Runtime cannot run these weights here; torch can. Says why."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is noted beside an exported network, when it is finished."""

    sha256: str | None  # of the file; None: ONNX Runtime computes it wrong, so there is none
    weights: str
    largest_difference: float  # to what ONNX defines, of a number in a unit vector
    writer: str  # of the network: see writer()
    onnx: str
    onnxruntime: str

    def write(self, card: Path) -> None:
        card.write_text(json.dumps(asdict(self), indent=2) + "\n")


class OnnxEmbedder:
    """MobileNetV3-Large up to its average pool; see Embedder. Threads share it.

    A run by itself takes all its threads. Runs side by side take one each: they would lose more to each other's threads
    than they gain.
    """

    pictures_a_run = 4  # more cost more each, and about 9 MB, which the process keeps; the vectors are the same

    def __init__(self, model: Path, passport: ModelPassport, transform: Transform, *, threads: int | None = None):
        """threads: that one embed() by itself computes with; by default as many as there are cores.

        Raises OnnxUnusable.
        """
        self.passport = passport
        self.libraries = {"onnxruntime": runtime_version()}
        self.min_side, self.preparation = MIN_DECODED_SIDE, PREPARATION
        self.transform = transform
        threads = threads or os.cpu_count() or 1
        self._of_all_threads = _open_session(model, threads)
        self._of_one_thread = _open_session(model, 1) if threads > 1 else self._of_all_threads
        self._counting = threading.Lock()
        self._running = 0
        self._side_by_side = -_ALONE_SECONDS  # when runs last were, on the monotonic clock

    def prepare(self, image: Image.Image) -> Pixels:
        return self.transform.apply(image)

    def embed(self, batch: Sequence[Pixels]) -> Vectors:
        runs = range(0, len(batch), self.pictures_a_run)
        pooled = [self._run(np.stack(batch[start : start + self.pictures_a_run])) for start in runs]
        return unit_length(np.concatenate(pooled))

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        with self._counted() as session:
            pooled: np.ndarray = session.run(None, {"pixels": pixels})[0]  # [N, 960]
        return pooled

    @contextmanager
    def _counted(self) -> Iterator[Any]:
        """Yield the session for a run of now."""
        with self._counting:
            self._running += 1
            if self._running > 1:
                self._side_by_side = time.monotonic()
            is_alone = time.monotonic() - self._side_by_side > _ALONE_SECONDS
        try:
            yield self._of_all_threads if is_alone else self._of_one_thread
        finally:
            with self._counting:
                self._running -= 1


def load_embedder(
    weights: str,
    *,
    cache: Path,
    hub: Path,
    threads: int | None = None,
    believed_seconds: float = 0,
) -> OnnxEmbedder:
    """Return the embedder of a torchvision weights entry, of BUILTIN or of a state_dict's path.

    cache: where exports lie. hub: torch's hub folder, where downloads lie. Where the entry or the export is
    missing, a process of its own makes it; where cache cannot be used, for this process alone.
    believed_seconds: how long weights that cannot be had, as any process found, are not tried again.
    Raises WeightsUnavailable, LoadingStopped, and OnnxUnusable where torch has to run the model.
    """
    runtime_version()
    found = fetch(weights, hub=hub, cache=cache, believed_seconds=believed_seconds)
    try:
        return _load(weights, found, cache, hub, threads, believed_seconds)
    except OSError as error:
        logger.warning("The cache folder %s cannot be used (%s): each process exports the model again", cache, error)
    try:
        with tempfile.TemporaryDirectory() as own:
            return _load(weights, found, Path(own), hub, threads, believed_seconds)
    except OSError as error:
        raise OnnxUnusable(f"there is no place for its export: {error}") from error


def _load(
    weights: str, found: Weights, cache: Path, hub: Path, threads: int | None, believed_seconds: float
) -> OnnxEmbedder:
    """Raises OSError where cache cannot be used, and as load_embedder() does."""
    if not _is_finished(found, cache):
        _export_once(weights, found, cache, hub, believed_seconds)
    model, card = export_paths(cache, found.passport)
    export = _read_card(card)
    if export is None or export.sha256 is None:
        raise OnnxUnusable("its vectors are wrong here" if export else f"{model} is missing")
    return OnnxEmbedder(model, found.passport, found.transform, threads=threads)


def runtime_version() -> str:
    try:
        return version("onnxruntime")
    except PackageNotFoundError as error:
        raise OnnxUnusable("onnxruntime is not installed") from error


def writer() -> str:
    """Return what writes networks now: what another state of that module wrote is made anew."""
    return f"network.py {durable.sha256(_NETWORK).hex()[:12]}"


def export_paths(cache: Path, passport: ModelPassport) -> tuple[Path, Path]:
    """Return where the network that makes these vectors lies, and its card."""
    return cache / f"{passport.fingerprint}.onnx", cache / f"{passport.fingerprint}.json"


def _open_session(model: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise OnnxUnusable(f"onnxruntime cannot be imported: {error}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from decoding and from each other.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types derive from Exception alone
        raise OnnxUnusable(f"{model} cannot be loaded: {error}") from error


def _is_finished(weights: Weights, cache: Path) -> bool:
    """Return whether this runtime's export, or the note that it computes it wrong, lies whole in cache."""
    model, card = export_paths(cache, weights.passport)
    export = _read_card(card)
    if export is None or (export.writer, export.onnxruntime) != (writer(), runtime_version()):
        return False
    return export.sha256 is None or _holds(model, export.sha256)


def _read_card(card: Path) -> Export | None:
    try:
        return Export(**json.loads(card.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _holds(model: Path, sha256: str) -> bool:
    try:
        return durable.sha256(model).hex() == sha256
    except OSError:
        return False


def _export_once(weights: str, found: Weights, cache: Path, hub: Path, believed_seconds: float) -> None:
    try:
        _run_export(weights, found, cache, hub, believed_seconds)
    except StepFailed as error:
        raise OnnxUnusable(f"the export {error}") from error


def _run_export(weights: str, found: Weights, cache: Path, hub: Path, believed_seconds: float) -> None:
    once(
        "search.engine.model.export",
        weights,
        str(cache),
        str(hub),
        cache=cache,
        says=f"Exporting the weights {weights} to {cache}, once: it takes a few seconds",
        needs=found.passport.fingerprint,
        done=lambda: _is_finished(found, cache) or None,
        believed_seconds=believed_seconds,
    )
