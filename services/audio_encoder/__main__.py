"""Starts the service: ``python -m services.audio_encoder --help``."""

import sys
from functools import partial

from live_avatar.serving.server import run
from live_avatar.serving.settings import load
from services.audio_encoder.service import build
from services.audio_encoder.settings import AudioEncoderSettings


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(AudioEncoderSettings, program="python -m services.audio_encoder")
    return run(settings.name, settings.server, settings.telemetry, partial(build, settings))


if __name__ == "__main__":
    sys.exit(main())
