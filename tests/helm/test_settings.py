"""Every rendered configuration is read by the settings class of the service that gets it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from live_avatar.config import TINY, preset_json
from live_avatar.services.audio_encoder.settings import AudioEncoderSettings
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings
from live_avatar.services.gateway.access.settings import AuthMode
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.provenance.settings import DisclosureSettings, SigningSettings
from live_avatar.services.gateway.quotas.settings import QuotaSettings
from live_avatar.services.gateway.sessions.policy import LiveRules
from live_avatar.services.gateway.settings import GatewaySettings, StoreSettings
from live_avatar.services.gateway.usage.settings import UsageSettings
from live_avatar.services.vae_decoder.settings import VaeDecoderSettings
from live_avatar.serving.pipeline_settings import PipelineSettings
from live_avatar.serving.settings import Settings, load
from tests.helm.matrix import combinations, samples
from tests.helm.rendering import (
    CHART,
    SECRETS,
    Document,
    RefusedError,
    Values,
    arguments,
    merged,
    named,
    of_kind,
    pods,
    render,
    render_texts,
)

CLASSES: dict[str, type[Settings]] = {
    "audio-encoder": AudioEncoderSettings,
    "denoise-stage": DenoiseStageSettings,
    "vae-decoder": VaeDecoderSettings,
    "gateway": GatewaySettings,
}
SAMPLES = samples()
TOKEN_KEY = "LIVE_AVATAR__TOKEN_KEY"
OUTSIDE = {
    "token-key": "a key of the operator's",
    "previous-token-key": "the key before that",
    "api-key": f"la_keyofanoperator_{'o' * 43}",
    "url": "redis://:secret@redis:6379/0",
    "webhook-secret": "0123456789abcdef",
    "watermark-key": "a key of sixteen bytes or more",
}
"""What Secrets hold that the chart does not make."""
POD_IP = "10.1.2.3"


def secrets_of(documents: list[Document]) -> dict[str, dict[str, str]]:
    return {one["metadata"]["name"]: one["stringData"] for one in of_kind(documents, "Secret")}


def read(container: Document, documents: list[Document], monkeypatch: pytest.MonkeyPatch, preset: str = "") -> Any:
    """The settings a container would have; ``preset`` stands for the mounted file."""
    service = container["image"].rpartition("/")[2].partition(":")[0].removeprefix("live-avatar-")
    with monkeypatch.context() as environment:
        for one in container.get("env", []):
            environment.setenv(one["name"], one["value"] if "value" in one else _given(one["valueFrom"], documents))
        flags = [flag.replace("/etc/live-avatar/preset.json", preset) for flag in container["args"]]
        flags = [flag.replace("$(POD_IP)", POD_IP) for flag in flags]
        return load(CLASSES[service], flags, program=service)


def _given(source: Document, documents: list[Document]) -> str:
    """What the cluster puts into a variable."""
    if "fieldRef" in source:
        return {"status.podIP": POD_IP}[source["fieldRef"]["fieldPath"]]
    key = source["secretKeyRef"]
    return secrets_of(documents).get(key["name"], OUTSIDE)[key["key"]]


def services_of(documents: list[Document]) -> list[Document]:
    return [
        container
        for owner, _, pod in pods(of_kind(documents, "StatefulSet", "Deployment"))
        if not owner.endswith("-redis")
        for container in pod["containers"]
    ]


def test_gateways_reach_each_other_with_certificates_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = render({})
    (gateway,) = (one for one in services_of(documents) if one["name"] == "gateway")
    relay = read(gateway, documents, monkeypatch).relay
    ports = {one["name"]: one["containerPort"] for one in gateway["ports"]}
    assert relay.address == f"{POD_IP}:{ports['relay']}"
    assert relay.port == ports["relay"]
    assert relay.tls.client_ca is not None
    assert relay.tls.allowed_names == (relay.server_name,)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_service_reads_its_configuration(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = render(SAMPLES[name])
    containers = services_of(documents)
    assert len(containers) >= 4
    for container in containers:
        settings = read(container, documents, monkeypatch)
        ports = {port["name"].partition("-")[0]: port["containerPort"] for port in container["ports"]}
        server = settings.server
        reported = {"grpc": server.port, "health": server.health_port, "metrics": settings.telemetry.prometheus_port}
        if container["name"] == "gateway" and settings.relay.address:
            reported["relay"] = settings.relay.port
        assert reported == ports


def test_every_service_of_the_matrix_reads_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    for _, values in combinations():
        documents = render(values)
        for container in services_of(documents):
            read(container, documents, monkeypatch)


def test_a_wrong_flag_would_be_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    documents = render(SAMPLES["pvc"])
    for container in services_of(documents):
        with pytest.raises(SystemExit):
            read({**container, "args": [*container["args"], "--no-such-flag=1"]}, documents, monkeypatch)
    assert "--no-such-flag" in capsys.readouterr().err


def gateway_of(values: Values, monkeypatch: pytest.MonkeyPatch) -> GatewaySettings:
    documents = render(values)
    (container,) = named(documents, "Deployment", "-gateway")["spec"]["template"]["spec"]["containers"]
    settings = read(container, documents, monkeypatch)
    assert isinstance(settings, GatewaySettings)
    return settings


def test_defaults_of_chart_and_gateway_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = gateway_of(SAMPLES["pvc"], monkeypatch)
    plain = GatewaySettings(pipelines=("a:1/b:2",))
    assert (settings.limits, settings.live) == (plain.limits, plain.live)
    assert (settings.quotas, settings.usage) == (plain.quotas, plain.usage)
    assert settings.store.model_copy(update={"url": plain.store.url}) == plain.store


def test_defaults_of_chart_and_services_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = render(SAMPLES["pvc"])
    plain = VaeDecoderSettings()
    for container in services_of(documents)[1:]:
        settings = read(container, documents, monkeypatch)
        if isinstance(settings, GatewaySettings):
            continue
        for name in ("max_sessions", "memory_fraction", "block_credits", "service_deadline_seconds"):
            assert getattr(settings, name) == getattr(plain, name), f"{container['name']}: {name}"
        if isinstance(settings, AudioEncoderSettings):
            assert (
                settings.max_whole_file_seconds == AudioEncoderSettings.model_fields["max_whole_file_seconds"].default
            )


BOUNDS = {"ge": "minimum", "le": "maximum", "gt": "exclusiveMinimum", "lt": "exclusiveMaximum"}


def bounds_of(section: type[BaseModel]) -> dict[str, dict[str, float]]:
    """Bounds of the numbers of a group of settings, by the chart's name of each."""
    return {
        re.sub(r"_(.)", lambda match: match[1].upper(), name): {
            BOUNDS[bound]: getattr(constraint, bound)
            for constraint in field.metadata
            for bound in BOUNDS
            if hasattr(constraint, bound)
        }
        for name, field in section.model_fields.items()
        if field.annotation in (int, float)
    }


