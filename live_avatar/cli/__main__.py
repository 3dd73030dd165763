"""The command where no script is installed: ``python -m live_avatar.cli``."""

from live_avatar.cli.main import app

if __name__ == "__main__":
    app(prog_name="live-avatar")
