"""Every section of docs/spec.md that the repository cites is there."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_CITED = re.compile(r"\bspec ((?:\d+(?:\.\d+)?|[A-Z])(?:(?:,| and| to) (?:\d+(?:\.\d+)?|[A-Z])\b)*)", re.IGNORECASE)
_NUMBER = re.compile(r"\d+(?:\.\d+)?|[A-Z]\b")
_HEADING = re.compile(r"^#+ (\d+(?:\.\d+)?|[A-Z]) ", re.MULTILINE)


def tracked() -> list[Path]:
    """Files of this checkout that may cite."""
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md", "*.proto", "*.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.splitlines()]


def sections() -> set[str]:
    return set(_HEADING.findall((ROOT / "docs" / "spec.md").read_text()))


def citations(text: str) -> list[str]:
    """Numbers of the sections that ``text`` cites."""
    return [number for cited in _CITED.findall(text) for number in _NUMBER.findall(cited)]


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("as the reference does (spec 1.9)", ["1.9"]),
        ("(spec 2, design 3)", ["2"]),
        ("Spec 0 and 1.3 at 704x384", ["0", "1.3"]),
        ("see spec C.", ["C"]),
        ("inspect 5 items", []),
    ],
)
def test_citations_are_found(text: str, cited: list[str]) -> None:
    assert citations(text) == cited


def test_every_citation_resolves() -> None:
    cited = {number: path for path in tracked() for number in citations(path.read_text())}
    assert len(cited) > 30
    missing = {number: str(path.relative_to(ROOT)) for number, path in cited.items() if number not in sections()}
    assert missing == {}


def test_no_other_design_is_cited() -> None:
    """Nothing that is not in the repository."""
    found = [path.name for path in tracked() if re.search(r"\(design \d|, design \d", path.read_text())]
    assert [name for name in found if name != Path(__file__).name] == []
