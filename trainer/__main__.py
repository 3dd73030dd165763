"""``python -m live_avatar.trainer PRESET [--key value ...]``: the one place that reads the command line."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

from live_avatar.trainer import presets
from live_avatar.trainer.overrides import described, override, pairs_of

USAGE = 2
HELP = ("--help", "-h")
MOST_SKIPPED = 50
"""Skipped clips that ``prepare`` lists at its end; its reports beside the shards name all."""


@dataclass(frozen=True)
class Command:
    """What a first word starts."""

    config: Callable[[], Any]
    run: Callable[[Any], int]


def _train(config: presets.TrainingConfig) -> int:
    from live_avatar.trainer.training import train

    return train(config)


def _prepare(config: presets.PrepareConfig) -> int:
    from live_avatar.trainer.prepare import prepare

    report = prepare(config)
    _print(f"{report.samples} samples written, {report.skipped} clips skipped, {report.kept_shards} shards kept")
    for name, reason in islice(report.reasons.items(), MOST_SKIPPED):
        _print(f"skipped {name}: {reason}")
    if report.skipped:
        _print(f"every skipped clip and its reason: {config.output}/skipped-*.jsonl")
    return 0


def _portraits(config: presets.PortraitsConfig) -> int:
    from live_avatar.trainer.portraits import measure_portraits

    report = measure_portraits(config)
    distance, contrast, error = report.portraits.largest.tolist()
    _print(f"{report.measured} portraits measured, {report.skipped} clips skipped")
    _print(f"most unlike of those held out: distance {distance:.3f}, contrast {contrast:.3f}, error {error:.4f}")
    _print(f"{report.manifest.component} of {report.manifest.preset} in {config.weights}")
    return 0


def _export(config: presets.ExportConfig) -> int:
    from live_avatar.trainer.export import export

    manifest = export(config)
    _print(f"{manifest.component} of {manifest.preset} in {config.output}, digest {manifest.digest[:16]}")
    return 0


def _text_encoder(config: presets.TextEncoderConfig) -> int:
    from live_avatar.config import preset
    from live_avatar.trainer.export import write_text_encoder

    manifest = write_text_encoder(preset(config.preset), config.output)
    _print(f"text encoder in {config.output}, digest {manifest.digest[:16]}")
    return 0


def _memory(config: presets.MemoryConfig) -> int:
    from live_avatar.trainer.memory import memory_table

    for line in memory_table(config):
        _print(line)
    return 0


COMMANDS = {name: Command(config, _train) for name, config in presets.PHASES.items()} | {
    "prepare": Command(presets.PrepareConfig, _prepare),
    "portraits": Command(presets.PortraitsConfig, _portraits),
    "export": Command(presets.ExportConfig, _export),
    "text_encoder": Command(presets.TextEncoderConfig, _text_encoder),
    "memory": Command(presets.MemoryConfig, _memory),
}


def main(arguments: list[str]) -> int:
    """Runs one command; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    if not arguments or arguments[0] not in COMMANDS:
        _print("usage: python -m live_avatar.trainer PRESET [--key value ...]")
        _print(f"presets and commands: {', '.join(COMMANDS)}")
        _print("python -m live_avatar.trainer PRESET --help: its options and what they are if not given")
        return 0 if arguments and arguments[0] in HELP else USAGE
    command = COMMANDS[arguments[0]]
    if any(argument in HELP for argument in arguments[1:]):
        for line in described(command.config()):
            _print(line)
        return 0
    try:
        config = override(command.config(), pairs_of(arguments[1:]))
        return command.run(config)
    except (ValueError, OSError) as error:
        _print(f"{arguments[0]}: {error}")
        return USAGE


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
