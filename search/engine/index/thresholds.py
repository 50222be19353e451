"""Which scores mean the same picture: cosines of one model say nothing of another's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cosines from which on two pictures may be duplicates, see duplicates.py."""

    same: float = 0.985  # the same picture
    sure: float = 0.95  # edited, where a second look agrees somewhat
    near: float = 0.85  # worth a second look
    hashed: float = 0.5  # of pictures whose perceptual hashes agree


MEASURED: dict[str, Thresholds] = {}  # by fingerprint of the weights


def thresholds_of(fingerprint: str | None) -> Thresholds:
    """Return what was measured for these weights; for others the thresholds of MobileNetV3-Large on ImageNet."""
    return MEASURED.get(fingerprint or "", Thresholds())
