"""The command line: presets, overrides, and what is refused."""

from dataclasses import fields
from pathlib import Path

import pytest

from live_avatar.trainer.__main__ import COMMANDS, USAGE, main
from live_avatar.trainer.autoencoder_config import AutoencoderConfig
from live_avatar.trainer.overrides import override, pairs_of, run_reporting
from live_avatar.trainer.presets import PHASES, FlowMatchingConfig, tiny
from tests.trainer.micro import flow_config
from tests.trainer.runs import arguments


def test_options_come_in_their_own_types() -> None:
    config = override(tiny(), pairs_of(["--steps", "7", "--learning-rate=0.5", "--betas", "0.1,0.2", "--weights", "w"]))
    assert (config.steps, config.learning_rate, config.betas, config.weights) == (7, 0.5, (0.1, 0.2), Path("w"))
    assert override(AutoencoderConfig(), {"sizes": "64,128,32"}).sizes == (64, 128, 32)
    assert override(config, {"weights": "none", "train_adapter": "TRUE"}).weights is None


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--stepps", "7"], "unknown option --stepps; there are preset"),
        (["--steps", "many"], "--steps many"),
        (["--betas", "0.1"], "2 values"),
        (["--levels", "loud"], "not one of shifted_uniform, logit_normal"),
        (["--train-adapter", "maybe"], "neither true nor false"),
        (["--steps"], "--steps has no value"),
        (["steps", "7"], "'steps' is not an option"),
        (["--steps", "7", "--steps", "8"], "given twice"),
        (["--steps", "0"], "steps=0 must be positive"),
    ],
)
def test_what_is_wrong_with_an_option_is_printed(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tiny", *options]) == USAGE
    assert complaint in capsys.readouterr().out


def test_commands_are_listed_where_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    for line in ([], ["dance"]):
        assert main(line) == USAGE
        assert "prepare" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "message"), [(["--help"], "prepare"), (["export", "-h"], "--checkpoint ")])
def test_help_is_no_error(line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 0
    assert message in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_every_option_and_its_value(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    options = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    config = COMMANDS[name].config()
    assert [key for key, _ in options] == [f"--{field.name.replace('_', '-')}" for field in fields(config)]
    assert override(config, pairs_of([part for option in options for part in option])) == config


@pytest.mark.parametrize("name", PHASES)
def test_every_preset_says_what_it_trains(name: str) -> None:
    config = PHASES[name]()
    assert config.system.name in ("S2V_14B", "TINY")
    assert COMMANDS[name].config is PHASES[name]


def test_a_configuration_goes_through_a_command_line_unchanged(tmp_path: Path) -> None:
    config = flow_config(tmp_path)
    line = arguments("tiny", config)
    again = override(tiny(), pairs_of(line[1:]))
    assert isinstance(again, FlowMatchingConfig)
    assert again == config


def test_a_run_by_command_trains(tmp_path: Path) -> None:
    config = flow_config(tmp_path, steps=2)
    assert main(arguments("tiny", config)) == 0
    assert (config.output / "checkpoints" / "step-00000002").is_dir()
    assert list((config.output / "tensorboard").iterdir())


def test_an_adapter_without_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments("tiny", flow_config(tmp_path, train_adapter=True))) == USAGE
    assert "give --weights DIR" in capsys.readouterr().out


def test_a_program_of_its_own_says_in_one_line_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_reporting("python -m live_avatar.trainer.autoencoder", lambda: pairs_of(["--bogus"])) == USAGE
    assert capsys.readouterr().err == "python -m live_avatar.trainer.autoencoder: --bogus has no value\n"
    assert run_reporting("python -m live_avatar.trainer.autoencoder", lambda: pairs_of(["--steps", "1"])) == 0
