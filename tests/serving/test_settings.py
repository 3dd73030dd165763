"""File < environment < flags, and nothing that nobody knows."""

import json
import os
import re
from pathlib import Path
from typing import ClassVar, Self

import pytest
from pydantic import Field, SecretStr, ValidationError, model_validator

from live_avatar.serving.settings import (
    CommaSeparated,
    Group,
    ServerSettings,
    Settings,
    env_name,
    flag_name,
    load,
)


class Inner(Group):
    """A group in a group."""

    depth: int = Field(default=1, ge=0, description="how deep")


class Outer(Group):
    """A group."""

    inner: Inner = Inner()


class Toy(Settings):
    """Settings of a toy."""

    steps: CommaSeparated[int] = Field(default=(0,), description="steps, 100 % of them")
    weights: Path | None = Field(default=None, description="folder of weights")
    secret: SecretStr | None = Field(default=None, min_length=4, description="password of the store")
    outer: Outer = Outer()


class Demanding(Settings):
    """Settings with one that has no default."""

    next_hop: str = Field(description="address of the next service")


class Ruled(Settings):
    """Settings with a rule over two of them."""

    low: int = Field(default=0, description="least")
    high: int = Field(default=9, description="most")
    password: SecretStr = Field(default=SecretStr(""), description="password of the store")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self


LEAVES = {
    "server.host", "server.port", "server.health_host", "server.health_port", "server.reflection",
    "server.drain_seconds", "server.tls.certificate", "server.tls.key", "server.tls.client_ca",
    "server.tls.allowed_names", "server.max_connections", "server.handshake_seconds",
    "telemetry.otlp_endpoint", "telemetry.prometheus_port", "telemetry.prometheus_host", "telemetry.service_name",
    "telemetry.log_level", "steps", "weights", "secret", "outer.inner.depth",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("LIVE_AVATAR__"):
            monkeypatch.delenv(name)


def fails(capsys: pytest.CaptureFixture[str], *argv: str, kind: type[Settings] = Toy) -> str:
    """The one line on stderr with which ``load`` gives up."""
    with pytest.raises(SystemExit) as caught:
        load(kind, argv, program="toy")
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("toy: ")
    assert err.count("\n") == 1
    return err


def written(folder: Path, text: str, name: str = "toy.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_defaults() -> None:
    toy = load(Toy, [], program="toy")
    assert toy == Toy()
    assert (toy.server, toy.steps, toy.outer.inner.depth) == (ServerSettings(), (0,), 1)


def test_flags_win_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path, "server: {port: 1, host: a, drain_seconds: 7}\nouter: {inner: {depth: 1}}\n")
    monkeypatch.setenv("LIVE_AVATAR__SERVER__PORT", "2")
    monkeypatch.setenv("LIVE_AVATAR__SERVER__HOST", "b")
    monkeypatch.setenv("LIVE_AVATAR__OUTER__INNER__DEPTH", "2")
    toy = load(Toy, ["--config", config, "--server.port", "3"], program="toy")
    assert (toy.server.port, toy.server.host, toy.server.drain_seconds, toy.outer.inner.depth) == (3, "b", 7, 2)


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    yaml = written(tmp_path, "steps: [1, 2]\nserver:\n  port: 5\n")
    toml = written(tmp_path, "steps = [1, 2]\n[server]\nport = 5\n", "toy.toml")
    first, second = (load(Toy, ["--config", path], program="toy") for path in (yaml, toml))
    assert first == second
    assert (first.steps, first.server.port) == ((1, 2), 5)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}"])
def test_empty_file_is_no_fault(tmp_path: Path, text: str) -> None:
    assert load(Toy, ["--config", written(tmp_path, text)], program="toy") == Toy()


