"""Checks the documents for phrases of a private dialect, where the field has a word, and for long lines.

python -m tools.words     exit 1 where something is found; prints file, line, phrase and a better word

Code spans, code blocks and targets of links are left out.  ``ALLOWED`` lists phrases that are right in
one page.
"""

import re
import subprocess
import sys
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
    sys.stdout.write("".join(f"{item}\n" for item in found))
    return int(bool(found))


def documents() -> list[str]:
    """Every Markdown file of the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).exists()]


def check_text(name: str, text: str) -> Iterator[Found]:
    """What is to be corrected in the page ``name``."""
    for number, line in prose(text):
        if len(line) > LINE and not line.lstrip().startswith("|") and name not in GENERATED:
            yield Found(f"{name}:{number}", f"{len(line)} columns", f"wrap at {LINE}")
        for phrase, better in _phrases(_CODE.sub("", line)):
            if phrase.lower() not in ALLOWED.get(name, ()):
                yield Found(f"{name}:{number}", phrase, better)


def _phrases(line: str) -> Iterator[tuple[str, str]]:
    for pattern, better in _PATTERNS.items():
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
