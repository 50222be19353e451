"""Which scores mean the same picture: cosines of one model say nothing of another's."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cosines from which on two pictures may be duplicates, see duplicates.py."""

    same: float = 0.985  # the same picture
    sure: float = 0.95  # edited, where a second look agrees somewhat
    near: float = 0.85  # worth a second look
    hashed: float = 0.5  # of pictures whose perceptual hashes agree


# By fingerprint of the weights, of 150 photographs of clothes and 900 edited copies. The built-in weights know colours
# and edges rather than things: at 0.985 they call 113 pairs of different photographs the same, at 0.99 25.
MEASURED = {
    "b1f6fa44138e20f2cf79e51df63b48fe232656a0f9881ddb99e4ba3353bd2aa9": Thresholds(),  # trained: none at 0.985
    "eab324cb0d147433e44814dab7519b79b3606fa21b9a8f766291fead2cb096c7": Thresholds(same=0.995, sure=0.99, near=0.93),
}


def thresholds_of(fingerprint: str | None) -> Thresholds:
    """Return what was measured for these weights; for others the thresholds of MobileNetV3-Large on ImageNet."""
    return MEASURED.get(fingerprint or "", Thresholds())
