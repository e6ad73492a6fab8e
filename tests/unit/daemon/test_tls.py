"""Certificates: renewed without a restart, told before they end; faults in words; what the settings refuse."""

import os
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from anomalyd.daemon import certificates, tls
from anomalyd.daemon.certificate_watch import CertificateWatch
from anomalyd.daemon.metrics import CertificateCollector
from anomalyd.daemon.settings import DaemonSettings, load_settings
from anomalyd.daemon.tls_checks import check_tls
from anomalyd.daemon.tls_settings import PeerTls, TlsListener
from anomalyd.errors import ConfigError
from anomalyd.storage.alarms import AlarmKind, open_alarms
from anomalyd.storage.engine import Store
from certificates import EXPIRED, Authority, Certificate


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def first(authority: Authority) -> Certificate:
    return authority.issue("first.example.org", alternatives=("DNS:first.example.org", "DNS:Second.example.org"))


@pytest.fixture
def installed(first: Certificate, tmp_path: Path) -> Certificate:
    """A copy of `first` where a test may put another."""
    copy = Certificate(tmp_path / "own.pem", tmp_path / "own.key", tmp_path / "ca.pem")
    install(first, copy)
    return copy


def install(new: Certificate, place: Certificate) -> None:
    """As an administrator does: the key has its mode, and each file is replaced by another one."""
    pairs = ((new.certificate, place.certificate), (new.key, place.key), (new.ca, place.ca))
    for source, target in pairs:
        fresh = target.with_suffix(".new")
        fresh.write_bytes(source.read_bytes())
        fresh.chmod(0o600)
        fresh.replace(target)


def shown_by(context: ssl.SSLContext, ca: Path) -> frozenset[str]:
    """Names in the certificate that a server with this context shows: a whole handshake in memory."""
    client_context = ssl.create_default_context(cafile=ca)
    client_context.check_hostname = False
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(to_client, to_server)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    shown = client.getpeercert()
    assert shown is not None
    subject: object = shown["subject"]
    return frozenset(value for part in subject for _, value in part)  # type: ignore[attr-defined]  # as ssl documents it


def listener(files: Certificate) -> TlsListener:
    return TlsListener.model_validate({**files.settings, "port": 2762, "client_certificates": "none"})


def test_the_profile_is_tls_1_2_and_later_with_the_suites_of_bcp_195(first: Certificate) -> None:
    server = tls.listening_identity(TlsListener.model_validate(first.settings)).context()
    client = tls.calling_identity(PeerTls.model_validate(first.settings)).context()
    for context in (server, client):
        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert context.maximum_version == ssl.TLSVersion.MAXIMUM_SUPPORTED
        names = {cipher["name"] for cipher in context.get_ciphers()}
        assert {name for name in names if not name.startswith("TLS_")} == {
            "ECDHE-ECDSA-AES256-GCM-SHA384",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-ECDSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES128-GCM-SHA256",
        }
        assert names >= {"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"}, "TLS 1.3 is offered"
        assert context.verify_mode == ssl.CERT_REQUIRED, "both sides show a certificate"
    assert client.check_hostname


def test_a_new_certificate_is_taken_without_a_restart(installed: Certificate, authority: Authority) -> None:
    identity = tls.listening_identity(listener(installed))
    assert shown_by(identity.context(), authority.ca) == {"first.example.org"}
    install(authority.issue("renewed.example.org"), installed)
    assert shown_by(identity.context(), authority.ca) == {"renewed.example.org"}
    assert not identity.fault


def test_a_new_certificate_that_cannot_be_used_leaves_the_old_in_force_and_alarms(
    installed: Certificate, authority: Authority, store: Store
) -> None:
    use = listener(installed)
    identity = tls.listening_identity(use)
    watch = CertificateWatch(store, {"listener": use})
    installed.certificate.write_text("half a file")
    watch.look()
    assert not open_alarms(store), "between a certificate and its key they do not fit: the next look decides"
    watch.look()
    watch.look()
    (alarm,) = open_alarms(store)
    assert alarm.kind == AlarmKind.CERTIFICATE
    assert "those before stay in force" in alarm.text
    assert alarm.times == 1
    assert shown_by(identity.context(), authority.ca) == {"first.example.org"}
    install(authority.issue("mended.example.org"), installed)
    watch.look()
    assert shown_by(identity.context(), authority.ca) == {"mended.example.org"}


