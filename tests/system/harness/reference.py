"""The system under test, as the library alone: its networks, what sessions are fed, and what must come out.

Knows presets and networks; knows no process and no message.

Letters: N samples, F latents of a block, h and w latent pixels.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, Wav2Vec2Model

from live_avatar.config import (
    TINY,
    DiTConfig,
    LoRAConfig,
    Preset,
    SpeechConfig,
    StreamConfig,
    TextConfig,
    VAEConfig,
)
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokenEncoder, AudioTokens
from live_avatar.model.dit import CausalDiT
from live_avatar.model.networks import Networks, open_networks
from live_avatar.model.text import TextEncoder
from live_avatar.model.vae import VAE
from live_avatar.streaming.audio_grid import whole_file_blocks
from live_avatar.streaming.audio_window import AudioWindow, BlockPlan, encode_block
from live_avatar.streaming.block import Block, Conditioning, Primed, Sink
from live_avatar.streaming.decoder import FrameDecoder
from live_avatar.streaming.denoiser import Denoiser
from live_avatar.streaming.local import Generated, generate, warmup_latents
from live_avatar.streaming.rng import PhiloxRng
from live_avatar.streaming.schedule import inference_schedule

SMALL = Preset(
    name="SMALL",
    dit=DiTConfig(
        dim=48,
        ffn_dim=96,
        num_heads=2,
        num_layers=2,
        audio_layers=(0, 1),
        audio_dim=32,
        audio_states=3,
        text_dim=32,
        text_len=16,
    ),
    vae=VAEConfig(dim=4),
    speech=SpeechConfig(hidden_size=32, num_layers=2, num_heads=2, ffn_dim=64, conv_dim=(16,) * 7),
    text=TextConfig(vocab_size=384, dim=32, attention_dim=32, ffn_dim=64, num_heads=2, num_layers=1, tokenizer="bytes"),
    stream=StreamConfig(left_context_s=1.0),
    lora=LoRAConfig(rank=4, alpha=2.0),
    max_area=64 * 128,
    dtype="float32",
    vae_dtype="float32",
)
"""A system for quick tests; services read it from a file."""

PRESETS = {preset.name: preset for preset in (SMALL, TINY)}
SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Script:
    """All that one session is fed."""

    blocks: int = 9
    """Enough for the window to wrap after the sink has switched."""
    seed: int = 7
    portrait: int = 0
    """Seed of the picture."""
    voice: int = 0
    """Seed of the audio."""
    prompt: str = "a person talks to the camera"
    width: int = SIDE
    height: int = SIDE
    streaming: bool = False
    """Whether the audio is heard as it comes."""

    def pixels(self) -> NDArray[np.uint8]:
        """A smooth picture [H, W, 3]."""
        generator = torch.Generator().manual_seed(self.portrait)
        coarse = torch.rand(1, 3, 4, 4, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(self.height, self.width), mode="bilinear")[0]
        picture: NDArray[np.uint8] = (smooth * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        return picture

    def samples(self, preset: Preset) -> NDArray[np.float32]:
        """Noise at the level of speech [N] that ends in the middle of the last block."""
        generator = np.random.default_rng(self.voice)
        count = round((self.blocks - 0.5) * preset.samples_per_block)
        noise: NDArray[np.float32] = generator.standard_normal(count, np.float32) * 0.1
        return noise


class System:
    """The networks of one preset with weights of a folder, or the random ones that the services draw too."""

    def __init__(self, preset: Preset, weights: Path | None = None) -> None:
        self.preset = preset
        self.networks: Networks = open_networks(preset, weights)
        dit, tokens, vae, speech, text = map(self.networks.load, ("dit", "audio", "vae", "speech", "text"))
        assert isinstance(dit, CausalDiT)
        assert isinstance(tokens, AudioTokenEncoder)
        assert isinstance(vae, VAE)
        assert isinstance(speech, Wav2Vec2Model)
        assert isinstance(text, PreTrainedModel)
        self._dit, self._tokens, self._speech = dit, tokens, speech
        self._text = TextEncoder(text, self.networks.tokenizer(), preset.dit.text_len)
        self._decoder = FrameDecoder(vae, preset.stream, use_motion=preset.dit.use_motion)
        self._sinks: dict[Script, tuple[Sink, Tensor]] = {}

    def sink(self, script: Script) -> tuple[Sink, Tensor]:
        """Sink version 0 and the latents that warm the decoder, made once."""
        if script not in self._sinks:
            self._sinks[script] = self._encode(script)
        return self._sinks[script]

    def _encode(self, script: Script) -> tuple[Sink, Tensor]:
        pixels = torch.from_numpy(script.pixels()).permute(2, 0, 1).float() / 255 * 2 - 1
        with _one_thread():
            sink = self._decoder.encode_portrait(pixels)
        return sink, warmup_latents(sink, self._decoder)[:, : self.preset.stream.warmup_latents]

    def solo(self, script: Script, steps: int) -> list[Generated]:
        """What the library's loop makes of a session: every latent and every picture."""
        return self._loop(script, self._audio(script), steps)

    def resumed(self, script: Script, blocks: Sequence[Block], next_block: int) -> list[Generated]:
        """What the library's loop makes of a session that goes on at ``next_block``.

        Args:
            script: all of the session but its audio.
            blocks: all finished blocks of the session, of which the last before ``next_block`` prime it.
            next_block: the first that is generated again, with the audio that it had.
        """
        return list(self.play_on(script, blocks[:next_block], [block.audio for block in blocks[next_block:]]))

    @torch.inference_mode()
    def play_on(self, script: Script, blocks: Sequence[Block], audio: Iterable[AudioTokens]) -> Iterator[Generated]:
        """What the library's loop makes of a session after its finished ``blocks``, one block after the other.

        Args:
            script: all of the session but its audio.
            blocks: all that came before, of which the last ones prime it.
            audio: of the blocks that are generated.
        """
        rules, (sink, warmup) = self.preset.stream, self.sink(script)
        first_latent = blocks[0].latent
        assert first_latent is not None
        own = Conditioning(from_block=rules.sink_switch_block, sink=sink.own(first_latent[:, :1]))
        with _one_thread():
            yield from generate(
                [self._stage(rules.steps)],
                self._decoder,
                sink=sink,
                warmup=warmup,
                text=self._text.encode(script.prompt),
                audio=audio,
                seed=script.seed,
                primed=Primed(tuple(blocks[-rules.window_blocks :]), (own,)),
            )

    def first_latent(self, script: Script, features: Tensor, steps: int) -> Tensor:
        """The first latent [16, 1, h, w] of a session that hears ``features`` in block 0: its sink version 1."""
        return self._loop(script, [self._tokens(features)], steps)[0].latent[:, :1]

    def _loop(self, script: Script, audio: Iterable[AudioTokens], steps: int) -> list[Generated]:
        return list(self.play(script, audio, steps))

    @torch.inference_mode()
    def play(self, script: Script, audio: Iterable[AudioTokens], steps: int) -> Iterator[Generated]:
        """What the library's loop makes of a session, one block after the other."""
        sink, warmup = self.sink(script)
        text = self._text.encode(script.prompt)
        with _one_thread():
            stages = [self._stage(steps)]
            yield from generate(
                stages, self._decoder, sink=sink, warmup=warmup, text=text, audio=audio, seed=script.seed
            )

    def _stage(self, steps: int) -> Denoiser:
        rules = self.preset.stream
        rng = PhiloxRng(rules.reference_distance)
        return Denoiser(self._dit, rules, inference_schedule(steps), range(steps), rng)

    @torch.inference_mode()
    def late(
        self, script: Script, own: Tensor, features: Iterable[Tensor], first_block: int, steps: int
    ) -> Iterator[Generated]:
        """What the library's loop makes from ``first_block`` on, without the blocks before it.

        The first blocks differ from those of the whole session, whose windows and caches held a past.  All memory is
        finite, so later ones are equal.

        Args:
            script: all of the session but its audio.
            own: [16, 1, h, w] the first latent of the session's block 0.
            features: of ``first_block`` and the blocks after it.
        """
        stage = self._stage(steps)
        sink, warmup = self.sink(script)
        _, _, height, width = own.shape
        session = stage.open(script.seed, Geometry(config=self.preset.dit, height=height, width=width))
        for window in session.windows.values():
            window.block = first_block
        for text, reference in ((self._text.encode(script.prompt), sink), (None, sink.own(own))):
            stage.condition(session, Conditioning(from_block=first_block, sink=reference, text=text))
        pictures = self._decoder.open()
        self._decoder.warm(pictures, warmup)
        pictures.next_block = first_block
        with _one_thread():
            for index, received in enumerate(features, first_block):
                latent = stage.denoise(session, Block(index=index, audio=self._tokens(received))).latent
                assert latent is not None
                yield Generated(index, latent, tuple(self._decoder.decode(pictures, index, latent)))

    def encode(self, plan: BlockPlan) -> AudioTokens:
        """Tokens of one block of streamed audio."""
        tokens: AudioTokens = self._tokens(self.receive(plan))
        return tokens

    def receive(self, plan: BlockPlan) -> Tensor:
        """Features of one block of streamed audio."""
        with _one_thread():
            return encode_block(self._speech, plan)

    def _audio(self, script: Script) -> Iterator[AudioTokens]:
        for features in self._streamed(script) if script.streaming else self._whole(script):
            yield self._tokens(features)

    def _whole(self, script: Script) -> Iterator[Tensor]:
        return whole_file_blocks(self._speech, torch.from_numpy(script.samples(self.preset)), self.preset)

    def _streamed(self, script: Script) -> Iterator[Tensor]:
        window = AudioWindow(self.preset)
        window.append(script.samples(self.preset))
        window.finish()
        while window.ready():
            yield encode_block(self._speech, window.next_block())


