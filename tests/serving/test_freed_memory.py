"""What a process does with memory that it frees."""

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from live_avatar.serving.freed_memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
piece = bytearray(b"x") * (8 << 20)
del piece
before = faults()
for _ in range(10):
    piece = bytearray(b"x") * (8 << 20)
    del piece
print(faults() - before)
"""


def faults(how: str) -> int:
    """Pages that the system had to give for ten pieces of 8 MiB, one after the other."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_pieces_that_were_freed_are_used_again() -> None:
    # glibc learns by itself to keep pieces of one size below 32 MiB, but gives back what lies at the end of its heap.
    kept, given_back = faults("keep"), faults("leave")
    assert kept < 100
    assert given_back > 1000
