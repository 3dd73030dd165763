"""Bills of materials and look-ups of vulnerabilities cover what images are built from."""

import json

import pytest

from tools.audit_dependencies import Result, read
from tools.images import DOCKERFILES
from tools.sbom import LOCKS, generate, images


def test_each_image_has_a_bill_of_all_its_locks() -> None:
    bills = images()
    for service in DOCKERFILES:
        name = f"live-avatar-{service.replace('_', '-')}"
        assert {bill for bill in bills if bill in (name, f"{name}-cpu", f"{name}-cuda")}
    named = {lock for locks in bills.values() for lock in locks}
    assert named == {path.stem for path in LOCKS.glob("*.txt")} - {"build"}, "build tools are not in an image"


def test_a_bill_lists_packages_with_versions_and_hashes() -> None:
    try:
        bill = generate(("pipeline", "torch-cpu"))
    except SystemExit as error:
        pytest.skip(f"the generator cannot be fetched: {error}")
    assert bill["bomFormat"] == "CycloneDX"
    packages = {component["name"]: component for component in bill["components"]}
    assert packages["torch"]["version"].startswith("2.13.0")
    assert packages["grpcio"]["externalReferences"][0]["hashes"][0]["alg"] == "SHA-256"


def test_packages_that_were_not_looked_up_are_counted() -> None:
    vulnerability = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    report = {
        "dependencies": [
            {"name": "a", "version": "1", "vulns": [vulnerability]},
            {"name": "b", "version": "1", "vulns": []},
            {"name": "c", "skip_reason": "not found"},
        ]
    }
    found = read("gateway", json.dumps(report), 3)
    assert found == Result("gateway", 3, 1, ["  a 1: PYSEC-1, CVE-1; fixed in 2"])
    assert str(found) == "gateway: 3 packages, 1 known vulnerabilities, 1 packages not looked up"
    assert read("gateway", "", 3, "no network").skipped == 3
