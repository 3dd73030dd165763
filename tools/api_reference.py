"""Writes docs/reference/api.md from the protos and the table of error reasons, or checks that it is current.

Reasons that docs/guides/troubleshooting.md does not explain by hand are listed there between two marks.

python tools/api_reference.py           write
python tools/api_reference.py --check   exit 1 where the page differs
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

from live_avatar.reasons import REASONS, Audience

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "api.md"
GUIDE = ROOT / "docs" / "guides" / "troubleshooting.md"
BEGIN, END = "<!-- other reasons: begin -->\n", "<!-- other reasons: end -->\n"
FILES = (
    "live_avatar/v1/avatar_service.proto",
    "live_avatar/v1/admin_service.proto",
    "live_avatar/v1/usage_service.proto",
    "live_avatar/v1/media.proto",
)
PACKAGE = "live_avatar.v1"
_HEAD = f"""# API reference

`{PACKAGE}`: what a client speaks with a gateway over gRPC. Written by `make protos` from `protos/` and
`live_avatar/reasons.py`; change those, not this page. How a live conversation goes is in
[Live conversations](../guides/live-conversations.md).

"""
_MESSAGE, _ENUM, _SERVICE, _FIELD, _NESTED, _NESTED_ENUM, _VALUE, _METHOD = 4, 5, 6, 2, 3, 4, 2, 2
"""Numbers of fields in descriptor.proto: they make up the paths of comments."""

Comments = Mapping[tuple[int, ...], str]


def described() -> Sequence[FileDescriptorProto]:
    """The files of the public API with their comments.

    Raises:
        subprocess.CalledProcessError: a proto file is wrong; protoc has said where.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.binpb"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", "--include_source_info"]
        subprocess.run([*command, f"--descriptor_set_out={out}", *FILES], check=True)
        return FileDescriptorSet.FromString(out.read_bytes()).file


def page() -> str:
    """The whole page."""
    files = described()
    parts = [_HEAD]
    for file in files:
        parts += [part for index, service in enumerate(file.service) for part in _service(file, index, service)]
    parts += _reasons()
    parts.append("## Messages\n\n")
    for file in files:
        comments = _comments(file)
        for index, message in enumerate(file.message_type):
            parts += _message(message, message.name, comments, (_MESSAGE, index))
        for index, enum in enumerate(file.enum_type):
            parts += _enum(enum, enum.name, comments, (_ENUM, index))
    return "".join(parts).rstrip() + "\n"


def _comments(file: FileDescriptorProto) -> Comments:
    """Comments by the path of what they describe, one line each."""
    located = file.source_code_info.location
    return {
        tuple(place.path): " ".join((place.leading_comments or place.trailing_comments).split()) for place in located
    }


def _service(file: FileDescriptorProto, index: int, service: ServiceDescriptorProto) -> Iterator[str]:
    comments = _comments(file)
    yield f"## {service.name}\n\n{comments.get((_SERVICE, index), '')}\n\n"
    yield "| call | request | response | what it does |\n|---|---|---|---|\n"
    for number, method in enumerate(service.method):
        request, response = (
            f"{'stream of ' if streams else ''}{_link(name)}"
            for name, streams in (
                (method.input_type, method.client_streaming),
                (method.output_type, method.server_streaming),
            )
        )
        yield f"| `{method.name}` | {request} | {response} | {comments.get((_SERVICE, index, _METHOD, number), '')} |\n"
    yield "\n"


def _reasons() -> Iterator[str]:
    yield (
        "## Errors\n\nEvery failed call carries a `google.rpc.ErrorInfo` of the domain `live-avatar` whose `reason` is "
        "one of these; `RetryInfo` where waiting helps, `BadRequest` where a field is at fault.\n\n"
    )
    titles = {
        Audience.CLIENT: "Clients meet",
        Audience.OPERATOR: "Between services; a client meets them at most while an installation is changed",
        Audience.SDK: "Made by the Python client itself",
    }
    for audience, title in titles.items():
        yield f"### {title}\n\n| reason | status | meaning | what to do |\n|---|---|---|---|\n"
        for name, reason in sorted(REASONS.items()):
            if reason.audience is audience:
                yield f"| `{name}` | {', '.join(reason.codes)} | {reason.meaning} | {reason.remedy} |\n"
        yield "\n"


def guide(page: str) -> str:
    """The guide ``page`` with a table of those reasons that a client meets and the rest of it does not name.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{GUIDE.name} lacks the lines {BEGIN.strip()} and {END.strip()}")
    rows = [
        f"| `{name}` | {reason.meaning} | {reason.remedy} |\n"
        for name, reason in sorted(REASONS.items())
        if reason.audience is not Audience.OPERATOR and f"`{name}`" not in before + after
    ]
    table = ["\n## Other reasons\n\n| reason | cause | cure |\n|---|---|---|\n", *rows, "\n"] if rows else []
    return "".join((before, begin, *table, end, after))


def _message(message: DescriptorProto, name: str, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"### {name}\n\n"
    if text := comments.get(path):
        yield f"{text}\n\n"
    if message.field:
        yield "| field | type | number | meaning |\n|---|---|---|---|\n"
        for number, field in enumerate(message.field):
            kind = ("repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else "") + _kind(field)
            one_of = " (one of)" if field.HasField("oneof_index") and not field.proto3_optional else ""
            meaning = comments.get((*path, _FIELD, number), "")
            yield f"| `{field.name}`{one_of} | {kind} | {field.number} | {meaning} |\n"
        yield "\n"
    for index, nested in enumerate(message.nested_type):
        yield from _message(nested, f"{name}.{nested.name}", comments, (*path, _NESTED, index))
    for index, enum in enumerate(message.enum_type):
        yield from _enum(enum, f"{name}.{enum.name}", comments, (*path, _NESTED_ENUM, index))


def _enum(enum: EnumDescriptorProto, name: str, comments: Comments, path: tuple[int, ...]) -> Iterator[str]:
    yield f"### {name}\n\n{comments.get(path, '')}\n\n| value | number | meaning |\n|---|---|---|\n"
    for number, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {comments.get((*path, _VALUE, number), '')} |\n"
    yield "\n"


def _kind(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _link(field.type_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str) -> str:
    """A type, as a link to its section where it is ours."""
    name = type_name.removeprefix(".")
    if not name.startswith(PACKAGE):
        return f"`{name}`"
    own = name.removeprefix(f"{PACKAGE}.")
    return f"[{own}](#{own.replace('.', '').lower()})"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Writes the API reference, or checks it.")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 where the page differs")
    pages = {PAGE: page(), GUIDE: guide(GUIDE.read_text())}
    if not parser.parse_args(argv).check:
        for path, text in pages.items():
            path.write_text(text)
        return 0
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        sys.stdout.write(f"{path.relative_to(ROOT)}: not what the protos and reasons yield; run make protos\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
