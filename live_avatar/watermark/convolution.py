"""Convolutional code of rate 1/3 with 256 states, and its soft-decision Viterbi decoder.

The generators 557, 663, 711 (octal) have the largest free distance of this length, 18.  A message ends with eight
zeros, so that the decoder knows the state at both ends.

Letters: N bits of a message.
"""

import numpy as np
import numpy.typing as npt

GENERATORS = (0o557, 0o663, 0o711)
RATE = len(GENERATORS)
"""Coded bits per bit of the message."""
MEMORY = 8
"""Bits that the encoder remembers, and zeros that end a message."""
_STATES = 1 << MEMORY

Bits = npt.NDArray[np.uint8]
Soft = npt.NDArray[np.float64]


def coded_length(bits: int) -> int:
    """Coded bits of a message of ``bits``."""
    return RATE * (bits + MEMORY)


def encode(message: Bits) -> Bits:
    """Encodes the bits [N] of a message; returns [3 * (N + 8)]."""
    state = 0
    coded: list[int] = []
    for bit in (*message.tolist(), *[0] * MEMORY):
        register = bit << MEMORY | state
        coded.extend((register & generator).bit_count() & 1 for generator in GENERATORS)
        state = register >> 1
    return np.array(coded, np.uint8)


def decode(soft: Soft) -> Bits:
    """Decodes the most probable message [N] from soft values [3 * (N + 8)].

    A soft value is positive where the coded bit is rather 0, its magnitude says how sure that is; the scale is free.
    """
    branches = soft.reshape(-1, RATE) @ _SIGNS  # [N + 8, registers]
    metric = np.full(_STATES, -np.inf)
    metric[0] = 0.0
    choices = np.zeros((len(branches), _STATES), np.uint8)
    for time, branch in enumerate(branches):
        # Registers 2s and 2s + 1 both lead to state s.
        arriving = (metric[_ORIGINS] + branch).reshape(_STATES, 2)
        choices[time] = arriving.argmax(axis=1)
        metric = arriving.max(axis=1)
    state, message = 0, np.zeros(len(branches), np.uint8)
    for time in range(len(branches) - 1, -1, -1):
        message[time] = state >> (MEMORY - 1)
        state = (state << 1 | int(choices[time, state])) & (_STATES - 1)
    return message[:-MEMORY]


def _signs() -> Soft:
    """Of the coded bits of every register of nine bits [3, 512]: 1 for 0, -1 for 1."""
    registers = range(2 * _STATES)
    return np.array([[1 - 2 * ((one & mask).bit_count() & 1) for one in registers] for mask in GENERATORS], float)


_SIGNS = _signs()
_ORIGINS = np.arange(2 * _STATES) & (_STATES - 1)
"""State in which each register was before its newest bit came."""
