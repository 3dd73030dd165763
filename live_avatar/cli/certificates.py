"""``live-avatar certificates``: an authority of one's own, and certificates for a small installation."""

from pathlib import Path
from typing import Annotated

import typer

from live_avatar.cli import inputs


def certificates(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the files; it is made.")],
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="Host name or address at which clients reach the gateway; may be given several times. "
            "Default: localhost, 127.0.0.1 and ::1.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[int, typer.Option(help="Days for which the certificate is valid.", min=1, max=3650)] = 365,
) -> None:
    """Makes certificates for live-avatar up --tls, with an authority of their own.

    A second time it makes a new certificate by the same authority: services that run take it up by themselves.
    """
    from live_avatar.launcher.tls_folder import AUTHORITY, AUTHORITY_KEY, CERTIFICATE, KEY, make_certificates

    names = name or ["localhost", "127.0.0.1", "::1"]
    if make_certificates(folder, names, days):
        inputs.report(f"{folder / AUTHORITY_KEY} is the new authority's secret: keep it from the services' machines")
    typer.echo(f"{folder}: {CERTIFICATE} and {KEY} for {', '.join(names)}, {days} days; clients need {AUTHORITY}")
