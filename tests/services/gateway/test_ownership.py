"""Every field of the gateway is written by the class that owns it, and one place chooses the form of delivery."""

import ast
from collections.abc import Iterator
from pathlib import Path

GATEWAY = Path(__file__).parents[3] / "services" / "gateway"
FOREIGN = {
    "access/audit_log.py": {"handler"},
    "api/messages.py": {"result"},
    "api/stream.py": {"response"},
    "api/usage_servicer.py": {"response"},
    "cluster.py": {"configuration"},
    "election/lease.py": {"lease", "spec"},
    "sessions/negotiation.py": {"result"},
    "store/usage.py": {"message"},
    "sessions/conditioning.py": {"self._config", "state"},
    "sessions/live.py": {"state"},
    "video/muxer.py": {"encoder", "frame"},
}
"""Protobuf messages, Kubernetes objects, handlers of logging and codecs: they have no methods to be changed by."""


def written(tree: ast.AST) -> Iterator[ast.Attribute]:
    """Attributes that are assigned or deleted, in whatever statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node


def is_foreign(owner: ast.expr, names: set[str]) -> bool:
    """Whether ``owner``, or what it is a part of, is named as foreign."""
    while ast.unparse(owner) not in names:
        if not isinstance(owner, ast.Attribute):
            return False
        owner = owner.value
    return True


def outside_writes(source: str, names: set[str]) -> list[str]:
    """Writes to fields of objects other than ``self``, with their lines."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in written(ast.parse(source))
        if ast.unparse(node.value) != "self" and not is_foreign(node.value, names)
    ]


def sources() -> dict[str, str]:
    return {path.relative_to(GATEWAY).as_posix(): path.read_text() for path in sorted(GATEWAY.rglob("*.py"))}


def test_no_field_is_written_from_outside_its_class() -> None:
    found = {name: outside_writes(source, FOREIGN.get(name, set())) for name, source in sources().items()}
    assert {name: writes for name, writes in found.items() if writes} == {}


def test_what_is_called_foreign_is_written() -> None:
    """A name that is no longer needed leaves the list."""
    for name, owners in FOREIGN.items():
        for owner in owners:
            assert outside_writes(sources()[name], owners - {owner}), (name, owner)


def test_writes_of_all_kinds_are_found() -> None:
    source = """
session.admitted += 1
session.phase, other = 1, 2
session.live.speech.end: int = 3
for session.block in blocks: pass
with lock as session.lock: pass
del session.record
self.field = 4
response.sequence = 5
"""
    found = [line.partition(": ")[2] for line in outside_writes(source, {"response"})]
    assert sorted(found) == [
        "session.admitted",
        "session.block",
        "session.live.speech.end",
        "session.lock",
        "session.phase",
        "session.record",
    ]


def test_the_form_of_delivery_is_chosen_in_one_place() -> None:
    users = {
        name
        for name, source in sources().items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Name) and node.id in ("LiveDelivery", "OfflineDelivery")
    }
    assert users == {"sessions/session.py"}
