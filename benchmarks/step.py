"""One streaming forward on the CPU: ours against the specification transcribed word for word, and compiled.

    python -m benchmarks.step [--golden tests/golden/data/dit_causal.json] [--runs 60] [--json FILE] [--no-compile]

The sizes and weights are those of the golden.  All sides do the same block with a full window, turn by turn, on one
thread; the medians of their times are compared.  Both sides start from speech features: ours includes the audio token
encoder.  What a session computes once stays outside of ours: keys and values of the prompt, the noise level.

The bar holds for the transcription with its table at full length; the ratio with a table just long enough is shown
beside it, so that what the table costs is seen.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from live_avatar.config import DiTConfig, dit_config_from_public
from live_avatar.files import check_output, write_text
from live_avatar.model import audio_tokens, dit
from live_avatar.model.attention_patterns import Geometry
from live_avatar.model.audio_tokens import AudioTokenEncoder
from live_avatar.model.dit import CausalDiT, NoisyInput
from live_avatar.model.kv_cache import KVWindow
from tests.reference.transcription import FULL_TABLE_ROWS, BlockInput, Memory, Transcription

BAR = 1.5
TOLERANCE = 1e-4
DEFAULT_GOLDEN = Path("tests/golden/data/dit_causal.json")

Forward = Callable[[], Tensor]


class Inputs:
    """The golden's model and the inputs of its blocks."""

    def __init__(self, golden: Path) -> None:
        self.meta: dict[str, Any] = json.loads(golden.read_text())["config"]
        self.tensors = load_file(golden.with_suffix(".safetensors"))
        self.weights = load_file(golden.parent / self.meta["weights"])
        history, latents = self.meta["motion_frames"]
        self.config: DiTConfig = dit_config_from_public(
            self.meta["model"],
            audio_states=self.weights["casual_audio_encoder.weights"].shape[1],
            audio_history_frames=history,
            audio_history_latents=latents,
        )

    @property
    def last(self) -> int:
        """The block that is measured: its window is full."""
        assert self.meta["num_blocks"] > self.meta["window_blocks"]
        return int(self.meta["num_blocks"]) - 1

    def block(self, index: int) -> BlockInput:
        """Everything the forward of block ``index`` is given."""
        return BlockInput(
            latent=self.tensors[f"block_{index}/x"][None],
            pose=self.tensors[f"block_{index}/cond_states"],
            timestep=self.tensors["in/timestep"],
            context=self.tensors["in/context"],
            audio=self.tensors[f"block_{index}/audio_input"],
            block=index,
            distance=self.meta["relative_dist"][index],
        )


class Ours:
    """Our modules with a window that has seen all blocks before the measured one."""

    def __init__(self, inputs: Inputs) -> None:
        config, tensors = inputs.config, inputs.tensors
        self.model, self.audio = CausalDiT(config), AudioTokenEncoder(config)
        for module, names in (
            (self.model, dit.public_names(config)),
            (self.audio, audio_tokens.public_names(config)),
        ):
            module.load_state_dict({ours: inputs.weights[public] for public, ours in names.items()})
            module.requires_grad_(False).eval()
        height, width = inputs.meta["latent_hw"]
        self.window = KVWindow(
            Geometry(config=config, height=height, width=width),
            latents_per_block=inputs.meta["frames_per_block"],
            window_blocks=inputs.meta["window_blocks"],
        )
        self.text = self.model.embed_text(tensors["in/context"][None])
        self.time = self.model.embed_time(tensors["in/timestep"][:, :1])
        prefill = self.window.prefill()
        self.model(
            None, self.model.sink_input(tensors["in/ref_latents"], tensors["in/motion_latents"]), self.text, prefill
        )
        self.window.set_sink(prefill.states())
        for index in range(inputs.last):
            self.forward(inputs.block(index), self.model)
            self.window.commit()

    def forward(self, given: BlockInput, model: Callable[..., Any]) -> Tensor:
        """Velocity of a block; the window moves only when asked to."""
        noisy = NoisyInput(latent=given.latent, time=self.time, audio=self.audio(given.audio), pose=given.pose)
        velocity: Tensor = model(noisy, None, self.text, self.window.begin(given.distance))
        return velocity


