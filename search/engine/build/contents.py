"""Finds pictures by what their files hold."""

import numpy as np
import numpy.typing as npt

from search.engine.storage import SIGNATURE


class Contents:
    """Finds the number of a picture by its file's SHA-256: 16 bytes a picture. Never changes, so threads share it."""

    def __init__(self, signatures: npt.NDArray[np.void] | None) -> None:
        """signatures: SIGNATURE [N], of the pictures with the numbers 0 to N - 1; None: there are none."""
        self._signatures = np.empty(0, SIGNATURE) if signatures is None else signatures
        begins = self._signatures["sha256"][:, :8].copy().view("<u8").ravel()  # [N]
        self._order = np.argsort(begins, kind="stable")
        self.begins: npt.NDArray[np.uint64] = begins[self._order]  # [N], sorted: of each SHA-256 the first 8 bytes

    def find(self, sha256: bytes) -> int | None:
        """Return the lowest number of a picture with this content."""
        begin = np.frombuffer(sha256[:8], "<u8")[0]
        place = int(np.searchsorted(self.begins, begin))
        while place < len(self.begins) and self.begins[place] == begin:
            number = int(self._order[place])
            if self._signatures[number]["sha256"].tobytes() == sha256:
                return number
            place += 1
        return None
