"""Settings of the port on which gateways reach each other."""

from pydantic import Field

from live_avatar.serving.settings import Group, Port, ServerTlsSettings


class RelaySettings(Group):
    """How gateways that share a store reach each other; needed by none that keeps sessions in its process."""

    host: str = Field(
        default="",
        description="address to listen on for other gateways; unset: that of server.host where only this machine "
        "reaches it, else none: other gateways then cannot pass calls on to this one",
    )
    port: Port = Field(default=0, description="port for other gateways; 0: any free one")
    address: str = Field(
        default="",
        description="host or host:port at which other gateways reach this one; unset: relay.host, or where that is "
        "every address, the one with which the store is called",
    )
    tls: ServerTlsSettings = ServerTlsSettings()
    server_name: str = Field(
        default="",
        description="name that the certificates of other gateways must have; unset: the host of their address. They "
        "are called with the certificate in tls",
    )
    timeout_ms: int = Field(
        default=2_000,
        ge=50,
        le=60_000,
        description="how long another gateway may take to accept a call, or to answer a ping, before it counts as lost",
    )
    max_calls: int = Field(
        default=4_000,
        ge=1,
        le=100_000,
        description="calls and streams that are passed on at the same time; others are refused",
    )
    idle_seconds: float = Field(
        default=60.0, ge=1, le=3_600, description="an unused connection to another gateway is closed after so long"
    )
