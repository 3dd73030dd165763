"""Settings of the gateway."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, SecretStr, model_validator

from live_avatar.services.gateway.access.audit_settings import AuditSettings
from live_avatar.services.gateway.access.settings import AuthSettings, is_loopback
from live_avatar.services.gateway.discovery.settings import DiscoverySettings
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.provenance.settings import DisclosureSettings, SigningSettings
from live_avatar.services.gateway.quotas.settings import QuotaSettings
from live_avatar.services.gateway.relay.settings import RelaySettings
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.services.gateway.store.redis_access import IN_MEMORY
from live_avatar.services.gateway.store.servers import CLUSTER, SENTINEL, StoreAddress, connection_arguments
from live_avatar.services.gateway.usage.settings import UsageSettings
from live_avatar.serving.settings import ClientTlsSettings, CommaSeparated, Group, Settings

PipelineAddress = Annotated[str, Field(pattern=r"^[^/\s]+:\d+/[^/\s]+:\d+$")]


class StoreTlsSettings(Group):
    """How the store is checked, and what we prove who we are with."""

    ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of the store and its Sentinels, where the URL begins with rediss; "
        "unset: those of this machine",
    )
    certificate: Path | None = Field(default=None, description="PEM file with our certificate for the store")
    key: Path | None = Field(default=None, description="PEM file with the certificate's private key")

    @model_validator(mode="after")
    def _must_belong_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or none")
        return self


class StoreSettings(Group):
    """Where sessions are kept."""

    url: str = Field(
        default=IN_MEMORY,
        description="redis://host:port/0; redis+sentinel://host:port,host:port/master/0 for the master that Sentinels "
        "name; redis+cluster://host:port,host:port for a Cluster; each with rediss for TLS; or memory:// to keep them "
        "in this process, for one gateway alone",
    )
    tls: StoreTlsSettings = StoreTlsSettings()
    sentinel_username: str = Field(default="", description="user at the Sentinels; unset: the default one")
    sentinel_password: SecretStr | None = Field(
        default=None, description="password of the Sentinels, which is not that in the URL; unset: they need none"
    )
    lease_seconds: float = Field(
        default=10.0, ge=0.5, le=600, description="how long a session is kept after its gateway's last renewal"
    )
    grace_seconds: float = Field(
        default=30.0,
        ge=0,
        le=600,
        description="how long sessions go on while the store does not answer; they are stored anew when it is back, "
        "empty or not, where retention_seconds is at least as long",
    )
    retention_seconds: float = Field(
        default=120.0, ge=1, le=86_400, description="how long an ended session can still be read"
    )

    @model_validator(mode="after")
    def _must_be_an_address(self) -> Self:
        address = self.address()
        if address.way not in ("", SENTINEL, CLUSTER):
            raise ValueError(
                "url begins with redis, rediss, unix or memory, and +sentinel or +cluster behind the first two"
            )
        if address.way:
            connection_arguments(address)
        if self.tls != StoreTlsSettings() and not self.url.startswith("rediss"):
            raise ValueError("tls needs a url that begins with rediss")
        return self

    def address(self) -> StoreAddress:
        """Where the store is and what is needed to get in."""
        password = self.sentinel_password
        return StoreAddress(
            url=self.url,
            ca=self.tls.ca,
            certificate=self.tls.certificate,
            key=self.tls.key,
            sentinel_username=self.sentinel_username,
            sentinel_password=password.get_secret_value() if password else "",
        )


class GatewaySettings(Settings):
    """Serves the public API in front of one or more pipelines."""

    pipelines: CommaSeparated[PipelineAddress] = Field(
        default=(),
        description="each as HEAD/DECODER: addresses of its audio encoder and its VAE decoder; unset: see discovery",
    )
    discovery: DiscoverySettings = DiscoverySettings()
    tls: ClientTlsSettings = ClientTlsSettings()
    allow_shared_devices: bool = Field(
        default=False, description="accept a pipeline of which several services use the same accelerator"
    )
    preset_file: Path | None = Field(
        default=None, description=".json file that describes a system which pipelines may run beside the built-in ones"
    )
    endpoint: str = Field(
        default="", description="address at which clients reach this gateway; unset: the address that they called"
    )
    token_key: SecretStr | None = Field(
        default=None,
        description="secret from which session tokens are derived; gateways that share a store need the same; "
        "unset: random",
    )
    previous_token_key: SecretStr | None = Field(
        default=None, description="token_key before this one: its session tokens are accepted and no new ones made"
    )
    auth: AuthSettings = AuthSettings()
    audit: AuditSettings = AuditSettings()
    store: StoreSettings = StoreSettings()
    relay: RelaySettings = RelaySettings()
    limits: Limits = Limits()
    live: LiveRules = LiveRules()
    quotas: QuotaSettings = QuotaSettings()
    usage: UsageSettings = UsageSettings()
    signing: SigningSettings = SigningSettings()
    disclosure: DisclosureSettings = DisclosureSettings()

    @model_validator(mode="after")
    def _pipelines_must_come_from_one_place(self) -> Self:
        places = (bool(self.pipelines), self.discovery.dns is not None, self.discovery.service is not None)
        if sum(places) != 1:
            raise ValueError("give exactly one of pipelines, discovery.dns and discovery.service")
        return self

    @model_validator(mode="after")
    def _strangers_must_be_authenticated(self) -> Self:
        self.auth.check_host(self.server.host)
        if self.relay_host and self.relay.tls.client_ca is None:
            self.auth.check_host(self.relay_host, "relay.host")
        return self

    @model_validator(mode="after")
    def _gateways_must_show_each_other_certificates(self) -> Self:
        if self.relay.tls.certificate is not None and self.tls.ca is None:
            raise ValueError("relay.tls needs tls.ca: other gateways are called with the certificate in tls")
        return self

    @property
    def relay_host(self) -> str:
        """Address to listen on for other gateways; empty: none."""
        if self.store.url == IN_MEMORY:
            return ""
        return self.relay.host or (self.server.host if is_loopback(self.server.host) else "")