@pytest.mark.parametrize(
    ("path", "section"),
    [
        (("gateway", "limits"), Limits),
        (("gateway", "live"), LiveRules),
        (("gateway", "quotas"), QuotaSettings),
        (("gateway", "usage"), UsageSettings),
        (("gateway", "store"), StoreSettings),
        (("pipeline",), PipelineSettings),
    ],
)
def test_bounds_of_chart_and_settings_are_the_same(path: tuple[str, ...], section: type[BaseModel]) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for name in path:
        schema = schema["properties"][name]
    settings, compared = bounds_of(section), 0
    for name, value in schema["properties"].items():
        if name in settings:
            assert {bound: value[bound] for bound in BOUNDS.values() if bound in value} == settings[name], name
            compared += 1
    assert compared >= 2


def test_fast_ways_reach_stages_and_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = render(SAMPLES["fast"])
    for container in services_of(documents):
        settings = read(container, documents, monkeypatch)
        if isinstance(settings, DenoiseStageSettings | VaeDecoderSettings):
            assert (settings.forward, settings.warm_sizes) == ("compiled", ("704x384", "640x448"))
        if isinstance(settings, DenoiseStageSettings):
            assert (settings.linear, settings.kv, str(settings.fp8_report)) == ("fp8", "fp8", "/weights/fp8.json")


