"""Starts the service: ``python -m live_avatar.services.audio_encoder --help``."""

import sys
from functools import partial

from live_avatar.services.audio_encoder.service import build
from live_avatar.services.audio_encoder.settings import AudioEncoderSettings
from live_avatar.serving.server import run
from live_avatar.serving.settings import load


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(AudioEncoderSettings, program="python -m live_avatar.services.audio_encoder")
    return run(settings.name, settings.server, settings.telemetry, partial(build, settings))


if __name__ == "__main__":
    sys.exit(main())
