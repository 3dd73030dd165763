"""The command ``live-avatar``: what an operator does by hand.

Composes the commands and turns every expected error into one line on stderr with exit code 2.  torch is imported by
the commands that need it, so that help is immediate and the client's installation is enough for it.
"""

from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from live_avatar.cli import (
    certificates,
    demo,
    doctor,
    generate,
    keys,
    provenance,
    quotas,
    talk,
    up,
    usage,
    verify,
    weights,
)
from live_avatar.cli.signals import exit_process, signals_as_exits

FAILED = 2
INTERRUPTED = 130
_CLIENT_PACKAGES = {"av", "google", "grpc", "grpc_status", "numpy"}
_PROVENANCE_PACKAGES = {"c2pa", "cbor2", "cryptography", "encypher_c2pa"}
_UsageError: Any = typer.BadParameter.__mro__[1]
"""Of any fault in the command line; typer may have its own copy of click, and gives this class no name."""


class OneLineErrors(TyperGroup):
    """A command group that reports errors from outside without a traceback."""

    def make_context(self, *args: Any, **more: Any) -> Any:
        """Reads the command line; what is wrong with it becomes one line and exit code 2."""
        try:
            return super().make_context(*args, **more)
        except _UsageError as error:
            _refuse(error)

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; ValueError, OSError and absent packages become one line and exit code 2."""
        try:
            with signals_as_exits():
                return super().invoke(ctx)
        except _UsageError as error:
            _refuse(error)
        except ModuleNotFoundError as error:
            package = str(error.name).partition(".")[0]
            extra = _extra(package)
            reason = f"{error.name} is not installed: pip install 'live-avatar[{extra}]'"
        except KeyboardInterrupt:
            exit_process(INTERRUPTED)
            raise typer.Exit(INTERRUPTED) from None
        except SystemExit as ended:
            exit_process(int(ended.code or 0))
            raise
        except (ValueError, OSError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
        _fail(reason)


def _extra(package: str) -> str:
    """What brings a package."""
    if package in _PROVENANCE_PACKAGES:
        return "provenance"
    return "client" if package in _CLIENT_PACKAGES else "serve"


def _refuse(error: Any) -> NoReturn:
    """Says what is wrong with the command line, and where its help is; that of a group without a command is shown."""
    message = " ".join(str(error.format_message()).split())
    context = error.ctx
    if context is None:
        _fail(message)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(FAILED)
    path = " ".join(["live-avatar", *context.command_path.split()[1:]])
    _fail(f"{message.rstrip('.')}; see {path} --help")


def _fail(reason: str) -> NoReturn:
    typer.echo(f"live-avatar: {reason}", err=True)
    raise typer.Exit(FAILED)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"live-avatar {version('live-avatar')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    """Live Avatar: a portrait that speaks, live."""


app = typer.Typer(
    cls=OneLineErrors,
    callback=_options,
    help="Live Avatar: a portrait that speaks, live.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(weights.app, name="weights")
app.add_typer(keys.app, name="keys")
app.add_typer(quotas.app, name="quotas")
app.add_typer(provenance.app, name="provenance")
for command in (
    demo.demo,
    generate.generate,
    talk.talk,
    up.up,
    certificates.certificates,
    doctor.doctor,
    usage.usage,
    verify.verify,
):
    app.command()(command)
