"""Reads the settings of a service: file < environment < flags, and nothing it does not know.

``load`` is the only place that looks at ``os.environ`` and ``sys.argv``.  A service declares a subclass of
``Settings`` whose fields have descriptions; nested models become dotted names.  The field ``server.port`` is
``server: {port: ...}`` in a YAML or TOML file, ``LIVE_AVATAR__SERVER__PORT`` in the environment and
``--server.port`` among the flags.  This file does not know what any setting means.
"""

import argparse
import difflib
import os
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, ClassVar, NoReturn, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

ENV_PREFIX = "LIVE_AVATAR__"
"""Two underscores: a cluster sets LIVE_AVATAR_SERVICE_HOST and its like for a Service called live-avatar."""
_EXIT_BAD_SETTINGS = 2


def _split_commas(value: object) -> object:
    if isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    return value


_Item = TypeVar("_Item")
CommaSeparated = Annotated[tuple[_Item, ...], NoDecode, BeforeValidator(_split_commas)]
"""A tuple written ``a,b,c`` in flags and environment, and as a list or as ``a,b,c`` in a file."""

Port = Annotated[int, Field(ge=0, le=65_535)]
"""0: any free port."""


class Group(BaseModel):
    """Settings that belong together; a nested model of ``Settings``."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ServerTlsSettings(Group):
    """What a server proves who it is with, and whom it lets in."""

    certificate: Path | None = Field(
        default=None,
        description="PEM file with the server's certificate and those between it and its authority; unset: plain text. "
        "All these files are read again when they change",
    )
    key: Path | None = Field(default=None, description="PEM file with the certificate's private key")
    client_ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of clients; unset: clients need no certificate",
    )
    allowed_names: CommaSeparated[str] = Field(
        default=(), description="names of which a client's certificate must have one; unset: any of client_ca"
    )

    @model_validator(mode="after")
    def _must_belong_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or none")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs certificate and key")
        if self.allowed_names and self.client_ca is None:
            raise ValueError("allowed_names needs client_ca: without it no client shows a certificate")
        return self


class ClientTlsSettings(Group):
    """How the next service is checked, and what we prove who we are with."""

    ca: Path | None = Field(
        default=None,
        description="PEM file with the authorities of the services that are called; unset: plain text. "
        "All these files are read again at each connection",
    )
    certificate: Path | None = Field(default=None, description="PEM file with our certificate for those services")
    key: Path | None = Field(default=None, description="PEM file with the certificate's private key")
    server_name: str = Field(
        default="", description="name that the certificates of those services must have; unset: the host of the address"
    )

    @model_validator(mode="after")
    def _must_belong_together(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: give both or none")
        if self.ca is None and (self.certificate is not None or self.server_name):
            raise ValueError("certificate, key and server_name need ca")
        return self


class ServerSettings(Group):
    """Where a service listens and how it ends."""

    host: str = Field(default="127.0.0.1", description="address to listen on; 0.0.0.0 or [::] for all")
    port: Port = Field(default=0, description="port of the gRPC services; 0: any free one")
    tls: ServerTlsSettings = ServerTlsSettings()
    health_host: str = Field(
        default="", description="address of the listener for health, which is always plain text; unset: that of host"
    )
    health_port: Port | None = Field(
        default=None,
        description="port of a second listener for health, up before the service has loaded; 0: any free",
    )
    max_connections: int = Field(
        default=4_096, ge=1, le=1_000_000, description="connections at the same time; further ones are closed at once"
    )
    handshake_seconds: float = Field(
        default=10.0, gt=0, le=120, description="time for a new connection to finish its TLS and HTTP/2 handshakes"
    )
    reflection: bool = Field(default=False, description="answer gRPC reflection, so that tools can list the services")
    drain_seconds: float = Field(
        default=10.0, ge=0, le=86_400, description="time for running sessions to finish after SIGTERM"
    )


class TelemetrySettings(Group):
    """What a process reports about itself, and where."""

    otlp_endpoint: str | None = Field(
        default=None, description="OTLP/gRPC collector for traces and metrics, as http://host:port or https://host:port"
    )
    prometheus_port: Port | None = Field(
        default=None, description="port of the Prometheus endpoint; 0: any free one; unset: off"
    )
    prometheus_host: str = Field(default="127.0.0.1", description="address of the Prometheus endpoint")
    service_name: str | None = Field(
        default=None, description="service.name in traces and metrics; unset: the service's own"
    )
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        default="info", description="least severe log line: debug, info, warning or error"
    )


class Settings(BaseSettings):
    """Base of every service's settings."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=True,
    )

    former_names: ClassVar[Mapping[str, str]] = {}
    """Dotted names that fields had before they were renamed, with those of now: accepted like these."""

    server: ServerSettings = ServerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What it is given and nothing else: ``load`` reads the sources one by one, to name them in errors."""
        return (init_settings,)


_S = TypeVar("_S", bound=Settings)
_Fields = Mapping[str, FieldInfo]


def load(settings_class: type[_S], argv: Sequence[str] | None = None, *, program: str) -> _S:
    """The settings of this process; does not return where it cannot or need not.

    Flags beside one per field: ``--config FILE`` (.yaml, .yml, .toml), ``--print-config`` (the merged settings as
    JSON, secrets masked, exit 0) and ``--help``.

    Args:
        settings_class: the fields to fill.
        argv: flags without the program's name; None: those of this process.
        program: name in help and errors.

    Raises:
        SystemExit: code 2 with one readable message on stderr, or code 0 after help or printing.
    """
    fields = dict(leaves(settings_class))
    flags = vars(_parser(settings_class, program, fields).parse_args(argv))
    try:
        settings = _merge(settings_class, fields, flags)
    except _BadSettingsError as error:
        _fail(program, str(error))
    if flags["print_config"]:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        raise SystemExit(0)
    return settings


def env_name(path: str) -> str:
    """Environment variable of the field at a dotted ``path``."""
    return ENV_PREFIX + path.replace(".", "__").upper()


def flag_name(path: str) -> str:
    """Flag of the field at a dotted ``path``."""
    return "--" + path.replace("_", "-")


class _BadSettingsError(ValueError):
    """A fault in the settings; the message is for the person who wrote them."""


def _merge(settings_class: type[_S], fields: _Fields, flags: Mapping[str, Any]) -> _S:
    layers = {
        "the file": _from_file(flags["config"], fields, settings_class.former_names) if flags["config"] else {},
        "the environment": _from_environment(settings_class, fields),
        "the flags": {path: flags[path] for path in fields if flags[path] is not None},
    }
    origins = {path: name for name, values in layers.items() for path in values}
    merged: dict[str, Any] = {}
    for values in layers.values():
        for path, value in values.items():
            _put(merged, path, value)
    try:
        return settings_class(**merged)
    except ValidationError as error:
        raise _BadSettingsError(_explain(error, fields, origins)) from None


def _from_file(path: Path, fields: _Fields, former_names: Mapping[str, str]) -> dict[str, Any]:
    if path.suffix not in {".toml", ".yaml", ".yml"}:
        raise _BadSettingsError(f"--config {path}: the name must end in .yaml, .yml or .toml")
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise _BadSettingsError(f"--config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict | NoneType):
        raise _BadSettingsError(f"--config {path}: holds a {type(values).__name__}, not names with values")
    flat = {former_names.get(name, name): value for name, value in _flatten(values or {}, fields).items()}
    for name in flat:
        if name not in fields:
            raise _BadSettingsError(f"--config {path}: unknown setting {name}{_guess(name, fields)}")
    return flat


def _from_environment(settings_class: type[Settings], fields: _Fields) -> dict[str, Any]:
    former = {env_name(old): path for old, path in settings_class.former_names.items()}
    known = {env_name(path): path for path in fields} | former
    for name in sorted(os.environ):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            raise _BadSettingsError(f"the environment: unknown variable {name}{_guess(name.upper(), known)}")
    renamed = {former[name.upper()]: value for name, value in os.environ.items() if name.upper() in former and value}
    try:
        return renamed | _flatten(EnvSettingsSource(settings_class)(), fields)
    except SettingsError as error:
        raise _BadSettingsError(f"the environment: {error}") from None


def _flatten(values: Mapping[str, Any], fields: _Fields, prefix: str = "") -> dict[str, Any]:
    """Nested ``values`` by dotted names; what is no group of settings stays whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and path not in fields:
            flat |= _flatten(value, fields, f"{path}.")
        else:
            flat[path] = value
    return flat


