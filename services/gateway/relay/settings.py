"""Settings of the port on which gateways reach each other."""

from typing import Self

from pydantic import Field, model_validator

from live_avatar.serving.settings import Group, Port, ServerTlsSettings


class RelaySettings(Group):
    """How gateways that share a store reach each other; needed by none that keeps sessions in its process."""

    host: str = Field(default="127.0.0.1", description="address to listen on for other gateways")
    port: Port = Field(default=0, description="port for other gateways; 0: any free one")
    address: str = Field(
        default="", description="host:port at which other gateways reach this one; unset: host and port as listened on"
    )
    tls: ServerTlsSettings = ServerTlsSettings()
    server_name: str = Field(
        default="", description="name that certificates of other gateways must have; unset: the host of the address"
    )
    timeout_seconds: float = Field(
        default=2.0, gt=0, le=30, description="how long another gateway may take to answer before it counts as lost"
    )
    max_streams: int = Field(
        default=1_000, ge=1, le=100_000, description="streams that are passed on at the same time; others are refused"
    )

    @model_validator(mode="after")
    def _must_be_reachable(self) -> Self:
        if self.host in ("0.0.0.0", "::", "[::]") and not self.address:
            raise ValueError("address is needed where host is no address that others can call")
        return self