def transcribed(inputs: Inputs, table_rows: int) -> Forward:
    """The transcription with a memory that has seen all blocks before the measured one."""
    network = Transcription(inputs.config, inputs.weights, inputs.meta["window_blocks"], table_rows)
    tensors = inputs.tensors
    memory: Memory = network.prefill(tensors["in/ref_latents"], tensors["in/motion_latents"], tensors["in/context"])
    for index in range(inputs.last):
        network.forward(inputs.block(index), memory)
    given = inputs.block(inputs.last)
    return lambda: network.forward(given, memory)


def sides(inputs: Inputs, compiled: bool) -> dict[str, Forward]:
    """The forwards to compare, by name."""
    ours, given = Ours(inputs), inputs.block(inputs.last)
    forwards: dict[str, Forward] = {
        "ours": lambda: ours.forward(given, ours.model),
        "transcription": transcribed(inputs, FULL_TABLE_ROWS),
        "transcription_short_table": transcribed(inputs, table_rows=0),
    }
    if compiled:
        model = torch.compile(ours.model, fullgraph=True)
        forwards["compiled"] = lambda: ours.forward(given, model)
    return forwards


def medians_ms(forwards: dict[str, Forward], runs: int) -> dict[str, float]:
    """Median time of each forward, taken in turns so that a busy machine troubles all alike."""
    for forward in forwards.values():
        for _ in range(3):
            forward()
    times: dict[str, list[float]] = {name: [] for name in forwards}
    for _ in range(runs):
        for name, forward in forwards.items():
            start = time.perf_counter()
            forward()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(taken) for name, taken in times.items()}


@torch.inference_mode()
def measure(golden: Path, runs: int, compiled: bool) -> dict[str, object]:
    """Compares results, then times.

    Raises:
        RuntimeError: a side differs from the golden, and so perhaps from the others.
    """
    inputs = Inputs(golden)
    forwards = sides(inputs, compiled)
    expected = inputs.tensors[f"block_{inputs.last}/velocity"][None]
    errors = {name: float((forward() - expected).abs().max()) for name, forward in forwards.items()}
    if max(errors.values()) > TOLERANCE:
        raise RuntimeError(f"more than {TOLERANCE} away from the golden: {errors}")
    medians = medians_ms(forwards, runs)
    ratio = medians["transcription"] / medians["ours"]
    return {
        "golden": golden.stem,
        "runs": runs,
        "median_ms": {name: round(value, 2) for name, value in medians.items()},
        "largest_error": {name: float(f"{error:.1e}") for name, error in errors.items()},
        "ratio": round(ratio, 2),
        "ratio_short_table": round(medians["transcription_short_table"] / medians["ours"], 2),
        "ratio_compiled_over_eager": round(medians["ours"] / medians["compiled"], 2) if compiled else None,
        "bar": BAR,
        "passed": ratio >= BAR,
        "machine": f"{platform.machine()}, {platform.system()}, 1 thread, torch {torch.__version__}",
    }


def main() -> None:
    """Prints the comparison; fails below the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--golden", type=Path, default=DEFAULT_GOLDEN, help="tensors of a step to compare with")
    parser.add_argument("--runs", type=int, default=60, help="forwards of each kind that are timed")
    parser.add_argument("--json", type=Path, help="also write the result to this file")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    arguments = parser.parse_args()
    try:
        check_output(arguments.json or Path(os.devnull))
    except OSError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    result = measure(arguments.golden, arguments.runs, not arguments.no_compile)
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.json is not None:
        write_text(arguments.json, text + "\n")
    if not result["passed"]:
        sys.exit(f"the forward is {result['ratio']} times as fast as the transcription, the bar is {BAR}")


if __name__ == "__main__":
    main()