@contextmanager
def _one_thread() -> Iterator[None]:
    """While it lasts, torch computes like a service: with one thread, whatever the test process has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def system(name: str) -> System:
    """The system of the preset ``name``."""
    return System(PRESETS[name])


@cache
def solo(name: str, script: Script, steps: int = 4) -> tuple[Generated, ...]:
    """``System.solo`` of the preset ``name``, made once."""
    return tuple(system(name).solo(script, steps))


def latents(name: str, script: Script, steps: int = 4) -> list[Tensor]:
    """Clean latents [16, F, h, w] of every block of ``solo``."""
    return [one.latent for one in solo(name, script, steps)]


def pictures(name: str, script: Script, steps: int = 4) -> list[tuple[int, bytes]]:
    """Number and RGB bytes of every picture of ``solo``."""
    return numbered(solo(name, script, steps))


def numbered(generated: Iterable[Generated]) -> list[tuple[int, bytes]]:
    """Number and RGB bytes of every picture."""
    return [
        (frames.first + position, picture.numpy().tobytes())
        for one in generated
        for frames in one.frames
        for position, picture in enumerate(frames.pixels)
    ]


def prepare(name: str, *scripts: Script, steps: int = 4) -> None:
    """Makes what must come out before anything is sent: an event loop that computes misses its heartbeats."""
    for script in scripts:
        solo(name, script, steps)
