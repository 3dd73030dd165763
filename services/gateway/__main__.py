"""Starts the service: ``python -m services.gateway --help``."""

import sys
from functools import partial

from live_avatar.serving.server import run
from live_avatar.serving.settings import load
from services.gateway.service import build
from services.gateway.settings import GatewaySettings


def main() -> int:
    """Runs until SIGTERM; returns the exit code."""
    settings = load(GatewaySettings, program="python -m services.gateway")
    return run("gateway", settings.server, settings.telemetry, partial(build, settings), public=True)


if __name__ == "__main__":
    sys.exit(main())
