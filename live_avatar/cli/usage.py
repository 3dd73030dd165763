"""``live-avatar usage``: records of what tenants have used, as CSV or JSON."""

import asyncio
import csv
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from live_avatar.cli import options
from live_avatar.cli.access import Access

if TYPE_CHECKING:
    from live_avatar.v1.usage_service_pb2 import UsageRecord

HEADER = (
    "time", "tenant", "session_id", "epoch", "number", "kind", "key_id", "preset", "width", "height", "media_seconds",
    "blocks", "service_seconds", "end_reason",
)  # fmt: skip
"""Of the CSV; documented in docs/guides/access.md."""
_TIME_HELP = "as 2026-11-01 or 2026-11-01T12:30:00Z; UTC where no offset is given"
_Write = Callable[[Sequence["UsageRecord"]], None]


def usage(
    gateway: options.RequiredGatewayOption,
    tenant: Annotated[
        str, typer.Option(help="Whose records; '*': all, for the operator. Default: the caller's own.")
    ] = "",
    since: Annotated[str, typer.Option(help=f"Time of the first record, {_TIME_HELP}. Default: all.")] = "",
    until: Annotated[str, typer.Option(help=f"Time after the last record, {_TIME_HELP}. Default: now.")] = "",
    ca: options.CaOption = None,
    api_key: options.ApiKeyOption = "",
    insecure: options.InsecureOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A header and one line per record.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line (default).")] = False,
) -> None:
    """Lists what tenants have used: one record per session at its start, every minute and at its end."""
    if as_csv and as_json:
        raise ValueError("give one of --csv and --json")
    from live_avatar.cli.gateway import gateway_at
    from live_avatar.cli.gateway_errors import clear_errors
    from live_avatar.client.administration import list_usage

    first, last, place = (
        _time(since, "--since"),
        _time(until, "--until"),
        gateway_at(gateway, Access(ca, api_key, insecure)),
    )

    async def write_all() -> None:
        write = _csv_writer() if as_csv else _write_json
        async with place.connect() as client:
            async for records in list_usage(client, tenant, first, last):
                write(records)
                sys.stdout.flush()

    with clear_errors(gateway):
        asyncio.run(write_all())


def _write_json(records: Sequence["UsageRecord"]) -> None:
    from google.protobuf.json_format import MessageToDict

    for record in records:
        fields = MessageToDict(record, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
        sys.stdout.write(json.dumps(fields) + "\n")


def _csv_writer() -> _Write:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(HEADER)

    def write(records: Sequence["UsageRecord"]) -> None:
        table.writerows(map(_row, records))

    return write


def _row(record: "UsageRecord") -> Sequence[str | int]:
    services = (f"{one.service}={_seconds(one.compute_time.ToNanoseconds())}" for one in record.service_times)
    return (
        record.time.ToJsonString(),
        record.tenant,
        record.session_id,
        record.epoch,
        record.number,
        type(record).Kind.Name(record.kind),
        record.key_id,
        record.preset,
        record.width,
        record.height,
        _seconds(record.media_time.ToNanoseconds()),
        record.blocks,
        ";".join(services),
        record.end_reason,
    )


def _seconds(nanoseconds: int) -> str:
    """Exactly, without trailing zeros."""
    whole, rest = divmod(nanoseconds, 10**9)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def _time(text: str, option: str) -> datetime | None:
    """A time; None where there is no text.

    Raises:
        ValueError: it is no time.
    """
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} {text!r} is no time; the form is 2026-11-01 or 2026-11-01T12:30:00Z") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
