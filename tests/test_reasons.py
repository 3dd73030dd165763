"""Every reason that code raises stands in the table, and the other way round."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grpc

from live_avatar.reasons import REASONS

ROOT = Path(__file__).resolve().parents[1]
_WORD = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)*")
_MAKERS = {"ServiceError": 1, "AvatarError": 1, "PortraitError": 0, "_invalid": 0, "refuse": 0}
"""What makes an error, and the place of the reason among its arguments."""


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("live_avatar", "services"):
        for path in (ROOT / package).rglob("*.py"):
            if "_pb2" not in path.name and path.name != "reasons.py":
                yield path, ast.parse(path.read_text())


def constants(tree: ast.Module) -> dict[str, str]:
    """Words that a module gives a name to."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def reasons_of(tree: ast.Module) -> Iterator[ast.expr]:
    """What stands in the place of the reason wherever an error is made."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        place = _MAKERS.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if place is not None and len(call.args) > place:
            yield call.args[place]


def raised() -> dict[str, str]:
    """Reasons that errors are made with, literally or by a name, and a file where each is."""
    trees = list(modules())
    named = {name: word for _, tree in trees for name, word in constants(tree).items()}
    found = {}
    for path, tree in trees:
        for part in (part for reason in reasons_of(tree) for part in ast.walk(reason)):
            word = part.value if isinstance(part, ast.Constant) else named.get(getattr(part, "id", ""))
            if isinstance(word, str) and _WORD.fullmatch(word):
                found[word] = str(path.relative_to(ROOT))
    return found


def words() -> set[str]:
    """Every word of capitals that stands in the code."""
    return {
        node.value
        for _, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_what_is_raised_is_listed() -> None:
    found = raised()
    assert len(found) > 40
    assert {word: path for word, path in found.items() if word not in REASONS} == {}


def test_what_is_listed_is_there() -> None:
    assert set(REASONS) - words() == set()


def test_rows_are_whole() -> None:
    codes = {code.name for code in grpc.StatusCode}
    for name, reason in REASONS.items():
        assert _WORD.fullmatch(name) and len(name) <= 63
        assert reason.codes and set(reason.codes) <= codes
        assert reason.meaning and reason.remedy
