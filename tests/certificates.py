"""Certificates for tests, made by the openssl program into a folder of the test; none is ever kept.

authority = Authority(tmp_path / "ca")
mr1 = authority.issue("mr1.example.org")
"""

import subprocess
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

EXPIRED = -1
"""Days: ended yesterday."""
LOOPBACK = ("DNS:localhost", "IP:127.0.0.1")


@dataclass(frozen=True)
class Certificate:
    """Files of one certificate, and of the authority that issued it."""

    certificate: Path
    key: Path
    ca: Path

    @property
    def settings(self) -> dict[str, object]:
        """The three files, as keys of a `tls` section."""
        return {"certificate": str(self.certificate), "key": str(self.key), "ca": str(self.ca)}


class Authority:
    """Issues certificates (RSA of 2048 bits, as dcmtk 3.6.7 needs them for TLS 1.2) that hold for client and server."""

    def __init__(self, folder: Path, name: str = "Test CA", days: int = 90) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.key, self.ca = folder, folder / "ca.key", folder / "ca.pem"
        _new_key(self.key)
        extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign")
        added = [word for extension in extensions for word in ("-addext", extension)]
        _openssl(
            "req", "-x509", "-new", "-key", self.key, "-subj", f"/CN={name}", "-days", days, "-out", self.ca, *added
        )  # fmt: skip

    def end(self, out: Path) -> None:
        """Writes this authority's certificate with an end that has passed."""
        _openssl("x509", "-in", self.ca, "-signkey", self.key, "-days", EXPIRED, "-out", out)

    def issue(
        self, name: str, *, days: int = 90, alternatives: tuple[str, ...] = LOOPBACK, begins: datetime | None = None
    ) -> Certificate:
        """name: its common name, and that of its files. alternatives: subjectAltName in OpenSSL's words.

        begins: in UTC; None: now.
        """
        stem = self.folder / name.replace(" ", "_")
        key, request, certificate = (stem.with_name(f"{stem.name}.{end}") for end in ("key", "csr", "pem"))
        extensions = stem.with_name(f"{stem.name}.ext")
        names = f"subjectAltName={','.join(alternatives)}\n" if alternatives else ""
        extensions.write_text(f"basicConstraints=CA:FALSE\n{names}extendedKeyUsage=serverAuth,clientAuth\n")
        _new_key(key)
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        if begins is None:
            _openssl(
                "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.key, "-days", days,
                "-extfile", extensions, "-out", certificate,
            )  # fmt: skip
        else:
            _openssl(
                "ca", "-batch", "-notext", "-config", self._database(), "-cert", self.ca, "-keyfile", self.key,
                "-startdate", _zulu(begins), "-enddate", _zulu(begins + timedelta(days=days)),
                "-in", request, "-extfile", extensions, "-out", certificate,
            )  # fmt: skip
        return Certificate(certificate, key, self.ca)

    def _database(self) -> Path:
        """What `openssl ca` needs, the only command that takes a first day."""
        index, serial, configuration = (self.folder / name for name in ("index.txt", "serial", "ca.cnf"))
        index.touch()
        serial.write_text("01\n")
        configuration.write_text(
            f"[ca]\ndefault_ca=own\n[own]\ndatabase={index}\nserial={serial}\nnew_certs_dir={self.folder}\ndefault_md=sha256\n"
            "policy=any\n[any]\ncommonName=supplied\n"
        )
        return configuration


def _zulu(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H%M%SZ}"


def _new_key(path: Path) -> None:
    _openssl("genrsa", "-out", path, 2048)
    path.chmod(0o600)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, stdin=subprocess.DEVNULL)
