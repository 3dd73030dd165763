"""Training runs as processes, as people start them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from live_avatar.trainer.overrides import described
from live_avatar.trainer.presets import TrainingConfig

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240


def arguments(command: str, config: TrainingConfig) -> list[str]:
    """The command line that gives ``config`` from the preset ``command``."""
    return [command, *(part for option in described(config) for part in option.split(" ", 1))]


def start(command: str, config: TrainingConfig, ranks: int = 1) -> "subprocess.Popen[str]":
    """Starts a run on ``ranks`` processes."""
    module = ["-m", "live_avatar.trainer", *arguments(command, config)]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *launcher, *module], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(command: str, config: TrainingConfig, ranks: int = 1) -> None:
    """Runs to the end, which must be a good one."""
    process = start(command, config, ranks)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output


def metrics(folder: Path) -> dict[int, dict[str, Any]]:
    """What a run wrote, by step; a step that was done again counts as it was done last."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line for line in lines}
