"""``live-avatar keys``: the API keys of a gateway's tenants."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from live_avatar.cli import options
from live_avatar.cli.access import Access
from live_avatar.cli.signals import run

if TYPE_CHECKING:
    from live_avatar.cli.gateway import Gateway
    from live_avatar.client import ApiKeyInfo

app = typer.Typer(help="API keys: create, list, revoke.", no_args_is_help=True, rich_markup_mode=None)

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LIFETIME = re.compile(r"(?P<count>[1-9][0-9]{0,8})(?P<unit>[smhd])")
JsonOption = Annotated[bool, typer.Option("--json", help="The same as JSON.")]


@app.command()
def create(
    gateway: options.RequiredGatewayOption,
    scopes: Annotated[
        str, typer.Option(help="What the key may do, with commas between: sessions, avatars, usage, admin.")
    ] = "sessions",
    tenant: Annotated[str, typer.Option(help="Whose key it is; default: the caller's tenant.")] = "",
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    lifetime: Annotated[
        str, typer.Option(help="How long it works, such as 90d, 12h, 30m or 60s; default: until it is revoked.")
    ] = "",
    as_json: JsonOption = False,
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
) -> None:
    """Creates an API key and prints it on stdout, once: it cannot be read again."""
    lasts = parse_lifetime(lifetime)
    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    info, secret = run(_create(_gateway(gateway, Access(ca, api_key, insecure)), wanted, tenant, name, lasts))
    if as_json:
        typer.echo(json.dumps({"secret": secret, **as_record(info)}, indent=1))
        return
    typer.echo("\n".join(table([info])), err=True)
    typer.echo(secret)


@app.command("list")
def list_keys(
    gateway: options.RequiredGatewayOption,
    tenant: Annotated[
        str, typer.Option(help="Whose keys; default: the caller's tenant; * for all, by the operator.")
    ] = "",
    as_json: JsonOption = False,
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
) -> None:
    """Lists API keys, newest first, revoked and expired ones too."""
    infos = run(_list(_gateway(gateway, Access(ca, api_key, insecure)), tenant))
    if as_json:
        typer.echo(json.dumps([as_record(info) for info in infos], indent=1))
        return
    typer.echo("\n".join(table(infos)))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Of the key: the part between the underscores.")],
    gateway: options.RequiredGatewayOption,
    as_json: JsonOption = False,
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
) -> None:
    """Revokes an API key; every gateway rejects it within 5 s."""
    info = run(_revoke(_gateway(gateway, Access(ca, api_key, insecure)), key_id))
    typer.echo(json.dumps(as_record(info), indent=1) if as_json else "\n".join(table([info])))


def parse_lifetime(text: str) -> timedelta | None:
    """The time that ``text`` such as 90d says; None where it is empty; raises ValueError for anything else."""
    if not text:
        return None
    parts = _LIFETIME.fullmatch(text)
    if parts is None:
        raise ValueError(f"--lifetime {text!r} is no time; the form is a number and s, m, h or d, such as 90d")
    return timedelta(seconds=int(parts["count"]) * _UNITS[parts["unit"]])


def as_record(info: "ApiKeyInfo") -> dict[str, Any]:
    """A key as JSON holds it: times in ISO 8601, those that are absent as null."""
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(info).items()}


def table(infos: Sequence["ApiKeyInfo"]) -> list[str]:
    """Keys as lines for people, a heading first."""
    rows = [("KEY", "TENANT", "SCOPES", "NAME", "CREATED", "LAST USED", "STATE"), *map(_row, infos)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(info: "ApiKeyInfo") -> tuple[str, ...]:
    scopes = ",".join(info.scopes)
    return (
        info.key_id, info.tenant, scopes, info.name, _day(info.create_time), _day(info.last_use_time), _state(info),
    )  # fmt: skip


def _state(info: "ApiKeyInfo") -> str:
    if info.revoke_time is not None:
        return f"revoked {_day(info.revoke_time)}"
    if info.expire_time is None:
        return "valid"
    return f"{'expired' if info.expire_time <= datetime.now(UTC) else 'until'} {_day(info.expire_time)}"


def _day(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M}"


def _gateway(address: str, access: Access) -> "Gateway":
    from live_avatar.cli.gateway import gateway_at

    return gateway_at(address, access)


async def _create(
    gateway: "Gateway", scopes: Sequence[str], tenant: str, name: str, lifetime: timedelta | None
) -> tuple["ApiKeyInfo", str]:
    from live_avatar.cli.gateway_errors import clear_errors

    with clear_errors(gateway.address):
        async with gateway.administer() as admin:
            return await admin.create_key(scopes, tenant=tenant, name=name, lifetime=lifetime)


async def _list(gateway: "Gateway", tenant: str) -> list["ApiKeyInfo"]:
    from live_avatar.cli.gateway_errors import clear_errors

    with clear_errors(gateway.address):
        async with gateway.administer() as admin:
            return [info async for info in admin.keys(tenant)]


async def _revoke(gateway: "Gateway", key_id: str) -> "ApiKeyInfo":
    from live_avatar.cli.gateway_errors import clear_errors

    with clear_errors(gateway.address):
        async with gateway.administer() as admin:
            return await admin.revoke_key(key_id)
