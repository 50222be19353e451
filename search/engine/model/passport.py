from dataclasses import dataclass

MODEL = "MobileNetV3-Large"


@dataclass(frozen=True, slots=True)
class ModelPassport:
    """Which model made a vector: vectors of two fingerprints are never compared."""

    weights: str  # a torchvision weights entry, "builtin", or a file's name
    fingerprint: str  # hex digest over architecture, weights and the pictures they are meant for

    def __str__(self) -> str:
        return f"{self.weights} ({self.fingerprint[:12]})"
