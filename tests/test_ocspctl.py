# SPDX-License-Identifier: MIT
"""The command-line tool: what the shim would do about a certificate, said in one line."""

import os
import stat
import subprocess
import time
from email.utils import formatdate

import ca
import pytest
import responder as behaviours
from client import handshake
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID as Access
from servers import BUILD
from support import free_port


@pytest.fixture
def ocspctl(authority, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    store.chmod(0o755)

    def run(*arguments, **environment):
        """Finds the test's authority in the system's trust store, as it were."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("OCSPRELOAD") and not name.endswith("_proxy")
        }
        inherited["SSL_CERT_FILE"] = str(authority.file)
        inherited["OCSPRELOAD_STORE"] = str(store)
        result = subprocess.run(
            [str(BUILD / "ocspctl"), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**inherited, **environment},
            timeout=60,
        )
        return result

    run.store = store
    return run


def one_line(result, code):
    """What it said, wherever, if that was one line and the exit status was this."""
    text = (result.stdout + result.stderr).decode()
    assert (result.returncode, text.count("\n")) == (code, 1), text
    return text.rstrip("\n")


def test_alone_it_says_how_it_is_used(ocspctl):
    result = ocspctl()
    assert result.returncode == 2
    assert result.stdout == b""
    for command in (b"ocspctl fetch ", b"ocspctl check ", b"ocspctl doctor "):
        assert command in result.stderr


@pytest.mark.parametrize("words", [["help"], ["--help"], ["doctor", "--help"]], ids=" ".join)
def test_help_goes_to_standard_output_and_fits_a_screen(ocspctl, words):
    result = ocspctl(*words)
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 84


def test_it_knows_its_version(ocspctl):
    assert one_line(ocspctl("--version"), 0).startswith("ocspctl ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["fetch"],
        ["fetch", "one.pem", "two.pem"],
        ["check", "one.pem"],
        ["doctor", "-x", "one.pem"],
        ["fetch", "-t", "soon", "one.pem"],
        ["fetch", "-t", "0", "one.pem"],
        ["check", "-a", "", "one.pem", "two.der"],
        ["fetch", "-i"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_said_and_exits_2(ocspctl, arguments):
    result = ocspctl(*arguments)
    assert (result.returncode, result.stdout) == (2, b"")
    assert result.stderr.startswith(b"ocspctl")


def test_a_file_that_cannot_be_read_is_said(ocspctl, tmp_path):
    missing = tmp_path / "missing.pem"
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for command in ("fetch", "doctor"):
        line = one_line(ocspctl(command, missing), 1)
        assert line == f"ocspctl: {missing}: No such file or directory"
        assert "no PEM certificate" in one_line(ocspctl(command, empty), 1)
        assert "Is a directory" in one_line(ocspctl(command, tmp_path), 1)


# fetch


def test_fetch_writes_a_good_response(ocspctl, issue, responder, tmp_path):
    leaf = issue("www.example.org")
    out = tmp_path / "out.der"
    assert one_line(ocspctl("fetch", "-o", out, leaf.chain_file), 0).startswith("good: usable ")
    assert stat.S_IMODE(out.stat().st_mode) == 0o644
    assert list(tmp_path.glob("out.der.*")) == []
    assert one_line(ocspctl("check", leaf.chain_file, out), 0).startswith("good: usable ")
    assert responder.count(leaf) == 1


def test_fetch_writes_to_standard_output(ocspctl, issue, tmp_path):
    leaf = issue("www.example.org")
    result = ocspctl("fetch", "-o", "-", leaf.chain_file)
    assert result.returncode == 0
    assert result.stderr.startswith(b"good: usable ")
    file = tmp_path / "copy.der"
    file.write_bytes(result.stdout)
    assert one_line(ocspctl("check", leaf.chain_file, file), 0).startswith("good: usable ")


@pytest.mark.parametrize(
    "behaviour, words",
    [
        (behaviours.revoked(), "revoked: since "),
        (behaviours.unknown(), "unknown: "),
        (behaviours.error("TRY_LATER"), ": tryLater"),
        (behaviours.expired(), ": expired"),
        (behaviours.wrong_serial(), ": an answer about another certificate"),
        (behaviours.garbage(), ": this is not an OCSP response"),
        (behaviours.http_status(404, behaviours.good()), ": HTTP status 404"),
    ],
    ids=["revoked", "unknown", "try-later", "expired", "serial", "garbage", "404"],
)
def test_fetch_leaves_the_old_file_when_the_answer_is_not_good(
    ocspctl, issue, tmp_path, behaviour, words
):
    leaf = issue("www.example.org", behaviour=behaviour)
    out = tmp_path / "out.der"
    out.write_bytes(b"old")
    assert words in one_line(ocspctl("fetch", "-o", out, leaf.chain_file), 1)
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.der"]


def test_fetch_puts_the_response_where_servers_take_it_from(
    ocspctl, issue, responder, s_server, tmp_path
):
    leaf = issue()
    stored = {"OCSPRELOAD_STORE": str(tmp_path / "store")}
    assert "nothing is stored" in one_line(ocspctl("status", leaf.chain_file, **stored), 1)
    assert one_line(ocspctl("fetch", leaf.chain_file, **stored), 0).startswith("good: usable ")
    assert ": good: usable " in one_line(ocspctl("status", leaf.chain_file, **stored), 0)
    server = s_server(leaf, environment={**stored, "OCSPRELOAD_FETCH": "off"})
    assert handshake(server.port).stapled
    assert responder.count(leaf) == 1


def test_fetch_does_not_ask_for_what_is_fresh_unless_it_must(ocspctl, issue, responder):
    leaf = issue()
    for arguments, count in (([], 1), ([], 1), (["-f"], 2)):
        line = one_line(ocspctl("fetch", *arguments, leaf.chain_file), 0)
        assert line.startswith("good: usable ")
        assert responder.count(leaf) == count


def test_fetch_asks_past_the_half_of_a_life_also_a_cache_but_not_twice(ocspctl, issue, responder):
    how_long = (("Cache-Control", "max-age=7200"), ("Date", formatdate(usegmt=True)))
    leaf = issue(behaviour=behaviours.headers(behaviours.good(4000, this_update=-6000), *how_long))

    def count_of_fetch(age):
        """Of what was stored so many seconds ago."""
        for file in ocspctl.store.glob("*.der"):
            os.utime(file, (time.time() - age,) * 2)
        one_line(ocspctl("fetch", leaf.chain_file), 0)
        return responder.count(leaf)

    # Stored when a quarter of its life was over: now it is half of it, whatever the cache said.
    assert [count_of_fetch(age) for age in (0, 0, 3500)] == [1, 1, 2]
    # The same has come, and the next of cron's runs does not ask for it.
    assert count_of_fetch(60) == 2


def test_fetch_without_a_store_says_what_the_answer_is(ocspctl, issue):
    leaf = issue()
    line = one_line(ocspctl("fetch", leaf.chain_file, OCSPRELOAD_STORE="off"), 0)
    assert line.startswith("good: usable ")


def test_fetch_that_has_nowhere_to_store_is_a_failure(ocspctl, issue, tmp_path):
    """Or a timer would go on for months without anybody having a response."""
    leaf = issue()
    directory = tmp_path / "everybodys"
    directory.mkdir()
    directory.chmod(0o777)
    result = ocspctl("fetch", leaf.chain_file, OCSPRELOAD_STORE=str(directory))
    assert (result.returncode, result.stdout) == (1, b"")
    assert result.stderr.splitlines()[-1].startswith(b"ocspctl: the response is not stored: ")
    assert not any(directory.iterdir())


def test_fetch_tells_servers_of_a_revocation(ocspctl, issue, responder, s_server, tmp_path):
    leaf = issue()
    stored = {"OCSPRELOAD_STORE": str(tmp_path / "store")}
    assert one_line(ocspctl("fetch", leaf.chain_file, **stored), 0).startswith("good: usable ")
    responder.answer(leaf, behaviours.revoked())
    assert one_line(ocspctl("fetch", "-f", leaf.chain_file, **stored), 1).startswith("revoked: ")
    assert "revoked: " in one_line(ocspctl("status", leaf.chain_file, **stored), 1)
    server = s_server(leaf, environment={**stored, "OCSPRELOAD_FETCH": "off"})
    assert not handshake(server.port).stapled


def test_fetch_asks_the_responders_in_the_certificates_order(ocspctl, issue, responder):
    leaf = issue(
        "www.example.org",
        responder=[
            f"http://127.0.0.1:{free_port()}/z",
            f"{responder.url}y/",
            f"{responder.url}a/",
        ],
    )
    assert one_line(ocspctl("fetch", leaf.chain_file), 0).startswith("good: usable ")
    assert [asked.path.startswith("/y/") for asked in responder.asked_for(leaf)] == [True]


def test_fetch_may_be_told_the_responder(ocspctl, authority, responder):
    leaf = authority.issue("www.example.org")
    responder.answer(leaf, behaviours.good())
    assert "names no OCSP responder" in one_line(ocspctl("fetch", leaf.chain_file), 1)
    for arguments, environment in (
        (["-u", responder.url], {}),
        ([], {"OCSPRELOAD_RESPONDER": responder.url}),
    ):
        result = ocspctl("fetch", *arguments, leaf.chain_file, **environment)
        assert one_line(result, 0).startswith("good: usable ")


def test_fetch_gives_up_in_time(ocspctl, issue):
    leaf = issue("www.example.org", behaviour=behaviours.hanging())
    line = one_line(ocspctl("fetch", "-t", "1", leaf.chain_file), 1)
    assert line.startswith("failed: http://127.0.0.1:")
    assert "1 s" in line


def test_fetch_says_when_the_file_cannot_be_written(ocspctl, issue, tmp_path):
    leaf = issue("www.example.org")
    out = tmp_path / "missing" / "out.der"
    assert f"{out} cannot be written: No such" in one_line(
        ocspctl("fetch", "-o", out, leaf.chain_file), 1
    )


# doctor


def test_doctor_finds_nothing_wrong(ocspctl, issue, responder):
    leaf = issue("www.example.org", usage="server")
    line = one_line(ocspctl("doctor", leaf.chain_file), 0)
    serial = f"{leaf.serial:X}"
    serial = "0" * (len(serial) % 2) + serial
    assert line.startswith(
        f"ok: www.example.org (serial {serial}): {responder.url} answered: good until "
    )


def test_doctor_sees_that_it_is_off(ocspctl, issue):
    leaf = issue("www.example.org")
    line = one_line(ocspctl("doctor", leaf.chain_file, OCSPRELOAD="off"), 1)
    assert line.endswith("): OCSPRELOAD is off")


def test_doctor_knows_a_self_signed_certificate(ocspctl, authority):
    line = one_line(ocspctl("doctor", authority.root.file), 1)
    assert line.startswith("not stapled: Root (serial ")
    assert "self-signed" in line


def test_doctor_knows_a_clients_certificate(ocspctl, issue):
    leaf = issue("somebody", usage="client")
    assert "lacks serverAuth" in one_line(ocspctl("doctor", leaf.chain_file), 1)
    leaf = issue("somebody", usage="client server")
    assert one_line(ocspctl("doctor", leaf.chain_file), 0).startswith("ok: ")


def test_doctor_misses_a_responder(ocspctl, authority):
    leaf = authority.issue("www.example.org")
    assert "names no OCSP responder" in one_line(ocspctl("doctor", leaf.chain_file), 1)


def test_doctor_says_what_to_do_about_a_missing_issuer(ocspctl, issue, authority):
    leaf = issue("www.example.org")
    nowhere = {"SSL_CERT_FILE": "/dev/null"}
    line = one_line(ocspctl("doctor", leaf.certificate_file, **nowhere), 1)
    assert "issuer was not found" in line and "OCSPRELOAD_TRUSTED" in line
    line = one_line(ocspctl("doctor", "-i", authority.file, leaf.certificate_file, **nowhere), 0)
    assert line.startswith("ok: ")


def test_doctor_says_why_a_file_of_issuers_does_not_help(ocspctl, issue, authority, tmp_path):
    leaf = issue()
    missing = tmp_path / "missing.pem"
    nowhere = {"SSL_CERT_FILE": str(authority.root.file)}
    trusted = {**nowhere, "OCSPRELOAD_TRUSTED": str(missing)}
    said = f"its issuer was not found ({missing}: No such file or directory): put "
    assert said in one_line(ocspctl("doctor", "-i", missing, leaf.certificate_file, **nowhere), 1)
    assert said in one_line(ocspctl("doctor", leaf.certificate_file, **trusted), 1)


def test_doctor_says_why_a_responder_does_not_answer(ocspctl, issue, responder):
    leaf = issue("www.example.org")
    responder.stop()
    line = one_line(ocspctl("doctor", leaf.chain_file), 1)
    assert line.startswith("not stapled: www.example.org (serial ")
    assert f"{responder.url}: " in line and "refused" in line


def test_doctor_says_why_an_answer_is_refused(ocspctl, issue, responder):
    leaf = issue("www.example.org", behaviour=behaviours.revoked())
    line = one_line(ocspctl("doctor", leaf.chain_file), 1)
    assert line.endswith(f"{responder.url} answered: the certificate is revoked")
    responder.answer(leaf, behaviours.bad_signature())
    assert "signature is wrong" in one_line(ocspctl("doctor", leaf.chain_file), 1)


def test_doctor_asks_nobody_where_servers_must_not(ocspctl, issue, responder):
    leaf = issue()
    off = {"OCSPRELOAD_FETCH": "off"}
    line = one_line(ocspctl("doctor", leaf.chain_file, **off), 1)
    assert "OCSPRELOAD_FETCH is off, and nothing is stored for it" in line
    assert responder.count(leaf) == 0
    one_line(ocspctl("fetch", leaf.chain_file, **off), 0)
    line = one_line(ocspctl("doctor", leaf.chain_file, **off), 0)
    assert line.startswith("ok: ") and "what is stored is good until" in line
    responder.answer(leaf, behaviours.revoked())
    one_line(ocspctl("fetch", "-f", leaf.chain_file, **off), 1)
    assert "is of no use: the certificate is rev" in one_line(
        ocspctl("doctor", leaf.chain_file, **off), 1
    )
    assert responder.count(leaf) == 2


@pytest.mark.parametrize(
    "times, said",
    [
        ({"not_before": -864000, "not_after": -86400}, "the certificate itself has expired at 20"),
        ({"not_before": 86400}, "the certificate itself begins at 20"),
    ],
    ids=["expired", "not begun"],
)
def test_doctor_looks_at_the_certificates_own_time(ocspctl, issue, times, said):
    line = one_line(ocspctl("doctor", issue(**times).chain_file), 0)
    assert said in line and line.endswith("(is the clock right?)")
    assert "itself" not in one_line(ocspctl("doctor", issue().chain_file), 0)


# How a certificate is called and read


def sign(authority, subject, *extensions):
    key = ca.key("ec", "leaf")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(0x0A1B)
        .not_valid_before(ca.now() - ca.seconds(60))
        .not_valid_after(ca.now() + ca.seconds(3600))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, False)
    return builder.sign(authority.key, ca.SHA256)


def responders(*urls):
    return x509.AuthorityInformationAccess(
        [x509.AccessDescription(Access.OCSP, x509.UniformResourceIdentifier(url)) for url in urls]
    )


def name_of(ocspctl, tmp_path, authority, subject, *extensions):
    file = tmp_path / "named.pem"
    file.write_bytes(ca.pem(sign(authority, subject, *extensions)))
    result = ocspctl("doctor", file)
    line = (result.stdout + result.stderr).decode("ascii")
    assert line.startswith("not stapled: ") and line.count("\n") == 1, line
    return line[len("not stapled: ") : line.index(": it names no")]


def test_a_certificate_is_called_by_its_first_dns_name_else_by_its_subject(
    ocspctl, tmp_path, authority
):
    names = x509.SubjectAlternativeName(
        [x509.RFC822Name("a@example.org"), x509.DNSName("b.example.org"), x509.DNSName("c")]
    )
    no_dns = x509.SubjectAlternativeName([x509.RFC822Name("a@example.org")])
    subject = ca.common_name("the subject")
    for extensions, expected in (
        ([names], "b.example.org"),
        ([no_dns], "the subject"),
        ([], "the subject"),
    ):
        called = name_of(ocspctl, tmp_path, authority, subject, *extensions)
        assert called == f"{expected} (serial 0A1B)"
    called = name_of(ocspctl, tmp_path, authority, x509.Name([]))
    assert called == "certificate (serial 0A1B)"


def test_a_name_cannot_break_a_line_or_a_terminal(ocspctl, tmp_path, authority):
    subject = ca.common_name("a\nb\x1b[31m\u00e9")
    assert name_of(ocspctl, tmp_path, authority, subject) == "a?b?[31m?? (serial 0A1B)"
    called = name_of(ocspctl, tmp_path, authority, ca.common_name("x" * 64))
    assert called == "x" * 64 + " (serial 0A1B)"
    names = x509.SubjectAlternativeName([x509.DNSName("y" * 1000)])
    called = name_of(ocspctl, tmp_path, authority, subject, names)
    assert called.startswith("yyyyy") and called.endswith("y (serial 0A1B)")
    assert len(called) < 128


def test_urls_that_are_no_urls_are_left_out(ocspctl, tmp_path, authority, responder):
    clean = f"{responder.url}"
    urls = ["http://127.0.0.1:1/a b", "http://127.0.0.1:1/\n", f"http://127.0.0.1:1/{'x' * 2000}"]
    certificate = sign(authority, ca.common_name("x"), responders(*urls, clean))
    file = tmp_path / "urls.pem"
    file.write_bytes(ca.pem(certificate))
    line = one_line(ocspctl("doctor", file), 1)
    assert f": {clean}: unauthorized" in line
    assert len(responder.asked) == 1


def test_a_key_before_the_certificate_is_no_hindrance(ocspctl, issue):
    leaf = issue("www.example.org")
    text = leaf.key_file.read_bytes() + leaf.chain_file.read_bytes()
    leaf.pem_file.write_bytes(text)
    assert one_line(ocspctl("doctor", leaf.pem_file), 0).startswith("ok: ")


def test_a_fetch_posts_what_is_too_long_for_get(ocspctl, issue, responder):
    leaf = issue("www.example.org", path="x" * 200)
    assert one_line(ocspctl("fetch", leaf.chain_file), 0).startswith("good: ")
    (asked,) = responder.asked_for(leaf)
    assert asked.method == "POST"
    assert (asked.hash_name, asked.has_nonce) == ("sha1", False)
