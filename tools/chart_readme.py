"""Writes the table of values in ``helm/README.md`` from the comments of ``helm/values.yaml``.

A comment that begins with ``# --`` describes the value on the line below it.  ``--check`` only says whether the table
is up to date.  Knows YAML as that file writes it: one key on a line, indented by two spaces.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent.parent / "helm"
BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
_KEY = re.compile(r"^( *)([A-Za-z][A-Za-z0-9]*):")
_COMMENT = re.compile(r"^ *# ?(.*)$")
_MARK = "-- "
_INDENT = 2


def descriptions(text: str) -> Iterator[tuple[str, str]]:
    """Dotted name and description of every value that has one, in the order of the file."""
    path: list[str] = []
    comments: list[str] = []
    for line in text.splitlines():
        comment, key = _COMMENT.match(line), _KEY.match(line)
        if comment is not None:
            comments = [comment[1].removeprefix(_MARK)] if comment[1].startswith(_MARK) else [*comments, comment[1]]
            continue
        if key is not None:
            path[len(key[1]) // _INDENT :] = [key[2]]
            if comments:
                yield ".".join(path), " ".join(comments)
        comments = []


def table(text: str) -> str:
    """The table in Markdown."""
    values = yaml.safe_load(text)
    rows = ["| value | default | what it does |", "|---|---|---|"]
    for name, comments in descriptions(text):
        default = json.dumps(_at(values, name)).replace("|", "\\|")
        rows.append(f"| `{name}` | `{default}` | {comments.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str, values: str) -> str:
    """``readme`` with the table between its marks.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table(values)}\n{END}{after}"


def _at(values: Any, name: str) -> Any:
    for key in name.split("."):
        values = values[key]
    return values


def main() -> int:
    """Writes or checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the table is out of date")
    check = parser.parse_args().check
    readme = CHART / "README.md"
    before = readme.read_text()
    after = with_table(before, (CHART / "values.yaml").read_text())
    if check:
        if before != after:
            sys.stderr.write("helm/README.md is out of date: run python tools/chart_readme.py\n")
        return int(before != after)
    readme.write_text(after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
