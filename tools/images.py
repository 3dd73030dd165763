"""Builds the container images of the services and the trainer with whatever builder this machine has.

    python tools/images.py                     all five, from python:3.11-slim
    python tools/images.py gateway trainer     some of them
    python tools/images.py --torch cuda --torch-index URL
    python tools/images.py --builder lab --base-image localhost/python:3.11-slim    see tools/containers

Builders: docker, podman, buildah, or the podman of the lab.  pip's configuration of this machine is handed to the
build and does not become part of the image.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAB = ROOT / "tools" / "containers" / "lab.sh"
_COMPUTING = ROOT / "services" / "Dockerfile"
"""Of the services that compute, which differ in the build argument SERVICE."""
DOCKERFILES = {
    "gateway": ROOT / "services" / "gateway" / "Dockerfile",
    "audio_encoder": _COMPUTING,
    "denoise_stage": _COMPUTING,
    "vae_decoder": _COMPUTING,
    "trainer": ROOT / "trainer" / "Dockerfile",
}
CERTIFICATES = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
_PIP_OPTION = re.compile(r"(?:global|install|:env:)\.([a-z-]+)='(.*)'")
_NO_BUILDER = "needs docker with its daemon, podman or buildah; `make lab` sets up a podman of its own on Debian"


@dataclass(frozen=True)
class Builder:
    """A program that builds images."""

    name: str
    command: Sequence[str]
    """Up to and with the word that means build."""
    mounts: bool = True
    """Folders of this machine can be mounted while it builds."""
    root: str = ""
    """Where the builder sees this machine's files."""

    def seen(self, path: Path) -> str:
        """A path of this machine as the builder sees it."""
        return f"{self.root}{path.resolve()}"


BUILDERS = (
    Builder("docker", ("docker", "build"), mounts=False),
    Builder("podman", ("podman", "build")),
    Builder("buildah", ("buildah", "build", "--layers")),
    Builder("lab", (str(LAB), "podman", "build"), root="/host"),
)


def image_name(service: str, registry: str, tag: str) -> str:
    """Name of the image of a service, as the chart has it."""
    return f"{registry}live-avatar-{service.replace('_', '-')}:{tag}"


def version() -> str:
    """The project's version: the tag that the chart asks for."""
    found: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    return found


def find_builder(name: str) -> Builder:
    """The builder ``name``, or the first one that works where that is empty; ends the program where there is none."""
    for builder in BUILDERS:
        if name in ("", builder.name) and _works(builder):
            return builder
    raise SystemExit(f"images: {name + ' does not work here; ' if name else ''}{_NO_BUILDER}")


def build(builder: Builder, service: str, arguments: argparse.Namespace) -> float:
    """Builds one image; returns the seconds it took."""
    began = time.monotonic()
    command = [*builder.command, "-f", builder.seen(DOCKERFILES[service])]
    command += ["-t", image_name(service, arguments.registry, arguments.tag)]
    command += ["--build-arg", f"BASE_IMAGE={arguments.base_image}"]
    if service != "gateway":
        command += ["--build-arg", f"TORCH={arguments.torch}", "--build-arg", f"TORCH_INDEX={arguments.torch_index}"]
    if DOCKERFILES[service] == _COMPUTING:
        command += ["--build-arg", f"SERVICE={service}"]
    if arguments.base_image.startswith("localhost/"):
        command.append("--pull=never")
    with _pip_of_this_machine(builder) as handed_in:
        subprocess.run([*command, *handed_in, builder.seen(ROOT)], check=True)
    return time.monotonic() - began


@contextmanager
def _pip_of_this_machine(builder: Builder) -> Iterator[Sequence[str]]:
    """Arguments that let pip in the build find packages the way pip finds them here."""
    options, flags = _pip_options(), list[str]()
    if "cert" in options:
        flags += ["--secret", f"id=certificates,src={builder.seen(CERTIFICATES)}"]
        options["cert"] = "/run/secrets/certificates"
    for number, folder in enumerate(_folders(options)):
        if builder.mounts:
            flags += ["--volume", f"{builder.seen(folder)}:/mnt/{number}:ro"]
            options = {name: value.replace(str(folder), f"/mnt/{number}") for name, value in options.items()}
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write("[global]\n" + "".join(f"{name} = {value}\n" for name, value in options.items()))
        file.flush()
        yield [*flags, "--secret", f"id=pip,src={builder.seen(Path(file.name))}"]


def _pip_options() -> dict[str, str]:
    """Where pip of this machine looks for packages, and whom it trusts."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True)
    found = {match[1]: match[2] for match in map(_PIP_OPTION.fullmatch, listed.stdout.splitlines()) if match}
    wanted = ("index-url", "extra-index-url", "find-links", "trusted-host", "cert", "proxy", "timeout")
    return {name: found[name] for name in wanted if name in found}


def _folders(options: Mapping[str, str]) -> Sequence[Path]:
    """Folders of this machine in which pip looks, none of them a part of another's name."""
    words = " ".join(options.get(name, "") for name in ("index-url", "extra-index-url", "find-links")).split()
    named = {Path(word.removeprefix("file://").removesuffix("/simple")) for word in words}
    return sorted((path for path in named if path.is_absolute() and path.is_dir()), reverse=True)


def _works(builder: Builder) -> bool:
    """It is there, and its daemon answers where it has one."""
    program = builder.command[0]
    if shutil.which(program) is None:
        return False
    check = [*builder.command[: -1 if builder.name != "buildah" else 1], "info"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Builds the images that the arguments name; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", nargs="*", metavar="SERVICE", help=f"of {', '.join(DOCKERFILES)}; all of them")
    parser.add_argument("--builder", default="", choices=["", *(builder.name for builder in BUILDERS)])
    parser.add_argument("--base-image", default="python:3.11-slim")
    parser.add_argument("--torch", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--torch-index", default="", help="index of wheels that has this build of torch")
    parser.add_argument("--registry", default="", help="prefix of the images' names, with its slash")
    parser.add_argument("--tag", default=version(), help="default: the project's version, which the chart asks for")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.services) - set(DOCKERFILES):
        parser.error(f"there is no image of {', '.join(sorted(unknown))}")
    builder = find_builder(arguments.builder)
    for service in arguments.services or DOCKERFILES:
        taken_s = build(builder, service, arguments)
        sys.stdout.write(f"{image_name(service, arguments.registry, arguments.tag)}  {taken_s:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
