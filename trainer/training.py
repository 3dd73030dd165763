"""The loop of a training run: steps, checkpoints, metrics, and an end that can come at any time.

Knows phases by their interface alone.  After SIGTERM the step at work is finished and saved; after a kill the run
goes on from the last checkpoint, as if nothing had happened.
"""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from live_avatar.trainer.distributed import Processes, processes
from live_avatar.trainer.optimizer import EmaOptimizer
from live_avatar.trainer.phases import build
from live_avatar.trainer.presets import TrainingConfig
from live_avatar.trainer.state import Checkpoints

RUN = "run.json"
CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
FINISHED, INTERRUPTED = 0, 143
"""Exit codes: all steps done; stopped by a signal (128 + SIGTERM), to be started again."""


class Phase(Protocol):
    """One kind of training."""

    @property
    def optimizers(self) -> tuple[EmaOptimizer, ...]:
        """What is trained."""
        ...

    def step(self, step: int) -> dict[str, Tensor]:
        """Moves the weights once; numbers to report, of this process."""
        ...


@dataclass
class Stop:
    """Whether somebody asked the run to end."""

    requested: bool = False


def train(config: TrainingConfig) -> int:
    """Runs ``config`` to its end or until a signal stops it; returns the exit code.

    Raises:
        ValueError: data, weights, adapter or checkpoint do not fit; the message names the file.
    """
    with processes(config.device) as group, stoppable() as stop:
        phase, origin = build(config, group)
        if group.is_first:
            _write_run(config, origin)
        return run(phase, config, group, stop)


def run(phase: Phase, config: TrainingConfig, group: Processes, stop: Stop) -> int:
    """The steps that are left of ``config``."""
    checkpoints = Checkpoints(config.output / CHECKPOINTS, group, config.keep)
    state = {key: tensor for optimizer in phase.optimizers for key, tensor in optimizer.state().items()}
    last = checkpoints.latest()
    first = checkpoints.load(last, state) if last else 0
    with journal(config.output, group, first) as write:
        for step in range(first, config.steps):
            began, done = time.monotonic(), step + 1
            metrics = phase.step(step)
            if done % config.log_every == 0 or done == config.steps:
                means = {name: group.mean(value) for name, value in metrics.items()}
                write(done, means | {"seconds": time.monotonic() - began})
            stopping = group.any(stop.requested)
            if stopping or done == config.steps or done % config.save_every == 0:
                checkpoints.save(done, state)
            if stopping and done < config.steps:
                return INTERRUPTED
    return FINISHED


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Inside, SIGTERM asks instead of killing."""
    stop = Stop()

    def ask(*_: object) -> None:
        stop.requested = True

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def journal(folder: Path, group: Processes, first: int) -> Iterator[Any]:
    """Where metrics go, as (step, numbers): a line of JSON each, and TensorBoard; the first process alone writes."""
    if not group.is_first:
        yield lambda step, numbers: None
        return
    from torch.utils.tensorboard import SummaryWriter

    board = SummaryWriter(str(folder / "tensorboard"), purge_step=first or None)
    with (folder / METRICS).open("a") as lines:

        def write(step: int, numbers: dict[str, float]) -> None:
            lines.write(json.dumps({"step": step, **numbers}) + "\n")
            lines.flush()
            for name, number in numbers.items():
                board.add_scalar(name, number, step)

        try:
            yield write
        finally:
            board.close()


def _write_run(config: TrainingConfig, origin: str) -> None:
    """What this run is, for ``export``: its configuration, and the digest of the weights it stands on."""
    config.output.mkdir(parents=True, exist_ok=True)
    described = {"config": asdict(config), "base_digest": origin}
    (config.output / RUN).write_text(json.dumps(described, indent=1, default=str) + "\n")
