"""``live-avatar quotas``: what tenants may use, and have used."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from live_avatar.cli import options
from live_avatar.cli.access import Access

if TYPE_CHECKING:
    from live_avatar.v1.admin_service_pb2 import Quotas, QuotaUsage

app = typer.Typer(help="Shows and changes what tenants may use.", no_args_is_help=True)
_UINT32, _UINT64 = 2**32 - 1, 2**53
_TenantArgument = Annotated[str, typer.Argument(help="Name of the tenant.", show_default=False)]


@app.command()
def show(
    tenant: _TenantArgument,
    gateway: options.RequiredGatewayOption,
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
) -> None:
    """Prints the quotas of a tenant and what it has used of them."""
    from live_avatar.cli.gateway import gateway_at
    from live_avatar.cli.gateway_errors import clear_errors
    from live_avatar.client.administration import get_quotas

    async def ask() -> None:
        async with gateway_at(gateway, Access(ca, api_key, insecure)).connect() as client:
            answer = await get_quotas(client, tenant)
        _print(answer.quotas, _used(answer.usage))

    with clear_errors(gateway):
        asyncio.run(ask())


@app.command("set")
def set_(
    tenant: _TenantArgument,
    gateway: options.RequiredGatewayOption,
    max_concurrent_sessions: Annotated[
        int | None, typer.Option(min=0, max=_UINT32, help="Sessions at the same time; 0: no limit.")
    ] = None,
    max_sessions_per_minute: Annotated[
        int | None, typer.Option(min=0, max=_UINT32, help="CreateSession calls per minute; 0: no limit.")
    ] = None,
    max_media_seconds_per_day: Annotated[
        int | None, typer.Option(min=0, max=_UINT64, help="Media delivered per day (UTC); 0: no limit.")
    ] = None,
    max_media_seconds_per_month: Annotated[
        int | None, typer.Option(min=0, max=_UINT64, help="Media delivered per month (UTC); 0: no limit.")
    ] = None,
    max_session_seconds: Annotated[
        int | None, typer.Option(min=0, max=_UINT32, help="Longest session; 0: that of the installation.")
    ] = None,
    max_frame_pixels: Annotated[
        int | None, typer.Option(min=0, max=_UINT64, help="Largest frame, width times height; 0: no limit.")
    ] = None,
    max_queued_audio_seconds: Annotated[
        int | None, typer.Option(min=0, max=_UINT32, help="Queued speech of a live session; 0: as the installation.")
    ] = None,
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
) -> None:
    """Changes quotas of a tenant, on all gateways; what is not named stays as it is."""
    from live_avatar.cli.gateway import gateway_at
    from live_avatar.cli.gateway_errors import clear_errors
    from live_avatar.client.administration import update_quotas

    given = {
        "max_concurrent_sessions": max_concurrent_sessions,
        "max_sessions_per_minute": max_sessions_per_minute,
        "max_media_seconds_per_day": max_media_seconds_per_day,
        "max_media_seconds_per_month": max_media_seconds_per_month,
        "max_session_seconds": max_session_seconds,
        "max_frame_pixels": max_frame_pixels,
        "max_queued_audio_seconds": max_queued_audio_seconds,
    }
    values = {name: value for name, value in given.items() if value is not None}
    if not values:
        raise ValueError("give at least one quota; see live-avatar quotas set --help")

    async def ask() -> None:
        async with gateway_at(gateway, Access(ca, api_key, insecure)).connect() as client:
            _print(await update_quotas(client, tenant, values), {})

    with clear_errors(gateway):
        asyncio.run(ask())


def _used(usage: "QuotaUsage") -> Mapping[str, int]:
    """What was used, by quota."""
    return {
        "max_concurrent_sessions": usage.concurrent_sessions,
        "max_sessions_per_minute": usage.sessions_this_minute,
        "max_media_seconds_per_day": usage.media_milliseconds_today // 1000,
        "max_media_seconds_per_month": usage.media_milliseconds_this_month // 1000,
    }


def _print(quotas: "Quotas", used: Mapping[str, int]) -> None:
    for field in quotas.DESCRIPTOR.fields:
        limit = getattr(quotas, field.name) or "no limit"
        use = f"  (used: {used[field.name]})" if field.name in used else ""
        typer.echo(f"{field.name}: {limit}{use}")
