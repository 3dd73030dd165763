"""The command ``live-avatar``: what an operator does by hand.

Composes the commands and turns every expected error into one line on stderr with exit code 2.  torch is imported by
the commands that need it, so that help is immediate and the client's installation is enough for it.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from live_avatar.cli import demo, doctor, generate, talk, up, weights

FAILED = 2


class OneLineErrors(TyperGroup):
    """A command group that reports errors from outside without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; ValueError, OSError and absent packages become one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            reason = f"{error.name} is not installed: pip install 'live-avatar[serve]'"
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split())
        typer.echo(f"live-avatar: {reason}", err=True)
        raise typer.Exit(FAILED)


app = typer.Typer(
    cls=OneLineErrors,
    help="Live Avatar: a portrait that speaks, live.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(weights.app, name="weights")
for command in (demo.demo, generate.generate, talk.talk, up.up, doctor.doctor):
    app.command()(command)
