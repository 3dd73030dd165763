"""Documents: every relative link resolves, generated pages are current, every page is in the navigation."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tools import api_reference, drawing, reference, words

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(`+).+?\1", re.DOTALL)
_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(\s*<?([^)\s>]+)>?[^)]*\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def links(text: str) -> list[str]:
    """Targets of the links of a page, those inside code left out."""
    return _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """Anchors that the headings of a page get, by GitHub's rule and by that of MkDocs alike."""
    found: dict[str, int] = {}
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        if re.sub(r"\s", "-", words) != re.sub(r"[-\s]+", "-", words):
            continue  # the two disagree: such an anchor works in one place alone
        slug = re.sub(r"\s", "-", words)
        found[slug] = found.get(slug, -1) + 1
    return set(found)


def broken(page: Path) -> Iterator[str]:
    """Links of a page that lead nowhere."""
    for link in links(page.read_text()):
        if _OUTSIDE.match(link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        inside_site = page.is_relative_to(ROOT / "docs")
        if not target.exists():
            yield f"{link}: no such file"
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target.read_text())):
            yield f"{link}: no such heading"
        elif inside_site and not target.is_relative_to(ROOT / "docs"):
            yield f"{link}: outside docs/, which the site does not hold; write the path as code"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see [a](b.md) and ![c](d.png)", ["b.md", "d.png"]),
        ("[a](b.md#c-d 'title')", ["b.md#c-d"]),
        ("`[a](b.md)` and\n```\n[c](d.md)\n```\n", []),
        ("[`code`](#here)", ["#here"]),
    ],
)
def test_links_are_found(text: str, found: list[str]) -> None:
    assert links(text) == found


def test_anchors_are_found() -> None:
    assert anchors("# A, b `c`\n\n```\n# no\n```\n## D_e.F\n") == {"a-b-c", "d_ef"}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# Here\n")
    page = tmp_path / "page.md"
    page.write_text("[a](there.md#here) [b](there.md#gone) [c](gone.md) [d](https://example.org/x)")
    assert list(broken(page)) == ["there.md#gone: no such heading", "gone.md: no such file"]


def test_every_link_resolves() -> None:
    pages = documents()
    assert len(pages) > 15
    found = {str(page.relative_to(ROOT)): wrong for page in pages if (wrong := list(broken(page)))}
    assert found == {}


@pytest.mark.parametrize("tool", [api_reference, drawing, reference])
def test_generated_pages_are_current(tool: Any) -> None:
    assert tool.main(["--check"]) == 0


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for inner in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(inner)

    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = [str(page.relative_to(ROOT / "docs")) for page in documents() if page.is_relative_to(ROOT / "docs")]
    assert sorted(listed) == sorted(written)


def test_the_drawing_is_an_image() -> None:
    root = ElementTree.fromstring(drawing.drawing())
    width, height = drawing.WIDTH, drawing.HEIGHT
    boxes = [
        {name: int(rect.get(name, 0)) for name in ("x", "y", "width", "height")} for rect in root.iter(_svg("rect"))
    ]
    assert len(boxes) > 8
    assert all(box["x"] + box["width"] <= width and box["y"] + box["height"] <= height for box in boxes)


def _svg(name: str) -> str:
    return f"{{http://www.w3.org/2000/svg}}{name}"


def test_documents_and_code_use_the_words_of_the_field() -> None:
    assert words.main([]) == 0


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("The client is told about it.", "is told"),
        ("A stream hears silence.", "hears"),
        ("It is nobody's business.", "nobody's"),
        ("`is told` and the table of frames", None),
    ],
)
def test_dialect_is_found(line: str, phrase: str | None) -> None:
    assert [found.phrase.lower() for found in words.check_text("page.md", line)] == ([phrase] if phrase else [])


@pytest.mark.parametrize(
    ("code", "phrases"),
    [
        ("def hear(told: int) -> None: ...", ["hear", "told"]),
        ("class PuppetClip: ...", ["puppet"]),
        ("hearts = file.tell()  # heard", ["heard"]),
        ('def receive() -> None:\n    """Receives what was told."""', ["told"]),
        ("text = 'the film'", []),
    ],
)
def test_dialect_is_found_in_names_docstrings_and_comments(code: str, phrases: list[str]) -> None:
    assert [found.phrase for found in words.check_code("module.py", code + "\n")] == phrases


def test_docstrings_of_tests_are_free() -> None:
    assert list(words.check_code("tests/test_x.py", '"""Nothing was told."""\n')) == []


def test_long_lines_are_found_outside_tables_and_code() -> None:
    long = "word " * 30
    assert len(list(words.check_text("page.md", long))) == 1
    assert list(words.check_text("page.md", f"| {long} |\n\n```\n{long}\n```\n")) == []