def test_gateways_look_where_the_pipelines_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = gateway_of(SAMPLES["pvc"], monkeypatch).discovery
    documents = render(SAMPLES["pvc"])
    service = named(documents, "Service", "-pipeline")
    assert asks.service == f"ns/{service['metadata']['name']}"
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    head, decoder = ports[asks.head_port_name], ports[asks.decoder_port_name]
    assert gateway_of(SAMPLES["dns"], monkeypatch).discovery.dns == f"rel-live-avatar-pipeline:{head}/{decoder}"
    static = gateway_of(SAMPLES["static"], monkeypatch)
    hosts = [f"rel-live-avatar-pipeline-{index}.rel-live-avatar-pipeline" for index in range(3)]
    assert static.pipelines == tuple(f"{host}:{head}/{host}:{decoder}" for host in hosts)
    lease = named(documents, "Role", "-gateway")["rules"][-1]["resourceNames"]
    assert asks.lease == f"ns/{lease[0]}"


def test_quotas_and_the_webhook_reach_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = {"url": "https://billing.example/usage", "existingSecret": "usage-webhook"}
    quotas = {"maxMediaSecondsPerMonth": 2**50, "maxConcurrentSessions": 3}
    values = merged(SAMPLES["pvc"], {"gateway": {"quotas": quotas, "usage": {"webhook": webhook}}})
    settings = gateway_of(values, monkeypatch)
    assert settings.quotas == QuotaSettings(max_media_seconds_per_month=2**50, max_concurrent_sessions=3)
    assert (settings.usage.webhook_url, settings.usage.webhook_secret) == (
        webhook["url"], SecretStr(OUTSIDE["webhook-secret"]),
    )  # fmt: skip
    for half in ({"url": webhook["url"], "existingSecret": ""}, {"url": "", "existingSecret": "usage-webhook"}):
        with pytest.raises(RefusedError, match="belong together"):
            render(merged(SAMPLES["pvc"], {"gateway": {"usage": {"webhook": half}}}))


def test_key_disclosure_and_mark_reach_their_services(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = gateway_of(SAMPLES["pvc"], monkeypatch)
    assert (plain.signing, plain.disclosure) == (SigningSettings(), DisclosureSettings())
    gateway = {"signing": {"existingSecret": "media-key"}, "disclosure": {"text": "made: by AI"}}
    decoder = {"watermark": {"existingSecret": "mark", "deployment": 16_777_215}}
    documents = render(merged(SAMPLES["pvc"], {"gateway": gateway, "vaeDecoder": decoder}))
    containers = {one["name"]: one for one in services_of(documents)}
    settings = read(containers["gateway"], documents, monkeypatch)
    folder = Path("/etc/live-avatar-signing")
    assert settings.signing == SigningSettings(certificate=folder / "certificate.pem", key=folder / "key.pem")
    assert settings.disclosure.text == "made: by AI"
    assert {"name": "signing", "mountPath": str(folder), "readOnly": True} in containers["gateway"]["volumeMounts"]
    mark = read(containers["vae-decoder"], documents, monkeypatch).watermark
    assert (mark.key, mark.deployment) == (SecretStr(OUTSIDE["watermark-key"]), 16_777_215)


def test_store_and_tokens_come_from_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gateway_of(SAMPLES["auth-made"], monkeypatch)
    assert made.token_key is not None
    assert len(made.token_key.get_secret_value()) >= 32
    assert made.store.url.startswith("redis://:")
    given = gateway_of(SAMPLES["auth-given"], monkeypatch)
    assert given.token_key is not None
    assert given.token_key.get_secret_value() == OUTSIDE["token-key"]
    assert given.store.url == "redis://:s3cret@rel-live-avatar-redis:6379/0"
    assert gateway_of(SAMPLES["auth-external"], monkeypatch).store.url == OUTSIDE["url"]
    assert gateway_of(SAMPLES["auth-none"], monkeypatch).store.url == "memory://"


def test_tokens_of_an_issuer_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    oidc = {"issuer": "https://issuer.example.com/", "audience": "live-avatar,other", "tenantClaim": "org.tenant"}
    chosen = {"auth": {"mode": "keys,oidc", "oidc": {**oidc, "scopePrefix": "live-avatar:", "allowOperator": True}}}
    made = gateway_of(merged(SAMPLES["auth-made"], chosen), monkeypatch).auth
    assert made.modes == {AuthMode.KEYS, AuthMode.OIDC}
    assert (made.oidc.issuer, made.oidc.audience) == ("https://issuer.example.com/", ("live-avatar", "other"))
    assert (made.oidc.tenant_claim, made.oidc.scope_prefix, made.oidc.allow_operator) == (
        "org.tenant",
        "live-avatar:",
        True,
    )
    with_ca = merged(SAMPLES["auth-made"], chosen, {"auth": {"oidc": {"caConfigMap": "company-ca"}}})
    assert gateway_of(with_ca, monkeypatch).auth.oidc.ca_file == Path("/etc/live-avatar-oidc/ca.crt")
    volumes = named(render(with_ca), "Deployment", "-gateway")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "oidc-ca", "configMap": {"name": "company-ca"}} in volumes
    assert gateway_of(SAMPLES["auth-made"], monkeypatch).auth.oidc.issuer == ""