def _put(nested: dict[str, Any], path: str, value: Any) -> None:
    *groups, name = path.split(".")
    for group in groups:
        nested = nested.setdefault(group, {})
    nested[name] = value


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every field that holds a value, by its dotted name."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from leaves(info.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, info


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the page of usage."""

    def error(self, message: str) -> NoReturn:
        _fail(self.prog, f"the flags: {message}; --help lists what there is")


def _parser(settings_class: type[Settings], program: str, fields: _Fields) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        description=(settings_class.__doc__ or "").split("\n")[0],
        epilog="A flag wins over the environment, which wins over the file.",
        allow_abbrev=False,
        usage="%(prog)s [--config FILE] [--print-config] [flags]",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML or TOML")
    parser.add_argument("--print-config", action="store_true", help="print the merged settings as JSON and exit")
    for path, info in fields.items():
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if info.annotation is bool else {}
        value = path.rpartition(".")[2].upper()
        parser.add_argument(
            flag_name(path), dest=path, metavar=value, help=_help(path, info).replace("%", "%%"), **switch
        )
    for old, path in settings_class.former_names.items():
        parser.add_argument(flag_name(old), dest=path, help=argparse.SUPPRESS)
    return parser


def _help(path: str, info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True, validated_data={})
    note = "required" if info.is_required() else f"default: {'unset' if default is None else default}"
    return f"{info.description or ''} ({note}; {env_name(path)})"


def _explain(error: ValidationError, fields: _Fields, origins: Mapping[str, str]) -> str:
    """Every fault: where, what, and the value with its origin unless it is secret."""
    lines = []
    for fault in error.errors():
        path = ".".join(str(part) for part in fault["loc"])
        leaf = next((field for field in fields if f"{path}.".startswith(f"{field}.")), None)
        note = fault["msg"].removeprefix("Value error, ")
        if leaf is None or fault["type"] == "missing":
            # A rule over several fields, or a value that nobody gave: there is none to show.
            lines.append(f"{path}: {note}" if path else note)
        elif _is_secret(fields[leaf]):
            lines.append(f"{leaf}: {note} ({origins.get(leaf, 'default')})")
        else:
            lines.append(f"{leaf}: {note}, not {fault['input']!r} ({origins.get(leaf, 'default')})")
    return "; ".join(dict.fromkeys(lines))


def _is_secret(info: FieldInfo) -> bool:
    return SecretStr in (info.annotation, *get_args(info.annotation))


def _guess(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _fail(program: str, message: str) -> NoReturn:
    sys.stderr.write(f"{program}: {message}\n")
    raise SystemExit(_EXIT_BAD_SETTINGS)
