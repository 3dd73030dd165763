"""``live-avatar certificates`` and what takes its files: ``up --tls`` and ``--ca``."""

import stat
from pathlib import Path

import pytest
from cryptography import x509
from typer.testing import CliRunner

from live_avatar.cli.access import Access
from live_avatar.cli.gateway import gateway_at
from live_avatar.cli.main import app
from live_avatar.launcher.tls_folder import TlsFolder, make_certificates


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, arguments)
    return done.exit_code, done.stdout, done.stderr


def test_makes_an_authority_and_a_certificate_for_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    code, out, err = run(
        "certificates", str(folder), "--name", "avatar.example.com", "--name", "10.0.0.7", "--days", "7"
    )
    assert (code, out) == (
        0,
        f"{folder}: tls.crt and tls.key for avatar.example.com, 10.0.0.7, 7 days; clients need ca.crt\n",
    )
    assert "ca.key is the new authority's secret" in err
    own = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    own.verify_directly_issued_by(x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()))
    assert (own.not_valid_after_utc - own.not_valid_before_utc).days == 7
    assert TlsFolder.open(folder).name == "avatar.example.com"
    for name in ("tls.key", "ca.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert sorted(file.name for file in folder.iterdir()) == ["ca.crt", "ca.key", "tls.crt", "tls.key"]


def test_a_second_time_the_authority_stays(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], 1)
    before = {name: (tmp_path / name).read_bytes() for name in ("ca.crt", "ca.key", "tls.crt")}
    code, _, err = run("certificates", str(tmp_path))
    assert (code, err) == (0, "")
    assert (tmp_path / "ca.crt").read_bytes() == before["ca.crt"]
    assert (tmp_path / "tls.crt").read_bytes() != before["tls.crt"]
    TlsFolder.open(tmp_path)


@pytest.mark.parametrize("name", ["", "two words", "https://a", "-a", "a/b", "x" * 300])
def test_what_is_no_name_is_refused_and_nothing_is_made(name: str, tmp_path: Path) -> None:
    code, _, err = run("certificates", str(tmp_path / "tls"), f"--name={name}")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is neither a host name nor an address" in err
    assert not (tmp_path / "tls").exists()


def test_an_authority_without_its_key_makes_nothing(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], 1)
    (tmp_path / "ca.key").unlink()
    code, _, err = run("certificates", str(tmp_path))
    assert code == 2
    assert "ca.key is not its key" in err


@pytest.mark.parametrize(
    ("kept", "message"), [((), "ca.crt, tls.crt, tls.key missing"), (("ca.crt",), "tls.crt, tls.key missing")]
)
def test_up_says_what_the_folder_lacks(kept: tuple[str, ...], message: str, tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], 1)
    for file in [file for file in tmp_path.iterdir() if file.name not in kept]:
        file.unlink()
    code, _, err = run("up", "--tls", str(tmp_path))
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
    assert f"live-avatar certificates {tmp_path} makes them" in err


def test_up_refuses_a_key_of_another_certificate(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], 1)
    (tmp_path / "tls.key").write_bytes((tmp_path / "ca.key").read_bytes())
    code, _, err = run("up", "--tls", str(tmp_path))
    assert code == 2
    assert "tls.key: is not the key of the certificate in" in err


def test_the_gateway_of_a_command_is_encrypted_where_its_user_says_so(tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], 1)
    assert gateway_at("127.0.0.1:1", Access()).credentials is None
    for text, ca in (
        ("grpcs://127.0.0.1:1", None),
        ("https://127.0.0.1:1", None),
        ("127.0.0.1:1", tmp_path / "ca.crt"),
    ):
        gateway = gateway_at(text, Access(ca))
        assert gateway.credentials is not None
        assert gateway.address == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gateway", "127.0.0.1:1", "--ca", "absent.crt"], "absent.crt"),
        (["--gateway", "http://127.0.0.1:1", "--ca", "{ca}"], "http:// is not spoken here"),
        (["--gateway", "127.0.0.1:1", "--ca", "{key}"], "holds no certificate in PEM form"),
        (["--ca", "{ca}"], "--ca needs --gateway"),
    ],
)
def test_an_authority_that_cannot_be_used_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    make_certificates(tmp_path, ["localhost"], 1)
    files = {"ca": tmp_path / "ca.crt", "key": tmp_path / "ca.key"}
    given = [one.format(**files) for one in arguments]
    code, _, err = run("generate", "--out", str(tmp_path / "x.mp4"), *given)
    assert (code, len(err.splitlines())) == (2, 1)
    assert message in err
