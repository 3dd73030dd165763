"""What ``docs/guides/deploy.md`` says can be computed or looked up, and is true."""

import re
from pathlib import Path

from typer.testing import CliRunner

from live_avatar import memory
from live_avatar.cli.main import app
from live_avatar.config import S2V_14B
from tests.helm.rendering import CHART, ROOT, named, render
from tools.chart_readme import descriptions

PAGE = (ROOT / "docs" / "guides" / "deploy.md").read_text()


def test_the_sizing_table_is_what_the_command_prints(tmp_path: Path) -> None:
    printed = CliRunner().invoke(app, ["weights", "check", str(tmp_path)]).output
    reported = re.findall(r"^(\d) x (\d) +(bf16|fp8) ([\d.]+) GB +[\d.]+ GB +([\d ]+)$", printed, flags=re.MULTILINE)
    row = r"^\| (\d) x (\d), \w+ cards? \| (bf16|fp8), ([\d.]+) GB \|((?: \d+ \|)+)$"
    written = re.findall(row, PAGE, flags=re.MULTILINE)
    assert len(reported) == 6
    assert [(*start, re.findall(r"\d+", cells)) for *start, cells in written] == [
        (*start, cells.split()) for *start, cells in reported
    ]


def test_the_sizes_of_one_session() -> None:
    height, width = memory.largest_size(S2V_14B)
    one = memory.session_memory(S2V_14B, height, width)
    assert f"{(one.window + one.sink) / memory.GB:.1f} GB of window and sink" in PAGE
    assert f"{(one.reference + one.text) / memory.GB:.1f} GB besides" in PAGE
    assert f"decoder keeps {memory.decoder_bytes(S2V_14B, height, width) / memory.GB:.1f} GB" in PAGE


def test_every_value_it_names_exists() -> None:
    known = {name for name, _ in descriptions((CHART / "values.yaml").read_text())}
    groups = {name.split(".")[0] for name in known}
    for word in re.findall(r"`([a-z][A-Za-z]*(?:\.[a-z][A-Za-z]*)+)[:`]", PAGE):
        if word.split(".")[0] in groups:
            assert word in known, word


def test_every_file_it_names_exists() -> None:
    names = re.findall(r"`((?:helm|docs|tests|live_avatar)/[\w/.-]+)`", PAGE) + re.findall(r"-f (\S+\.yaml)", PAGE)
    assert len(names) >= 4
    assert [name for name in names if not (ROOT / Path(name)).exists()] == []


def test_the_test_pod_runs_a_command_that_there_is(tmp_path: Path) -> None:
    (container,) = named(render({}), "Pod", "-test")["spec"]["containers"]
    assert container["command"] == ["python", "-m", "live_avatar.cli"]
    service = named(render({}), "Service", "-gateway")
    address = f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert f"--gateway={address}" in container["args"]
    nobody = [
        argument.replace(address, "127.0.0.1:1").replace("/tmp", str(tmp_path))
        for argument in container["args"]
        if "--ca" not in argument
    ]
    message = CliRunner().invoke(app, nobody).output
    assert "no gateway answers at 127.0.0.1:1" in message