def test_callers_are_authenticated_unless_the_operator_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    made = gateway_of(SAMPLES["auth-made"], monkeypatch)
    assert made.auth.modes == {AuthMode.KEYS}
    assert made.auth.bootstrap_key is not None and made.previous_token_key is None
    given = gateway_of(SAMPLES["auth-given"], monkeypatch)
    assert given.auth.bootstrap_key is not None and given.previous_token_key is not None
    assert given.auth.bootstrap_key.get_secret_value() == OUTSIDE["api-key"]
    assert given.previous_token_key.get_secret_value() == OUTSIDE["previous-token-key"]
    none = gateway_of(merged(SAMPLES["auth-made"], {"auth": {"mode": "none", "insecure": True}}), monkeypatch)
    assert not none.auth.modes and none.auth.bootstrap_key is None
    owner = gateway_of(merged(SAMPLES["auth-made"], {"auth": {"operatorTenant": "ops"}}), monkeypatch)
    assert owner.auth.operator_tenant == "ops"


def test_the_test_of_a_release_has_the_operators_key() -> None:
    documents = render(SAMPLES["auth-made"])
    (container,) = named(documents, "Pod", "-test")["spec"]["containers"]
    (key,) = (one["valueFrom"]["secretKeyRef"] for one in container["env"] if one["name"] == "LIVE_AVATAR_API_KEY")
    assert secrets_of(documents)[key["name"]][key["key"]].startswith("la_")


def test_the_valkey_has_the_password_that_gateways_use() -> None:
    (secret,) = (one for name, one in secrets_of(render(SAMPLES["pvc"])).items() if name.endswith("-redis"))
    assert f'requirepass "{secret["password"]}"' in secret["valkey.conf"]
    assert f":{secret['password']}@" in secret["url"]


def test_a_system_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = json.loads(preset_json(TINY)) | {"name": "MINE"}
    documents = render(merged(SAMPLES["random"], {"model": {"preset": "MINE", "description": described}}))
    mounted = named(documents, "ConfigMap", "-preset")["data"]["preset.json"]
    file = tmp_path / "preset.json"
    file.write_text(mounted)
    assert json.loads(mounted) == described
    for container in services_of(documents):
        settings = read(container, documents, monkeypatch, str(file))
        name = settings.preset_file if isinstance(settings, GatewaySettings) else settings.preset
        assert str(name) == str(file)


