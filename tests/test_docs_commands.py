"""Commands, options, targets and files that documents name are there, and programs are shown as they are."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from live_avatar.cli.main import app
from tests.test_docs import ROOT, documents

_BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(
    r"(?:live_avatar|services|trainer|tests|benchmarks|evaluation|tools|helm|protos|docs|examples|findings)/[\w./-]*\w/?"
)
_NAME = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")


def lines() -> Iterator[tuple[str, str]]:
    """Every line of code in documents: blocks, indented blocks and spans, with the page's name."""
    for page in documents():
        text, name = page.read_text(), str(page.relative_to(ROOT))
        for block in _BLOCK.findall(text):
            yield from ((name, line.strip()) for line in block.splitlines())
        rest = _BLOCK.sub("", text)
        yield from ((name, line.strip()) for line in rest.splitlines() if line.startswith("    "))
        yield from ((name, span) for span in _SPAN.findall(rest))


def words(line: str, program: str) -> list[str] | None:
    """What follows ``program`` in a line of a shell, up to a comment; None where it does not begin with it."""
    line = line.removeprefix(".venv/bin/").partition(" #")[0]
    if not line.startswith(f"{program} "):
        return None
    try:
        return shlex.split(line)[len(program.split()) :]
    except ValueError:
        return line.split()[len(program.split()) :]


def test_commands_and_options_exist() -> None:
    found, wrong = 0, []
    for page, line in lines():
        given = words(line, "live-avatar")
        if given and not given[0].startswith("-"):
            found += 1
            wrong += [f"{page}: {line}: {fault}" for fault in faults(given)]
    assert found > 20
    assert wrong == []


def faults(given: list[str]) -> Iterator[str]:
    """Commands and options in ``given`` that ``live-avatar`` does not have."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands") and given and not given[0].startswith("-"):
        name, *given = given
        if name not in command.commands:
            yield f"no command {name}"
            return
        command = command.commands[name]
    known = {"--help", *(opt for param in command.params for opt in (*param.opts, *param.secondary_opts))}
    for word in given:
        if word in ("|", "&&", ">"):
            return
        option = word.partition("=")[0]
        if option.startswith("--") and option not in known:
            yield f"no option {option}"


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (["weights", "chek"], ["no command chek"]),
        (["up", "--ports", "1"], ["no option --ports"]),
        (["generate", "--out", "a.mp4", "|", "ffplay", "--x"], []),
    ],
)
def test_faults_are_found(given: list[str], fault: list[str]) -> None:
    assert list(faults(given)) == fault


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(page, given[0]) for page, line in lines() if (given := words(line, "make"))}
    wrong = {(page, name) for page, name in named if name.islower() and name not in targets}
    assert len(named) > 10
    assert wrong == set()


def test_modules_exist() -> None:
    named = {(page, given[0]) for page, line in lines() if (given := words(line, "python -m"))}
    ours = {(page, name) for page, name in named if _NAME.fullmatch(name)}
    assert len(ours) > 8
    assert {(page, name) for page, name in ours if importlib.util.find_spec(name) is None} == set()


def test_files_exist() -> None:
    named = {(page, path) for page, line in lines() for path in _PATH.findall(line) if path == line}
    assert len(named) > 60
    assert {(page, path) for page, path in named if not (ROOT / path).exists()} == set()


def test_the_guide_shows_the_conversation() -> None:
    program = (ROOT / "examples" / "python" / "conversation.py").read_text()
    assert f"```python\n{program}```" in (ROOT / "docs" / "guides" / "python-client.md").read_text()
