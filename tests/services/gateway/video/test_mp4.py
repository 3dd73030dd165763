"""The boxes by themselves."""

import pytest

from live_avatar.services.gateway.video import mp4


def test_nal_units_are_found_behind_long_and_short_start_codes() -> None:
    stream = b"\x00\x00\x00\x01\x67ab\x00\x00\x01\x68c\x00\x00\x00\x01\x65\x00\x01d\x00\x00"
    assert mp4.split_nal_units(stream) == [b"\x67ab", b"\x68c", b"\x65\x00\x01d"]
    assert mp4.split_nal_units(b"") == []


def test_a_sample_has_lengths_and_no_parameter_sets() -> None:
    stream = b"\x00\x00\x01\x09\xf0\x00\x00\x01\x67ab\x00\x00\x01\x68c\x00\x00\x01\x65pic"
    assert mp4.sample_of(stream) == b"\x00\x00\x00\x04\x65pic"
    assert mp4.parameter_sets(stream) == (b"\x67ab", b"\x68c")


def test_missing_parameter_sets_are_an_error() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        mp4.parameter_sets(b"\x00\x00\x01\x65")


def test_data_lies_where_the_header_says() -> None:
    runs = [
        mp4.Run(track_id=1, start=7, samples=[b"AAAA", b"BB"], starts_with_keyframe=True),
        mp4.Run(track_id=2, start=0, samples=[], starts_with_keyframe=False),
        mp4.Run(track_id=3, start=9, samples=[b"CCC"], starts_with_keyframe=False),
    ]
    data = mp4.fragment(5, runs)
    offsets = []
    position = data.find(b"trun")
    while position >= 0:
        offsets.append(int.from_bytes(data[position + 12 : position + 16], "big"))
        position = data.find(b"trun", position + 1)
    assert [data[offset : offset + size] for offset, size in zip(offsets, (6, 3), strict=True)] == [b"AAAABB", b"CCC"]
