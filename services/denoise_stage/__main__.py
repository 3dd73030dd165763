"""Starts the service: ``python -m live_avatar.services.denoise_stage --help``."""

import sys
from functools import partial

from live_avatar.services.denoise_stage.service import build
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings
from live_avatar.serving.server import run
from live_avatar.serving.settings import load


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(DenoiseStageSettings, program="python -m live_avatar.services.denoise_stage")
    return run(settings.service_name, settings.server, settings.telemetry, partial(build, settings))


if __name__ == "__main__":
    sys.exit(main())
