"""Colour profiles for files that describe their colours by numbers instead: three primaries, a white, a tone curve.

Writes the smallest ICC profile (ICC.1:2010) that a colour engine takes.  Knows nothing of pictures.
"""

import struct
from collections.abc import Sequence
from typing import TypeAlias

Matrix: TypeAlias = Sequence[Sequence[float]]
Chromaticities: TypeAlias = tuple[float, ...]
"""x and y of white, red, green and blue."""

_D65 = (0.3127, 0.3290)
SRGB: Chromaticities = (*_D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB: Chromaticities = (*_D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
_PRIMARIES: dict[int, Chromaticities] = {
    1: SRGB,
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
"""By code of ITU-T H.273."""
_GAMMAS = {4: 2.2, 5: 2.8, 8: 1.0}
_HIGH_RANGE = {16, 18}
"""Tone curves of pictures brighter than a screen; no profile of this form describes them."""
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_D50 = (0.9642, 1.0, 0.8249)
_BRADFORD: Matrix = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
_HEADER_BYTES, _TAG_BYTES = 128, 12


def coded_profile(primaries: int, transfer: int) -> bytes | None:
    """The profile of a pair of codes of ITU-T H.273; None where they say sRGB, or nothing that can be used."""
    chromaticities = _PRIMARIES.get(primaries)
    if chromaticities is None or transfer in _HIGH_RANGE:
        return None
    gamma = _GAMMAS.get(transfer)
    if gamma is None and chromaticities == SRGB:
        return None
    return rgb_profile(chromaticities, gamma)


def rgb_profile(chromaticities: Chromaticities, gamma: float | None) -> bytes:
    """An ICC profile for RGB with these primaries.

    Args:
        chromaticities: x and y of white, red, green and blue.
        gamma: exponent of the tone curve; None: the curve of sRGB.

    Raises:
        ValueError: no three colours can be mixed from these.
    """
    curve = (gamma,) if gamma is not None else _SRGB_CURVE
    kind = 0 if gamma is not None else 3
    tone = b"para" + struct.pack(">IHH", 0, kind, 0) + b"".join(_fixed(value) for value in curve)
    columns = zip(*_to_d50(chromaticities), strict=True)
    tags = {name: b"XYZ " + bytes(4) + b"".join(map(_fixed, xyz)) for name, xyz in zip("rgb", columns, strict=True)}
    parts = {f"{name}XYZ": body for name, body in tags.items()} | {f"{name}TRC": tone for name in "rgb"}
    parts["wtpt"] = b"XYZ " + bytes(4) + b"".join(map(_fixed, _D50))
    return _file(parts)


def _to_d50(chromaticities: Chromaticities) -> Matrix:
    """RGB to XYZ as seen under D50, where profiles meet."""
    white, *primaries = [_xyz(*pair) for pair in zip(chromaticities[::2], chromaticities[1::2], strict=True)]
    mixing = list(zip(*primaries, strict=True))
    amounts = _apply(_inverse(mixing), white)
    to_xyz = [[cell * amount for cell, amount in zip(row, amounts, strict=True)] for row in mixing]
    ours, theirs = _apply(_BRADFORD, white), _apply(_BRADFORD, _D50)
    gains = [[theirs[i] / ours[i] if i == j else 0.0 for j in range(3)] for i in range(3)]
    return _product(_product(_product(_inverse(_BRADFORD), gains), _BRADFORD), to_xyz)


def _xyz(x: float, y: float) -> Sequence[float]:
    if not (0 < x < 1 and 0 < y < 1):
        raise ValueError(f"a colour of x={x}, y={y} does not exist")
    return x / y, 1.0, (1 - x - y) / y


def _apply(matrix: Matrix, vector: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _product(first: Matrix, second: Matrix) -> Matrix:
    return list(zip(*(_apply(first, column) for column in zip(*second, strict=True)), strict=True))


def _inverse(matrix: Matrix) -> Matrix:
    """Of 3 x 3, by cofactors."""
    cofactors = [
        [
            matrix[(j + 1) % 3][(i + 1) % 3] * matrix[(j + 2) % 3][(i + 2) % 3]
            - matrix[(j + 1) % 3][(i + 2) % 3] * matrix[(j + 2) % 3][(i + 1) % 3]
            for j in range(3)
        ]
        for i in range(3)
    ]
    determinant = sum(matrix[0][j] * cofactors[j][0] for j in range(3))
    if abs(determinant) < 1e-9:
        raise ValueError("the primaries lie on one line")
    return [[cell / determinant for cell in row] for row in cofactors]


def _fixed(value: float) -> bytes:
    """A number as s15Fixed16Number."""
    try:
        return struct.pack(">i", round(value * 65_536))
    except struct.error as error:
        raise ValueError(f"{value} is no number of a colour profile") from error


def _file(parts: dict[str, bytes]) -> bytes:
    table, body = struct.pack(">I", len(parts)), b""
    start = _HEADER_BYTES + len(table) + _TAG_BYTES * len(parts)
    for name, part in parts.items():
        table += name.encode() + struct.pack(">II", start + len(body), len(part))
        body += part + bytes(-len(part) % 4)
    header = struct.pack(">I4sI4s4s4s12x4s28x", start + len(body), b"", 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    header += b"".join(map(_fixed, _D50))
    return header.ljust(_HEADER_BYTES, b"\0") + table + body
