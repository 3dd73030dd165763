"""Starts the service: ``python -m live_avatar.services.vae_decoder --help``."""

import sys
from functools import partial

from live_avatar.services.vae_decoder.service import build
from live_avatar.services.vae_decoder.settings import VaeDecoderSettings
from live_avatar.serving.server import run
from live_avatar.serving.settings import load


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(VaeDecoderSettings, program="python -m live_avatar.services.vae_decoder")
    return run(settings.name, settings.server, settings.telemetry, partial(build, settings))


if __name__ == "__main__":
    sys.exit(main())
