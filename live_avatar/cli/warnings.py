"""Warnings of a command: one line each on stderr, as soon as they are known."""

import typer


class Warnings:
    """Shows warnings, none for the same reason twice."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    def show(self, reason: str, message: str) -> None:
        """Shows a warning, unless one of its reason was shown before."""
        if reason not in self._reasons:
            self._reasons.add(reason)
            self.report(message)

    def report(self, message: str) -> None:
        """Shows what happened, as often as it does."""
        typer.echo(f"live-avatar: warning: {message}", err=True)
