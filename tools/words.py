"""Checks documents and code for phrases of a private dialect, where the field has a word, and for long lines.

python -m tools.words     exit 1 where something is found; prints file, line, phrase and a better word

Documents: code spans, code blocks and targets of links are left out.  ``ALLOWED`` lists phrases that are right in
one page.  Code: names in all Python files, docstrings and comments in those outside tests; generated code is left out.
``ALLOWED_NAMES`` lists names that a library prescribes.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINE = 120
GENERATED = {f"docs/reference/{name}.md" for name in ("api", "chart", "cli", "metrics", "settings")}
"""Written from code and configuration: their words are changed there, and their lines have any length."""
PHRASES: Mapping[str, str] = {
    r"(?:is|are|was|were|be|been) told": "receives, is notified",
    r"tells?": "reports, emits",
    r"hears?|heard": "receives, encodes",
    r"nobody(?:'s)?|anybody(?:'s)?|somebody(?:'s)?": "name who: no client, another gateway",
    r"whoever": "name who",
    r"who (?:comes|goes|asks|wants|leaves|sends)": "name who: a client that",
    r"pictures": "frames, images, portraits",
    r"films?|filmed": "video, clip",
    r"by turns": "alternately",
    r"learnt": "learned",
    r"the like|its like": "name it",
    r"of the kind": "name it",
}
ALLOWED: Mapping[str, Collection[str]] = {}
"""Phrases that a page may use, by file."""
NAME_WORDS: Mapping[str, str] = {
    "hear|hears|heard|unheard|hearing": "receive, encode; audio_features",
    "tell|tells|told|untold": "report, emit, notify",
    "said": "message, output",
    "greet|greeting": "handshake",
    "puppet|puppets": "synthetic",
    "film|films|filmed": "video, clip, movie",
    "actor|studio|shot": "subject, recorder, segment",
    "learner|learners|taught": "optimizer, trained",
    "impression": "stats",
}
"""Parts of names in Python code, between underscores or capitals, and a better word for each."""
CODE_PHRASES: Mapping[str, str] = {
    "hears?|heard": "receives, encodes",
    "told": "receives, is notified",
    "films?|filmed": "video, clip",
}
"""Words of docstrings and comments outside tests."""
ALLOWED_NAMES = {"tell"}
"""``tell`` of files."""
WORD_LISTS = {"tools/words.py", "trainer/synthetic/sentences.py"}
"""Files that list words."""
_NAMES = {re.compile(rf"(?:^|_)(?:{part})(?=_|$)"): better for part, better in NAME_WORDS.items()}
_CODE_PROSE = {re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE): better for phrase, better in CODE_PHRASES.items()}
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PATTERNS = {re.compile(rf"\b(?:{phrase})\b", re.IGNORECASE): better for phrase, better in PHRASES.items()}
_CODE = re.compile(r"(`+).+?\1|\]\([^)]*\)|https?://\S+")


@dataclass(frozen=True)
class Found:
    """Something to correct."""

    place: str
    phrase: str
    better: str

    def __str__(self) -> str:
        return f"{self.place}: {self.phrase!r}: {self.better}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    found = [item for name in documents() for item in check_text(name, (ROOT / name).read_text())]
    found += [item for name in modules() for item in check_code(name, (ROOT / name).read_text())]
    sys.stdout.write("".join(f"{item}\n" for item in found))
    return int(bool(found))


def documents() -> list[str]:
    """Every Markdown file of the repository."""
    return _listed("*.md")


def modules() -> list[str]:
    """Every Python file of the repository that is not generated."""
    return [name for name in _listed("*.py") if not name.endswith(("_pb2.py", "_pb2_grpc.py"))]


def _listed(pattern: str) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).exists()]


def check_text(name: str, text: str) -> Iterator[Found]:
    """What is to be corrected in the page ``name``."""
    for number, line in prose(text):
        if len(line) > LINE and not line.lstrip().startswith("|") and name not in GENERATED:
            yield Found(f"{name}:{number}", f"{len(line)} columns", f"wrap at {LINE}")
        for phrase, better in _phrases(_CODE.sub("", line), _PATTERNS):
            if phrase.lower() not in ALLOWED.get(name, ()):
                yield Found(f"{name}:{number}", phrase, better)


def check_code(name: str, text: str) -> Iterator[Found]:
    """What is to be corrected in the Python file ``name``: names, and the prose of files outside tests."""
    has_prose = name not in WORD_LISTS and not name.startswith("tests/")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        words = ""
        patterns = _NAMES
        if token.type == tokenize.NAME and token.string not in ALLOWED_NAMES:
            words = _CAPITAL.sub("_", token.string).lower()
        elif has_prose and (token.type == tokenize.COMMENT or token.string.startswith('"""')):
            words, patterns = _CODE.sub("", token.string), _CODE_PROSE
        for phrase, better in _phrases(words, patterns):
            yield Found(f"{name}:{token.start[0]}", phrase.strip("_"), better)


def _phrases(line: str, patterns: Mapping[re.Pattern[str], str]) -> Iterator[tuple[str, str]]:
    for pattern, better in patterns.items():
        yield from ((match[0], better) for match in pattern.finditer(line))


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Lines of a page with their numbers, without those of code blocks."""
    inside = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        elif not inside and not line.startswith("    "):
            yield number, line


if __name__ == "__main__":
    sys.exit(main())