def test_drain_fits_into_the_time_before_the_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = render(merged(SAMPLES["pvc"], {"drain": {"seconds": 1000, "preStopSeconds": 7, "marginSeconds": 11}}))
    for owner, _, pod in pods(of_kind(documents, "StatefulSet", "Deployment")):
        if owner.endswith("-redis"):
            continue
        for container in pod["containers"]:
            assert read(container, documents, monkeypatch).server.drain_seconds == 1000
            assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 7}}}
        assert pod["terminationGracePeriodSeconds"] == 1018


def test_jobs_of_training_take_options_that_exist() -> None:
    from live_avatar.trainer import presets
    from live_avatar.trainer.overrides import override, pairs_of

    documents = render(SAMPLES["everything"])
    prepare = named(documents, "Job", "prepare-1")["spec"]["template"]["spec"]["containers"][0]
    config = override(presets.PrepareConfig(), pairs_of(prepare["args"][1:]))
    assert (config.count, str(config.input), config.clips_per_shard) == (8, "/videos", 8)
    training = named(documents, "Job", "trainer-1")["spec"]["template"]["spec"]["containers"][0]
    at = training["args"].index("--module")
    module, phase, *options = training["args"][at + 1 :]
    run = override(presets.PHASES[phase](), pairs_of(options))
    assert (module, run.steps, run.learning_rate, run.device) == ("live_avatar.trainer", 10, 2e-5, "cuda")
    assert arguments(training)["nproc-per-node"] == "8"


def test_two_renderings_have_the_same_secrets() -> None:
    given: Values = {
        "auth": {"tokenKey": "k" * 32, "apiKey": OUTSIDE["api-key"]},
        "redis": {"own": {"password": "a-password"}},
        "tls": SECRETS["tls"],
    }
    for upgrade in (False, True):
        assert render_texts(given, secrets={}) == render_texts(given, secrets={}, upgrade=upgrade)
    (key,) = (one for name, one in secrets_of(render(given)).items() if name.endswith("-gateway"))
    assert (key["token-key"], key["api-key"]) == ("k" * 32, OUTSIDE["api-key"])


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (
            {},
            "auth.tokenKey or auth.existingSecret; auth.apiKey or auth.existingSecret; redis.own.password or redis",
        ),
        ({"auth": {"tokenKey": "short"}}, "tokenKey"),
        ({"redis": {"own": {"password": "given"}}}, "auth.tokenKey or auth.existingSecret"),
        (
            {"auth": {"tokenKey": "k" * 32}, "redis": {"own": {"password": "given"}}},
            "auth.apiKey or auth.existingSecret",
        ),
        ({"auth": {"apiKey": "la_short_key"}}, "apiKey"),
        ({"auth": {"mode": "none"}}, "auth.insecure"),
        ({"auth": {"mode": "oidc"}}, "needs issuer and audience"),
        ({"auth": {"mode": "oidc", "oidc": {"issuer": "https://a", "audience": "b"}}}, "exactly one of tenant"),
        ({"auth": {"mode": "oidc", "oidc": {"issuer": "http://a"}}}, "issuer"),
        ({"auth": {"oidc": {"algorithms": "HS256"}}}, "algorithms"),
        ({"auth": {"mode": "everybody"}}, "mode"),
        ({"auth": {"existingSecret": "given"}}, "redis.own.password or redis.own.existingSecret"),
    ],
)
def test_secrets_that_each_rendering_would_make_anew_are_refused(given: Values, missing: str) -> None:
    with pytest.raises(RefusedError, match=missing):
        render_texts(given, secrets={})


def test_secrets_of_ones_own_are_used_and_none_is_made() -> None:
    given: Values = {
        "auth": {"existingSecret": "tokens"},
        "redis": {"own": {"existingSecret": "valkey"}},
        "tls": SECRETS["tls"],
    }
    texts = render_texts(given, secrets={})
    assert "kind: Secret" not in "".join(texts.values())
    gateway = next(text for path, text in texts.items() if path.endswith("deployment.yaml"))
    assert "name: valkey" in gateway and "name: tokens" in gateway
