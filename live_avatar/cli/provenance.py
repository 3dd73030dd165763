"""``live-avatar provenance``: keys to sign media with."""

from pathlib import Path
from typing import Annotated

import typer

from live_avatar.cli import inputs
from live_avatar.cli.signing import default_folder

app = typer.Typer(help="Keys to sign media with.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keys to sign media with."""


@app.command()
def init(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="Folder for the files; it is made. Default: where generate, talk and demo look."
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name in the certificate.")] = "Live Avatar",
    days: Annotated[int, typer.Option(help="Days for which the certificate is valid.", min=1, max=3650)] = 365,
) -> None:
    """Makes a key and a test certificate to sign movies and streams with; verifiers call its signer untrusted."""
    from live_avatar.provenance.own_chain import CERTIFICATE, KEY, ROOT, make_chain, write_chain

    place = folder or default_folder()
    write_chain(place, make_chain(name, days))
    inputs.report(
        "verifiers will call this signer untrusted: for others to trust it, get a certificate from an "
        "authority on the C2PA trust list"
    )
    typer.echo(f"{place}: {KEY}, {CERTIFICATE} and {ROOT}, {days} days; live-avatar verify --trust {place / ROOT}")