@pytest.mark.parametrize("ended", ["certificate", "authority"])
def test_a_new_certificate_that_has_ended_leaves_the_old_in_force_and_alarms_at_once(
    installed: Certificate, authority: Authority, store: Store, tmp_path: Path, ended: str
) -> None:
    use = listener(installed)
    identity = tls.listening_identity(use)
    watch = CertificateWatch(store, {"listener": use})
    watch.look()
    if ended == "certificate":
        install(authority.issue("ended.example.org", days=EXPIRED), installed)
    else:
        authority.end(tmp_path / "ca.new")
        (tmp_path / "ca.new").replace(installed.ca)
    watch.look()
    (alarm,) = open_alarms(store)
    name = installed.certificate if ended == "certificate" else installed.ca
    assert f"those before stay in force: tls: {name} ended at " in alarm.text
    assert shown_by(identity.context(), authority.ca) == {"first.example.org"}
    install(authority.issue("after.example.org"), installed)
    assert shown_by(identity.context(), authority.ca) == {"after.example.org"}


def test_a_certificate_that_begins_later_is_taken_when_it_begins(installed: Certificate, authority: Authority) -> None:
    now = [datetime.now(UTC)]
    identity = tls.Identity(lambda: loaded(installed), listener(installed), clock=lambda: now[0])
    before = identity.context()
    install(authority.issue("later.example.org", begins=now[0] + timedelta(days=1)), installed)
    assert identity.context() is before
    assert "own.pem does not hold before " in identity.fault
    now[0] += timedelta(days=2)
    assert identity.context() is not before
    assert not identity.fault


def loaded(files: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    return context


def test_after_the_old_one_has_ended_a_new_one_is_taken_as_it_is(installed: Certificate, authority: Authority) -> None:
    """Nothing is worse than what has ended, and a wall clock may be wrong."""
    install(authority.issue("old.example.org", days=EXPIRED), installed)
    identity = tls.listening_identity(listener(installed))
    before = identity.context()
    install(authority.issue("ended too.example.org", days=EXPIRED), installed)
    assert identity.context() is not before
    assert not identity.fault


@pytest.mark.parametrize(
    ("days", "text"), [(29, "ends in 29 days"), (EXPIRED, "ended 1 days ago"), (40, "")], ids=["soon", "ended", "later"]
)
def test_an_end_within_30_days_is_an_alarm_once_a_day(authority: Authority, store: Store, days: int, text: str) -> None:
    use = listener(authority.issue(f"days{days}", days=days))
    now = [0.0]
    watch = CertificateWatch(store, {"listener": use}, monotonic=lambda: now[0])
    for now[0] in (0.0, 10.0, 86_401.0):
        watch.look()
    assert [(alarm.kind, alarm.times, text in alarm.text) for alarm in open_alarms(store)] == (
        [(AlarmKind.CERTIFICATE, 2, True)] if text else []
    )


def test_the_end_is_what_openssl_says(first: Certificate) -> None:
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(first.certificate)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().partition("=")[2]
    assert certificates.first_end(first.certificate) == datetime.fromtimestamp(ssl.cert_time_to_seconds(told), UTC)


def test_of_a_chain_the_first_end_counts(authority: Authority, tmp_path: Path) -> None:
    short, long = authority.issue("short", days=5), authority.issue("long", days=50)
    chain = tmp_path / "chain.pem"
    chain.write_text(long.certificate.read_text() + short.certificate.read_text())
    assert certificates.first_end(chain) == certificates.first_end(short.certificate)
    assert certificates.days_left(chain, datetime.now(UTC) - timedelta(days=1)) == pytest.approx(6, abs=0.01)


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", "MIIB"])
def test_what_is_no_certificate_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "none.pem"
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no certificate"):
        certificates.first_end(path)


def encrypt(files: Certificate) -> None:
    command = ["openssl", "pkey", "-in", str(files.key), "-aes256", "-passout", "pass:x"]
    files.key.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)


