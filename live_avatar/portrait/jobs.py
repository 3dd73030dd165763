"""What a decoding process does with a portrait: bytes and parameters in, facts and pixels out.

Called by ``live_avatar.serving.decode_worker``; what comes out is small, whatever came in.
"""

from collections.abc import Mapping
from typing import Any

from live_avatar.portrait.face import SEARCHED_SIDE, face_finder
from live_avatar.portrait.fitting import FitRule, fit_portrait
from live_avatar.portrait.limits import PortraitLimits
from live_avatar.portrait.reading import read_portrait

Facts = Mapping[str, Any]

_find_face = face_finder()  # loaded before the process is limited


def measure(data: bytes, *, limits: Mapping[str, int], needed: int) -> tuple[Facts, bytes]:
    """Decodes a portrait to see that it can be; gives its ``height`` and ``width`` upright, and no pixels.

    Raises:
        PortraitError: see ``read_portrait``.
    """
    portrait = read_portrait(data, PortraitLimits(**limits), needed)
    return {"height": portrait.height, "width": portrait.width}, b""


def draw(data: bytes, *, limits: Mapping[str, int], height: int, width: int, fit: FitRule) -> tuple[Facts, bytes]:
    """The part of a portrait that is shown, as ``height`` x ``width`` pixels of RGB, row by row.

    With ``cover`` it is the part about the face, where one is found.

    Raises:
        PortraitError: see ``read_portrait``.
    """
    needed = max(height, width) if fit == "reference" else max(height, width, SEARCHED_SIDE)
    portrait = read_portrait(data, PortraitLimits(**limits), needed)
    shape = portrait.width, portrait.height
    face = None if fit == "reference" else _find_face(portrait.image)
    return {}, fit_portrait(portrait.image, height, width, fit, shape, face).tobytes()
