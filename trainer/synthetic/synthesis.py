"""Speech with the time of every phoneme, by libespeak-ng.

The library keeps one state per process: one utterance at a time, no threads.
"""

import _ctypes
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import soxr

from live_avatar.config import SAMPLE_RATE_HZ

LIBRARY = "libespeak-ng.so.1"
_RETRIEVAL, _PHONEME_EVENTS = 1, 1
_RATE, _PITCH = 1, 3
_CHARACTERS_ARE_UTF8 = 1
_LIST_ENDS, _PHONEME = 0, 7
DRAWN = "drawn"
"""Name of the variant that a voice brings with it."""
_DATA, _VOICES, _VARIANTS = "espeak-ng-data", "voices", "!v"


class SpeechError(RuntimeError):
    """The synthesiser is not there or refuses a voice."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Who speaks, and how."""

    name: str
    """As espeak-ng names it: a language, and a variant after a plus sign."""
    variant: str = ""
    """Text of the variant ``DRAWN``, in the format of espeak-ng's voice files."""
    words_per_minute: int = 155
    pitch: int = 50
    """0 to 99."""


@dataclass(frozen=True)
class Phoneme:
    """A sound and when it begins."""

    start_s: float
    mnemonic: str
    """In espeak-ng's own alphabet."""


@dataclass(frozen=True)
class Utterance:
    """What was said."""

    samples: npt.NDArray[np.float32]
    """[N] at 16 kHz in -1..1."""
    phonemes: tuple[Phoneme, ...]


def stretched(utterance: Utterance, factor: float) -> Utterance:
    """``utterance`` played ``factor`` times as long, and lower by as much."""
    samples = soxr.resample(utterance.samples, SAMPLE_RATE_HZ, SAMPLE_RATE_HZ * factor)
    phonemes = (Phoneme(phoneme.start_s * factor, phoneme.mnemonic) for phoneme in utterance.phonemes)
    return Utterance(np.clip(samples, -1, 1).astype(np.float32), tuple(phonemes))


class _Id(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Synthesiser:
    """The library, opened."""

    def __init__(self) -> None:
        self._library = _load()
        self._c = ctypes.CDLL(None)
        self._rate = 0
        self._home = TemporaryDirectory(prefix="espeak-ng-")
        self._variant = _link_data(self._library, Path(self._home.name))
        self._sound: list[npt.NDArray[np.int16]] = []
        self._phonemes: list[Phoneme] = []
        # Kept here: the library holds no reference to it.
        self._callback = _Callback(self._take)

    def say(self, text: str, voice: Voice) -> Utterance:
        """Speaks ``text``, the same way every time.

        Raises:
            SpeechError: there is no such voice, or nothing was spoken.
        """
        self._variant.write_text(voice.variant)
        self._reset()
        if self._library.espeak_SetVoiceByName(voice.name.encode()):
            raise SpeechError(f"espeak-ng has no voice {voice.name!r}")
        self._library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        self._library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        encoded = text.encode()
        failed = self._library.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded) + 1), 0, 0, 0, _CHARACTERS_ARE_UTF8, None, None
        )
        if failed or self._library.espeak_Synchronize() or not self._sound:
            raise SpeechError(f"espeak-ng spoke nothing of {text!r}")
        spoken = np.concatenate(self._sound).astype(np.float32) / 32768
        samples = soxr.resample(spoken, self._rate, SAMPLE_RATE_HZ)
        return Utterance(np.clip(samples, -1, 1).astype(np.float32), tuple(self._phonemes))

    def _reset(self) -> None:
        """A fresh library: what one utterance leaves behind (phases, the state of a generator) alters the next."""
        if self._rate:
            self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)
        self._library = _load()
        self._rate = int(self._library.espeak_Initialize(_RETRIEVAL, 0, self._home.name.encode(), _PHONEME_EVENTS))
        self._library.espeak_SetSynthCallback(self._callback)
        self._c.srand(1)
        self._sound, self._phonemes = [], []

    def _take(self, wave: "ctypes._Pointer[ctypes.c_short]", count: int, events: "ctypes._Pointer[_Event]") -> int:
        """Called by the library with the next samples and what happens in them."""
        if wave and count > 0:
            self._sound.append(np.ctypeslib.as_array(wave, (count,)).copy())
        self._phonemes.extend(self._timed(event) for event in _until_end(events) if event.type == _PHONEME)
        return 0

    def _timed(self, event: _Event) -> Phoneme:
        return Phoneme(event.sample / self._rate, event.id.string.decode("utf-8", "replace"))


def _link_data(library: ctypes.CDLL, home: Path) -> Path:
    """Links what belongs to espeak-ng into ``home`` and leaves room for one variant more; the path of that."""
    if library.espeak_Initialize(_RETRIEVAL, 0, None, _PHONEME_EVENTS) <= 0:
        raise SpeechError(f"{LIBRARY} finds no voices; Debian: apt-get install espeak-ng-data")
    place = ctypes.c_char_p()
    library.espeak_Info(ctypes.byref(place))
    data = Path((place.value or b"").decode())
    library.espeak_Terminate()
    inner = Path()
    for name in (_VOICES, _VARIANTS):
        _link_all(data / inner, home / _DATA / inner, but=name)
        inner /= name
    _link_all(data / inner, home / _DATA / inner, but=DRAWN)
    return home / _DATA / inner / DRAWN


def _link_all(source: Path, target: Path, *, but: str) -> None:
    target.mkdir(parents=True)
    for entry in source.iterdir():
        if entry.name != but:
            (target / entry.name).symlink_to(entry)


def _until_end(events: "ctypes._Pointer[_Event]") -> Iterator[_Event]:
    index = 0
    while events[index].type != _LIST_ENDS:
        yield events[index]
        index += 1


def _load() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise SpeechError(f"{LIBRARY} is not there; Debian: apt-get install libespeak-ng1") from error


@cache
def synthesiser() -> Synthesiser:
    """The one of this process.

    Raises:
        SpeechError: the library or its voices are not installed.
    """
    return Synthesiser()
