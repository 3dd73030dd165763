"""Keeps large pieces of memory in the process once they are freed, where the C library is glibc.

Left to itself, glibc gives every large piece back to the system and fetches it again page by page, for each tensor and
each message of a block: writing out a block of 0.6 MB then takes 1 ms instead of 0.05.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of mallopt(3)."""
_NEVER = 2**31 - 1
_STEP_BYTES = 256 << 20


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees, from now on; returns whether the C library accepted the options."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    accepted = [mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _NEVER), mallopt(_TOP_PAD, _STEP_BYTES)]
    return all(accepted)
