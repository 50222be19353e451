"""Files that this user may not open, also where the tests run as root, whom nothing is refused."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# What binds a command by permissions as they bind every user but root; nothing where the tests are not run by root.
BOUND = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []

_VERSION = 0x20080522  # of what capget and capset take
_PASS_OVER_PERMISSIONS = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Let permissions bind this thread until the end of the block, as they bind every user but root."""
    if os.geteuid() != 0:
        yield
        return
    header, sets = (ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, sets) == 0
    effective = sets[0]
    sets[0] &= ~_PASS_OVER_PERMISSIONS
    assert libc.capset(header, sets) == 0
    try:
        yield
    finally:
        sets[0] = effective
        assert libc.capset(header, sets) == 0