@pytest.mark.parametrize(("text", "steps"), [("0", (0,)), ("0,1", (0, 1)), (" 2 , 3,", (2, 3)), ("", ())])
def test_lists_are_written_with_commas(text: str, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(Toy, [f"--steps={text}"], program="toy").steps == steps
    if text:
        monkeypatch.setenv("LIVE_AVATAR__STEPS", text)
        assert load(Toy, [], program="toy").steps == steps


def test_empty_variable_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_AVATAR__SERVER__PORT", "")
    assert load(Toy, [], program="toy").server.port == 0


@pytest.mark.parametrize(
    ("argv", "reflection"),
    [(["--server.reflection"], True), (["--server.reflection=false"], False), (["--server.reflection", "true"], True)],
)
def test_switches(argv: list[str], reflection: bool) -> None:
    assert load(Toy, argv, program="toy").server.reflection is reflection


def test_variables_of_a_cluster_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_AVATAR_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("LIVE_AVATAR_PORT", "tcp://10.0.0.1:80")
    assert load(Toy, [], program="toy") == Toy()


def test_unknown_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--server.prot" in fails(capsys, "--server.prot", "3")


def test_flags_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--weight" in fails(capsys, "--weight", "x")


def test_unknown_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_AVATAR__SERVER__PROT", "3")
    assert "LIVE_AVATAR__SERVER__PROT; did you mean LIVE_AVATAR__SERVER__PORT?" in fails(capsys)


@pytest.mark.parametrize("text", ["server: {prot: 3}", "serwer: {port: 3}", "server: 3", "steps: [1]\nextra: 1"])
def test_unknown_key_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    assert "unknown setting" in fails(capsys, "--config", written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "- 1"),
        ("a.yaml", "word"),
        ("a.yaml", "a: [1"),
        ("a.toml", "a = "),
        ("a.json", "{}"),
        ("a.yaml", "\0"),
    ],
)
def test_file_that_cannot_be_read(capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str) -> None:
    assert name in fails(capsys, "--config", written(tmp_path, text, name))


def test_missing_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "No such file" in fails(capsys, "--config", str(tmp_path / "none.yaml"))


def test_yaml_makes_no_objects(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = "weights: !!python/object/apply:os.getcwd []"
    assert "could not determine a constructor" in fails(capsys, "--config", written(tmp_path, text))


def test_bad_values_are_all_named_with_value_and_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVE_AVATAR__SERVER__PORT", "99999")
    line = fails(capsys, "--steps", "1,two")
    assert "server.port" in line
    assert "'99999' (the environment)" in line
    assert "steps" in line
    assert "'two' (the flags)" in line


def test_missing_value_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert "next_hop" in fails(capsys, kind=Demanding)


def test_broken_rule_over_several_settings_shows_its_message_alone(capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "--low", "10", "--password", "xyz-xyz", kind=Ruled)
    assert line == "toy: low 10 is above high 9\n"


def test_secrets_are_shown_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    assert "xyz" not in fails(capsys, "--secret", "xyz")
    with pytest.raises(SystemExit):
        load(Toy, ["--secret", "longer-xyz", "--print-config"], program="toy")
    assert "longer-xyz" not in capsys.readouterr().out


def test_print_config_prints_the_merged_settings_as_json(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVE_AVATAR__SERVER__HOST", "b")
    config = written(tmp_path, "weights: /models/tiny")
    with pytest.raises(SystemExit) as caught:
        load(Toy, ["--print-config", "--config", config, "--steps", "1,2"], program="toy")
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert err == ""
    assert (printed["server"]["host"], printed["weights"], printed["steps"]) == ("b", "/models/tiny", [1, 2])
    assert Toy.model_validate(printed) == load(Toy, ["--config", config, "--steps", "1,2"], program="toy")


def test_help_lists_every_flag_with_description_and_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as caught:
        load(Toy, ["--help"], program="toy")
    assert caught.value.code == 0
    lines = re.split(r"\n  (?=--)", capsys.readouterr().out)
    for path in LEAVES:
        (line,) = [line for line in lines if line.startswith(f"{flag_name(path)} ")]
        assert env_name(path) in line
        assert "default" in line
    assert any("steps, 100 % of them" in line for line in lines)
    assert sum("LIVE_AVATAR__" in line for line in lines) == len(LEAVES)


def test_direct_construction_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVE_AVATAR__SERVER__PORT", "5")
    assert Toy().server.port == 0


def test_settings_do_not_change_under_a_running_service() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Toy().weights = Path("/other")


class Renamed(Settings):
    """A service with a setting that had another name."""

    former_names: ClassVar = {"outer_depth": "inner_depth"}

    inner_depth: int = Field(default=1, ge=0, description="how deep")


def test_former_names_are_accepted_wherever_names_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = written(tmp_path, "outer_depth: 2\n")
    assert load(Renamed, ["--config", config], program="toy").inner_depth == 2
    monkeypatch.setenv("LIVE_AVATAR__OUTER_DEPTH", "3")
    assert load(Renamed, ["--config", config], program="toy").inner_depth == 3
    monkeypatch.setenv("LIVE_AVATAR__INNER_DEPTH", "4")
    assert load(Renamed, [], program="toy").inner_depth == 4
    assert load(Renamed, ["--outer-depth", "5"], program="toy").inner_depth == 5


def test_a_bad_value_under_a_former_name_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert "inner_depth" in fails(capsys, "--outer-depth", "-1", kind=Renamed)
