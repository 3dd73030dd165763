"""64 bits survive noise in the code, and what is not a code word is no payload."""

import numpy as np
import pytest

from live_avatar.watermark import convolution
from live_avatar.watermark.payload import CODED_BITS, Payload, decode, encode, session_number, slot_of


def soft(payload: Payload, noise: float, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return (1.0 - 2.0 * encode(payload)) + np.random.default_rng(seed).normal(0, noise, CODED_BITS)


@pytest.mark.parametrize("payload", [Payload(0, 0, 0), Payload(2**24 - 1, 2**24 - 1, 2**16 - 1), Payload(7, 99, 1234)])
def test_a_payload_comes_back_through_noise_nearly_as_strong_as_the_bits(payload: Payload) -> None:
    assert decode(soft(payload, 0.0)) == payload
    assert all(decode(soft(payload, 0.8, seed)) == payload for seed in range(20))


def test_noise_alone_is_no_payload() -> None:
    rng = np.random.default_rng(1)
    assert [decode(rng.normal(size=CODED_BITS)) for _ in range(50)] == [None] * 50


def test_the_identity_is_read_where_the_slot_is_not() -> None:
    values = soft(Payload(5, 6, 7), 0.0)
    values[-100:] = np.random.default_rng(0).normal(size=100)
    assert decode(values) == Payload(5, 6, None)


def test_two_slots_in_one_window_leave_the_identity() -> None:
    both = soft(Payload(5, 6, 7), 0.5, 1) + soft(Payload(5, 6, 8), 0.5, 2)
    found = decode(both)
    assert found is not None
    assert (found.deployment, found.session) == (5, 6)
    assert found.slot in (None, 7, 8)


@pytest.mark.parametrize("payload", [Payload(1 << 24, 0, 0), Payload(0, -1, 0), Payload(0, 0, 1 << 16)])
def test_numbers_that_do_not_fit_are_refused(payload: Payload) -> None:
    with pytest.raises(ValueError, match="outside 0"):
        encode(payload)


def test_a_payload_without_slot_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="without a slot"):
        encode(Payload(1, 2, None))


def test_slots_last_64_blocks_and_start_over() -> None:
    assert [slot_of(block) for block in (0, 63, 64, 64 * 65536)] == [0, 0, 1, 0]


def test_a_session_has_one_number_of_24_bits() -> None:
    assert session_number("session-1") == session_number("session-1") != session_number("session-2")
    assert 0 <= session_number("session-1") < 1 << 24


def test_the_code_corrects_erasures_of_a_whole_stretch() -> None:
    message = np.random.default_rng(3).integers(0, 2, 64).astype(np.uint8)
    values = 1.0 - 2.0 * convolution.encode(message).astype(np.float64)
    values[60:72] = 0.0
    assert np.array_equal(convolution.decode(values), message)
