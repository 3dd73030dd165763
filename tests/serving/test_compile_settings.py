"""Settings of services whose networks can run compiled."""

import pytest
from pydantic import ValidationError

from live_avatar.serving.compile_settings import CompileSettings


def test_the_largest_picture_is_warmed_up_unless_others_are_named() -> None:
    assert CompileSettings(preset="S2V_14B").sizes == ((640, 448),)
    assert CompileSettings(preset="TINY").sizes == ((64, 64),)
    named = CompileSettings(preset="S2V_14B", warm_sizes=("704x384", "384x704"))
    assert named.sizes == ((704, 384), (384, 704))


@pytest.mark.parametrize("size", ["704", "704x", "0x64", "64 x 64", "-64x64"])
def test_what_is_no_size_is_refused(size: str) -> None:
    with pytest.raises(ValidationError, match="is not width x height"):
        CompileSettings(warm_sizes=(size,))