SPOILT: dict[str, tuple[Callable[[Certificate], object], str]] = {
    "absent": (lambda files: files.key.unlink(), r"own\.key cannot be read: No such file"),
    "another key": (lambda files: files.key.write_bytes((files.key.parent / "other.key").read_bytes()), "mismatch"),
    "a key with a password": (encrypt, "the key is encrypted"),
    "no authority": (lambda files: files.ca.write_text("nothing"), "holds no certificates of authorities"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_files_that_cannot_be_used_are_named(installed: Certificate, authority: Authority, case: str) -> None:
    spoil, words = SPOILT[case]
    (installed.key.parent / "other.key").write_bytes(authority.key.read_bytes())
    spoil(installed)
    with pytest.raises(ConfigError, match=words):
        tls.listening_identity(listener(installed))


def checked(daemon: dict[str, object]) -> list[tuple[str, str]]:
    return [(check.grade.value, check.text) for check in check_tls(DaemonSettings.model_validate(daemon))]


def test_check_refuses_a_key_that_others_may_read(installed: Certificate) -> None:
    own = {**installed.settings, "port": 2762}
    assert not [text for grade, text in checked({"tls": own}) if grade == "WRONG"]
    installed.key.chmod(0o644)
    assert [text for grade, text in checked({"tls": own}) if grade == "WRONG"] == [
        f"others may read or change the key {installed.key}"
    ]


@pytest.mark.parametrize(("mode", "warnings"), [(0o600, 0), (0o640, 0), (0o644, 1), (0o660, 1)])
def test_a_role_warns_of_a_key_that_others_may_read(
    installed: Certificate, store: Store, mode: int, warnings: int
) -> None:
    installed.key.chmod(mode)
    with capture_logs() as lines:
        CertificateWatch(store, {"listener": listener(installed)})
    warned_of = [line["key"] for line in lines if line["event"] == "tls.key_open_to_others"]
    assert warned_of == [str(installed.key)] * warnings


@pytest.mark.parametrize(
    ("days", "grade", "words"), [(10, "note", "holds for 10 days"), (EXPIRED, "WRONG", "ended 1 days ago")]
)
def test_check_says_how_long_a_certificate_holds(authority: Authority, days: int, grade: str, words: str) -> None:
    own = authority.issue(f"holds{days}", days=days)
    found = checked({"tls": {**own.settings, "port": 2762}})
    assert [found_grade for found_grade, text in found if f"{own.certificate} {words}" in text] == [grade]


def test_the_metric_counts_days(authority: Authority) -> None:
    own = authority.issue("metric", days=7)
    (family,) = CertificateCollector(DaemonSettings.model_validate({"tls": own.settings})).collect()
    days = {sample.labels["file"]: sample.value for sample in family.samples}
    assert days[str(own.certificate)] == pytest.approx(7, abs=0.1)
    assert days[str(own.ca)] == pytest.approx(90, abs=0.1)


def test_paths_count_from_the_file_and_destinations_have_those_of_the_daemon(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "daemon:\n  tls: {certificate: tls/own.pem, key: tls/own.key, ca: tls/ca.pem}\n"
        "  accept_from: [{ae_title: MR1, report_to: {host: a, port: 1, tls: true}}]\n"
        "  destinations:\n"
        "    - {name: a, ae_title: A, host: a, port: 1, tls: true, ask_at: {ae_title: Q, host: q, port: 2}}\n"
        "    - {name: b, ae_title: B, host: b, port: 1, tls: {certificate: b.pem, certificate_name: pacs}}\n"
        "    - {name: c, ae_title: C, host: c, port: 1}\n"
    )
    daemon = load_settings(path).daemon
    inherited = {name: tmp_path / "tls" / name for name in ("own.pem", "own.key", "ca.pem")}
    assert daemon.tls_port is None
    assert daemon.ports == (11112,)
    uses = daemon.tls_outwards
    assert set(uses) == {"MR1", "a", "b"}
    for name in ("MR1", "a"):
        assert (uses[name].certificate, uses[name].key, uses[name].ca) == tuple(inherited.values())
    assert (uses["b"].certificate, uses["b"].key, uses["b"].ca) == (tmp_path / "b.pem", None, inherited["ca.pem"])
    a, b, _ = daemon.destinations
    assert a.asked.tls == uses["a"]
    assert b.tls is not None
    assert b.tls.certificate_name == "pacs"


FILES = "{certificate: a, ca: b, port: 2762"


@pytest.mark.parametrize(
    ("daemon", "words"),
    [
        ("accept_from: [{ae_title: A, certificate_name: a}]", "nobody is asked for a certificate"),
        (
            f"tls: {FILES}, client_certificates: none}}\n  accept_from: [{{ae_title: A, certificate_name: a}}]",
            "nobody is asked for a certificate",
        ),
        (f"tls: {FILES}}}\n  metrics: {{port: 2762}}", "choose another for metrics"),
        ("tls: {certificate: a}", "daemon.tls.ca: is missing"),
        ("destinations: [{name: a, ae_title: A, host: a, port: 1, tls: true}]", "tls.ca: is missing"),
        (f"tls: {FILES}, prot: 1}}", "did you mean port"),
        (
            "destinations: [{name: a, ae_title: A, host: a, port: 1, tls: {ca: b, certificate_name: .a}}]",
            "tls.certificate_name",
        ),
    ],
)
def test_the_settings_refuse_what_cannot_hold(tmp_path: Path, daemon: str, words: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"daemon:\n  {daemon}\n")
    with pytest.raises(ConfigError, match=words):
        load_settings(path)


def test_the_same_port_twice_is_tls_alone() -> None:
    daemon = DaemonSettings.model_validate({"port": 2762, "tls": {"certificate": "a", "ca": "b", "port": 2762}})
    assert (daemon.plain_port, daemon.tls_port, daemon.ports) == (None, 2762, (2762,))


def test_a_watched_file_is_looked_at_by_more_than_its_time(installed: Certificate, authority: Authority) -> None:
    """A replaced file may carry the old time: rsync -t, cp -p."""
    identity = tls.listening_identity(listener(installed))
    before = {path: path.stat() for path in (installed.certificate, installed.key)}
    install(authority.issue("same time"), installed)
    for path, state in before.items():
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert shown_by(identity.context(), authority.ca) == {"same time"}
