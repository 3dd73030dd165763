"""Starts the service: ``python -m live_avatar.services.gateway --help``."""

import sys
from functools import partial

from live_avatar.services.gateway.service import build
from live_avatar.services.gateway.settings import GatewaySettings
from live_avatar.serving.server import run
from live_avatar.serving.settings import load


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(GatewaySettings, program="python -m live_avatar.services.gateway")
    return run("gateway", settings.server, settings.telemetry, partial(build, settings), public=True)


if __name__ == "__main__":
    sys.exit(main())
