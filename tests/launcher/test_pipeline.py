"""A pipeline as processes on this machine.  What it makes is tested with the commands, in tests/cli."""

import os
from pathlib import Path

import grpc
import pytest

from live_avatar.launcher.child import LaunchError
from live_avatar.launcher.layout import parse_layout
from live_avatar.launcher.pipeline import DECODER_VARIABLES, GATEWAY_VARIABLES, LocalPipeline, Plan
from live_avatar.proxies import DIRECT
from live_avatar.services.audio_encoder.settings import AudioEncoderSettings
from live_avatar.services.denoise_stage.settings import DenoiseStageSettings
from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.settings import GatewaySettings
from live_avatar.services.vae_decoder.settings import VaeDecoderSettings
from live_avatar.serving.settings import ENV_PREFIX, Settings, env_name, leaves
from live_avatar.v1.avatar_service_pb2 import GetServerInfoRequest
from live_avatar.v1.avatar_service_pb2_grpc import AvatarServiceStub


def test_a_service_that_cannot_start_is_reported_and_nothing_is_left(tmp_path: Path) -> None:
    reported: list[str] = []
    plan = Plan(layout=parse_layout("1x4"), weights=tmp_path / "absent", logs=tmp_path / "logs")
    pipeline = LocalPipeline(plan, reported.append)
    with pytest.raises(LaunchError, match=r"vae-decoder ended with code 1; .*absent"), pipeline:
        raise AssertionError("there are no weights to start with")
    assert any("absent" in line for line in reported)
    assert not any(child.alive for child in pipeline.services.values())
    assert set(os.listdir(plan.logs)) == {f"{name}.log" for name in pipeline.services}


def test_the_gateway_alone_gets_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = ApiKey.generate().text
    monkeypatch.setenv("LIVE_AVATAR__AUTH__MODE", "keys")
    monkeypatch.setenv("LIVE_AVATAR__AUTH__BOOTSTRAP_KEY", key)
    monkeypatch.setenv("LIVE_AVATAR__QUOTAS__MAX_CONCURRENT_SESSIONS", "3")
    with LocalPipeline(Plan(layout=parse_layout("1x1"), logs=tmp_path), lambda line: None) as pipeline:
        having = {
            name
            for name, child in pipeline.services.items()
            if key.encode() in Path(f"/proc/{child.process.pid}/environ").read_bytes()
        }
        assert having == {"gateway"}
        with grpc.insecure_channel(pipeline.gateway, options=DIRECT) as channel:
            gateway = AvatarServiceStub(channel)
            metadata = (("authorization", f"Bearer {key}"),)
            assert gateway.GetServerInfo(GetServerInfoRequest(), metadata=metadata, timeout=10).session_capacity
            with pytest.raises(grpc.RpcError, match="authorization"):
                gateway.GetServerInfo(GetServerInfoRequest(), timeout=10)


def test_variables_of_the_gateway_are_those_that_no_other_service_knows() -> None:
    def variables(*settings: type[Settings]) -> set[str]:
        return {env_name(path) for one in settings for path, _ in leaves(one)}

    given_as_flags = ("PIPELINES", "DISCOVERY__", "ALLOW_SHARED_DEVICES", "PRESET_FILE")
    others = variables(AudioEncoderSettings, DenoiseStageSettings, VaeDecoderSettings)
    its_own = {
        name
        for name in variables(GatewaySettings) - others
        if not name.startswith(tuple(f"{ENV_PREFIX}{flag}" for flag in given_as_flags))
    }
    assert its_own == {name for name in variables(GatewaySettings) if name.startswith(GATEWAY_VARIABLES)}
    assert not [name for name in others if name.startswith(GATEWAY_VARIABLES)]
    of_decoder = {name for name in variables(VaeDecoderSettings) if name.startswith(DECODER_VARIABLES)}
    assert f"{ENV_PREFIX}WATERMARK__KEY" in of_decoder
    assert not of_decoder & variables(AudioEncoderSettings, DenoiseStageSettings, GatewaySettings)
