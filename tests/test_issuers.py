# SPDX-License-Identifier: MIT
"""Where the issuer's certificate is found when the server does not send it, and which of several."""

import os
import subprocess

import ca
import pytest
import repository as content
import responder as r
from client import assert_strict, handshake
from servers import BUILD, Site
from support import free_port, wait_until
from test_hazards import run_host

PAST = {"not_before": -7200, "not_after": -3600}


@pytest.fixture
def repository():
    with content.Repository() as running:
        yield running


@pytest.fixture
def lonely(issue, authority, repository):
    """A leaf that is sent alone and says where its issuer is."""

    def make(*urls, **options):
        urls = urls or [repository.put("/ca.crt", content.der(authority.certificate))]
        return issue(ca_issuers=urls, **options).with_chain()

    return make


@pytest.fixture
def impostor(authority):
    """Has the issuer's name and another key."""
    return authority.again(new_key=True)


@pytest.fixture
def other_root(tmp_path_factory):
    return ca.Authority.create(tmp_path_factory.mktemp("other-root"), "Other Root")


def says(server, *words):
    return any(all(word in line for word in words) for line in server.shim_lines())


# Which of several


def _pairs(authority, other_root):
    right = authority.certificate
    return {
        "expired": authority.again(**PAST).certificate,
        "future": authority.again(not_before=3600).certificate,
        "rekeyed": authority.again(new_key=True).certificate,
        "cross-signed": authority.again(parent=other_root).certificate,
        "other encoding": authority.again(subject=ca.printable("Intermediate")).certificate,
        "itself": right,
    }


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize(
    "other", ["expired", "future", "rekeyed", "cross-signed", "other encoding", "itself"]
)
def test_the_right_one_of_two_issuers_is_taken_wherever_it_stands(
    s_server, issue, authority, other_root, tmp_path, other, first
):
    other = _pairs(authority, other_root)[other]
    chain = [authority.certificate, other] if first else [other, authority.certificate]
    leaf = issue().with_chain(*chain)
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_an_issuer_whose_name_is_encoded_otherwise_is_not_made_do_with_at_once(
    shim, issue, authority
):
    leaf = issue("localhost")
    other = authority.again(subject=ca.printable("Intermediate")).certificate
    early = leaf.with_chain(other).chain_file

    def is_stapled():
        ran = run_host(shim, leaf, "complete", early, 20)
        stapled, milliseconds = (int(word) for word in ran.stdout.split() if word.isdigit())
        # A machine that takes a tenth of a second between the two is no reason to fail.
        assert stapled or milliseconds > 50, ran.stderr
        return stapled

    wait_until(is_stapled)


def test_an_expired_issuer_in_the_chain_is_replaced_from_the_trusted_file(
    s_server, issue, authority, tmp_path
):
    leaf = issue().with_chain(authority.again(**PAST).certificate)
    server = s_server(leaf, environment={"OCSPRELOAD_TRUSTED": str(authority.file)})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_an_expired_issuer_alone_staples_nothing_and_is_told(
    s_server, issue, authority, responder
):
    leaf = issue().with_chain(authority.again(**PAST).certificate)
    environment = {"OCSPRELOAD_STARTUP_WAIT": "300ms"}
    server = s_server(leaf, environment=environment)
    assert not handshake(server.port).stapled
    wait_until(lambda: says(server, "error", "issuer"), what=server.log)
    assert responder.count(leaf) == 0


def test_an_issuer_that_ends_while_the_server_runs_is_replaced(
    s_server, issue, authority, tmp_path
):
    # Not before the server has started, however slow it is.
    short = authority.again(not_after=15)
    leaf = issue(behaviour=r.good(validity=60)).with_chain(short.certificate)
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    server = s_server(leaf, environment={"OCSPRELOAD_TRUSTED": str(trusted)})
    assert handshake(server.port).stapled
    (trusted / "new.pem").write_bytes(authority.file.read_bytes())
    wait_until(
        lambda: ca.now() > short.certificate.not_valid_after and handshake(server.port).stapled,
        timeout=60,
        what=server.log,
    )
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_a_name_in_another_encoding_alone_is_found_but_no_response_for_it_would_please_all(
    s_server, issue, authority, responder
):
    """OpenSSL's clients hash the CA's own encoding, others the certificate's."""
    printable = authority.again(subject=ca.printable("Intermediate"))
    leaf = issue().with_chain(printable.certificate)
    server = s_server(leaf, environment={"OCSPRELOAD_STARTUP_WAIT": "2s"})
    assert not handshake(server.port).stapled
    wait_until(lambda: says(server, "no usable response", "not by the issuer"), what=server.log)
    assert responder.count(leaf) >= 1


# OCSPRELOAD_TRUSTED


def _hash(path):
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", path]
    return subprocess.check_output(command, text=True).strip()


@pytest.mark.parametrize("numbers", [(0, 1), (1, 0)], ids=["last", "first"])
def test_a_hashed_directory_is_searched_by_its_hashes(
    s_server, issue, authority, impostor, tmp_path, numbers
):
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    for number, one in zip(numbers, (impostor, authority)):
        (trusted / f"{_hash(authority.file)}.{number}").write_bytes(one.file.read_bytes())
    leaf = issue().with_chain()
    server = s_server(leaf, environment={"OCSPRELOAD_TRUSTED": str(trusted)})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


@pytest.mark.parametrize("name", ["ca.pem", "ca.crt", "ca.cer"])
def test_a_directory_without_hashes_is_searched_by_its_endings(
    s_server, issue, authority, impostor, tmp_path, name
):
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / name).write_bytes(authority.file.read_bytes())
    (trusted / "impostor.pem").write_bytes(impostor.file.read_bytes())
    (trusted / "garbage.crt").write_bytes(os.urandom(1000))
    (trusted / "empty.pem").write_bytes(b"")
    (trusted / "directory.pem").mkdir()
    (trusted / "dangling.crt").symlink_to("/nowhere")
    os.mkfifo(trusted / "fifo.pem")
    leaf = issue().with_chain()
    server = s_server(leaf, environment={"OCSPRELOAD_TRUSTED": str(trusted)})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


@pytest.mark.parametrize("encode", [content.der, content.pkcs7_der, content.pkcs7_pem])
def test_a_trusted_file_may_be_der_or_a_bundle(s_server, issue, authority, tmp_path, encode):
    trusted = tmp_path / "trusted"
    trusted.write_bytes(encode(authority.certificate, authority.root.certificate))
    leaf = issue().with_chain()
    server = s_server(leaf, environment={"OCSPRELOAD_TRUSTED": str(trusted)})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_a_trusted_directory_that_does_not_help_is_told(s_server, issue, impostor, tmp_path):
    trusted = tmp_path / "trusted"
    trusted.mkdir()
    (trusted / "impostor.pem").write_bytes(impostor.file.read_bytes())
    environment = {"OCSPRELOAD_TRUSTED": str(trusted), "OCSPRELOAD_STARTUP_WAIT": "300ms"}
    server = s_server(issue().with_chain(), environment=environment)
    assert not handshake(server.port).stapled
    wait_until(lambda: says(server, str(trusted), "the issuer is not in it"), what=server.log)


# The context's own stores


@pytest.mark.parametrize("option", ["-CAfile", "-verifyCAfile", "-chainCAfile"])
def test_the_issuer_is_found_among_the_cas_that_the_host_has_loaded(
    s_server, issue, authority, impostor, tmp_path, option
):
    cas = tmp_path / "cas.pem"
    cas.write_bytes(ca.pem(impostor.certificate, authority.certificate))
    leaf = issue().with_chain()
    server = s_server(leaf, option, cas)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_the_issuer_is_found_among_cas_that_are_loaded_after_the_certificate(
    python_server, issue, authority, tmp_path
):
    leaf = issue().with_chain()
    server = python_server(leaf.pem_file, "--ca", authority.file)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def test_a_hashed_directory_of_the_hosts_is_left_as_the_host_has_it(
    python_server, issue, authority, tmp_path
):
    """To look into it would make the host see certificates in its store that it never met."""
    cas = tmp_path / "cas"
    cas.mkdir()
    (cas / f"{_hash(authority.file)}.0").write_bytes(authority.file.read_bytes())
    leaf = issue().with_chain()
    environment = {"OCSPRELOAD_STARTUP_WAIT": "300ms"}
    server = python_server(leaf.pem_file, "--ca", cas, environment=environment)
    assert not handshake(server.port).stapled


# caIssuers


@pytest.mark.parametrize("encode", [content.der, content.pem, content.pkcs7_der, content.pkcs7_pem])
def test_the_issuer_is_downloaded_for_the_first_handshake(
    s_server, lonely, authority, impostor, repository, responder, tmp_path, encode
):
    several = [authority.certificate, impostor.certificate, authority.root.certificate]
    leaf = lonely(repository.put("/ca", encode(*several)))
    server = s_server(leaf)
    assert_strict(handshake(server.port).staple, leaf, tmp_path)
    assert repository.asked == ["/ca"]
    assert repository.accepted == ["*/*"]
    assert responder.count(leaf) == 1
    assert says(server, "its issuer's certificate comes from", "/ca")


def test_a_server_that_sends_its_chain_downloads_nothing(nginx, issue, repository):
    leaf = issue(ca_issuers=[repository.put_hanging("/ca")])
    server = nginx(leaf)
    assert handshake(server.port).stapled
    assert repository.asked == []


def test_a_chain_that_comes_late_ends_a_download_that_hangs(
    late_chain_server, issue, repository, tmp_path
):
    leaf = issue(ca_issuers=[repository.put_hanging("/ca")])
    server = late_chain_server(leaf)
    # On a slow machine the chain may be there before the download begins.
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


def _impostor(repository, impostor, authority):
    return repository.put("/wrong", content.der(impostor.certificate))


def _root(repository, impostor, authority):
    return repository.put("/wrong", content.der(authority.root.certificate))


def _expired(repository, impostor, authority):
    return repository.put("/wrong", content.der(authority.again(**PAST).certificate))


def _garbage(repository, impostor, authority):
    return repository.put("/wrong", b"0" + bytes(range(256)))


def _empty(repository, impostor, authority):
    return repository.put("/wrong", b"")


def _html(repository, impostor, authority):
    return repository.put("/wrong", b"<html>Log in to the network</html>")


def _cut(repository, impostor, authority):
    return repository.put("/wrong", content.der(authority.certificate)[:-1])


def _missing(repository, impostor, authority):
    return repository.url + "/missing"


def _endless(repository, impostor, authority):
    return repository.put_endless("/wrong")


def _https(repository, impostor, authority):
    return "https://127.0.0.1/ca"


def _ldap(repository, impostor, authority):
    return "ldap:///CN=CA,DC=example?cACertificate?base"


def _circle(repository, impostor, authority):
    return repository.put_redirect("/circle", "/circle")


def _refused(repository, impostor, authority):
    return "http://127.0.0.1:9/ca"


WRONG = [
    (_impostor, "not the certificate that signed"),
    (_root, "not the certificate that signed"),
    (_expired, "has expired"),
    (_garbage, "not the certificate that signed"),
    (_empty, "not the certificate that signed"),
    (_html, "not the certificate that signed"),
    (_cut, "not the certificate that signed"),
    (_missing, "HTTP status 404"),
    (_endless, ""),
    (_https, "https"),
    (_ldap, "ldap"),
    (_circle, "one too many"),
    (_refused, "connection refused"),
]


@pytest.mark.parametrize("make, words", WRONG, ids=[make.__name__[1:] for make, _ in WRONG])
def test_what_did_not_sign_the_certificate_is_refused_and_the_next_url_tried(
    s_server, lonely, authority, impostor, repository, responder, store, stored, make, words
):
    wrong = make(repository, impostor, authority)
    leaf = lonely(wrong)
    environment = {"OCSPRELOAD_STARTUP_WAIT": "500ms", **stored}
    server = s_server(leaf, environment=environment)
    assert not handshake(server.port).stapled
    wait_until(lambda: says(server, "error", wrong, words), what=server.log)
    assert responder.count(leaf) == 0
    assert list(store.glob("*.crt")) == []
    right = repository.put("/right", content.der(authority.certificate))
    server = s_server(lonely(wrong, right))
    assert handshake(server.port).stapled


def test_a_redirect_is_followed(s_server, lonely, authority, repository):
    repository.put("/there", content.der(authority.certificate))
    server = s_server(lonely(repository.put_redirect("/here", "/there")))
    assert handshake(server.port).stapled
    assert repository.asked == ["/here", "/there"]


def test_the_issuer_is_downloaded_through_the_proxy(s_server, authority, repository, responder):
    repository.put("http://ca.invalid/ca.crt", content.der(authority.certificate))
    leaf = authority.issue(responder=responder.url, ca_issuers=["http://ca.invalid/ca.crt"])
    responder.answer(leaf, r.good())
    environment = {"OCSPRELOAD_HTTP_PROXY": repository.url, "no_proxy": f"127.0.0.1:{responder.port}"}
    server = s_server(leaf.with_chain(), environment=environment)
    assert handshake(server.port).stapled
    assert repository.asked == ["http://ca.invalid/ca.crt"]


def test_the_issuer_is_downloaded_past_a_proxy_that_is_down(s_server, lonely, repository):
    environment = {"OCSPRELOAD_HTTP_PROXY": f"http://127.0.0.1:{free_port()} direct"}
    server = s_server(lonely(), environment=environment)
    assert handshake(server.port).stapled
    # Neither was the proxy tried again for the response: it is known to be down.
    assert server.log().count("directly") == 1
    assert len(repository.asked) == 1


def test_where_nothing_may_be_fetched_no_issuer_is(s_server, lonely, repository, stored):
    environment = {"OCSPRELOAD_FETCH": "off", **stored}
    server = s_server(lonely(), environment=environment)
    assert not handshake(server.port).stapled
    assert repository.asked == []


def test_certificates_of_one_issuer_share_a_download(
    nginx, issue, authority, repository, responder
):
    url = repository.put("/ca", content.der(authority.certificate), delay=0.3)
    names = [f"n{number}.example.test" for number in range(20)]
    leaves = [issue(name, ca_issuers=[url]).with_chain() for name in names]
    sites = [Site(leaf, name=name) for leaf, name in zip(leaves, names)]
    server = nginx(*sites, environment={"OCSPRELOAD_STARTUP_WAIT": "60s"})
    assert all(handshake(server.port, sni=name).stapled for name in names)
    assert repository.asked == ["/ca"]


def test_certificates_of_one_issuer_share_a_failure(nginx, issue, repository):
    names = [f"n{number}.example.test" for number in range(20)]
    url = repository.url + "/missing"
    leaves = [issue(name, ca_issuers=[url]).with_chain() for name in names]
    sites = [Site(leaf, name=name) for leaf, name in zip(leaves, names)]
    server = nginx(*sites)
    wait_until(lambda: says(server, "error", "HTTP status 404"), what=server.log)
    assert not any(handshake(server.port, sni=name).stapled for name in names)

    def count():
        return sum("HTTP status 404" in line for line in server.shim_lines())

    # One for each time that it was asked, whatever the machine's pace; the last may not be said yet.
    wait_until(lambda: count() == len(repository.asked), what=server.log)
    assert len(repository.asked) < len(names)


def test_processes_share_a_download(s_server, issue, authority, repository, stored):
    url = repository.put("/ca", content.der(authority.certificate), delay=0.3)
    leaves = [issue(ca_issuers=[url]).with_chain() for _ in range(4)]
    environment = {"OCSPRELOAD_STARTUP_WAIT": "60s", **stored}
    servers = [s_server(leaf, environment=environment) for leaf in leaves]
    results = [handshake(server.port).stapled for server in servers]
    assert all(results), [server.log() for server, result in zip(servers, results) if not result]
    assert repository.asked == ["/ca"]


def test_a_repository_that_is_mended_is_asked_again(s_server, lonely, authority, repository):
    leaf = lonely(repository.url + "/ca")
    server = s_server(leaf, environment={"OCSPRELOAD_STARTUP_WAIT": "300ms"})
    wait_until(lambda: says(server, "error", "HTTP status 404"), what=server.log)
    repository.put("/ca", content.der(authority.certificate))
    wait_until(lambda: handshake(server.port).stapled, timeout=60, what=server.log)


# What is kept of it


@pytest.fixture
def warm(s_server, lonely, repository, responder, store, stored):
    """A leaf whose issuer and response are in the store, and the network is down."""
    leaf = lonely()
    server = s_server(leaf, environment=stored)
    assert handshake(server.port).stapled
    wait_until(lambda: list(store.glob("*.crt")) and list(store.glob("*.der")))
    server.stop()
    repository.stop()
    responder.stop()
    return leaf


@pytest.mark.parametrize("fetch", ["on", "off"])
def test_a_restart_needs_no_network_for_the_issuer(s_server, warm, stored, tmp_path, fetch):
    server = s_server(warm, environment={"OCSPRELOAD_FETCH": fetch, **stored})
    assert_strict(handshake(server.port).staple, warm, tmp_path)
    assert "ocspreload" not in server.threads()


@pytest.mark.parametrize("lie", ["impostor", "garbage", "nothing", "writable"])
def test_a_stored_issuer_is_believed_no_more_than_any(
    s_server, warm, store, stored, repository, responder, impostor, tmp_path, lie
):
    (file,) = store.glob("*.crt")
    if lie == "impostor":
        file.write_bytes(content.der(impostor.certificate))
    elif lie == "writable":
        file.chmod(0o666)
    else:
        file.write_bytes(os.urandom(500) if lie == "garbage" else b"")
    environment = {"OCSPRELOAD_STARTUP_WAIT": "300ms", **stored}
    server = s_server(warm, environment={"OCSPRELOAD_FETCH": "off", **environment})
    assert not handshake(server.port).stapled
    server.stop()
    with repository, responder:
        server = s_server(warm, environment=stored)
        assert_strict(handshake(server.port).staple, warm, tmp_path)
    wait_until(lambda: file.read_bytes() == content.der(warm.authority.certificate))


def test_an_issuer_from_a_file_is_kept_for_processes_without_a_thread(
    s_server, issue, authority, responder, store, stored, tmp_path
):
    leaf = issue().with_chain()
    server = s_server(leaf, environment={"OCSPRELOAD_TRUSTED": str(authority.file), **stored})
    assert handshake(server.port).stapled
    wait_until(lambda: list(store.glob("*.crt")) and list(store.glob("*.der")))
    server.stop()
    responder.stop()
    server = s_server(leaf, environment={"OCSPRELOAD_FETCH": "off", **stored})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


# The tool


@pytest.fixture
def ocspctl(stored):
    def run(*arguments, **environment):
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("OCSPRELOAD") and not name.endswith("_proxy")
        }
        return subprocess.run(
            [str(BUILD / "ocspctl"), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**inherited, **stored, "SSL_CERT_FILE": "/dev/null", **environment},
            timeout=60,
        )

    return run


def test_doctor_says_where_the_issuer_came_from(ocspctl, lonely, repository, store):
    leaf = lonely()
    ran = ocspctl("doctor", leaf.chain_file)
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 1), ran.stdout
    assert ran.stdout.endswith(f"; the issuer came from {repository.url}/ca.crt\n")
    assert list(store.glob("*")) == []
    # Who fetches keeps it, and the next who needs it does not ask.
    assert ocspctl("fetch", leaf.chain_file).returncode == 0
    assert "came from" not in ocspctl("doctor", leaf.chain_file).stdout
    assert repository.asked == ["/ca.crt"] * 2


def test_fetch_and_check_find_the_issuer_in_the_same_way(ocspctl, lonely, repository, tmp_path):
    leaf = lonely()
    out = tmp_path / "out.der"
    for arguments in (["fetch", "-o", out, leaf.chain_file], ["check", leaf.chain_file, out]):
        ran = ocspctl(*arguments, OCSPRELOAD_STORE="off")
        assert ran.stdout.startswith("good: usable until "), ran.stdout
    assert repository.asked == ["/ca.crt"] * 2


def test_doctor_says_why_the_issuer_cannot_be_had(ocspctl, lonely, repository, impostor):
    leaf = lonely(repository.put("/ca", content.der(impostor.certificate)))
    ran = ocspctl("doctor", leaf.chain_file)
    assert (ran.returncode, ran.stdout.count("\n")) == (1, 1), ran.stdout
    assert f"nor at {repository.url}/ca: what is there is not the cert" in ran.stdout
    ran = ocspctl("doctor", leaf.chain_file, OCSPRELOAD_FETCH="off")
    assert "issuer was not found" in ran.stdout
    assert repository.asked == ["/ca"]


def test_a_directory_may_be_named_with_i(ocspctl, issue, authority, tmp_path):
    directory = tmp_path / "cas"
    directory.mkdir()
    (directory / "ca.crt").write_bytes(authority.file.read_bytes())
    ran = ocspctl("doctor", "-i", directory, issue().with_chain().chain_file)
    assert ran.stdout.startswith("ok: "), ran.stdout


def test_what_the_tool_has_fetched_is_stapled_where_nothing_may_be_fetched(
    ocspctl, s_server, issue, authority, stored, tmp_path
):
    leaf = issue().with_chain()
    assert ocspctl("fetch", "-i", authority.file, leaf.chain_file).returncode == 0
    server = s_server(leaf, environment={"OCSPRELOAD_FETCH": "off", **stored})
    assert_strict(handshake(server.port).staple, leaf, tmp_path)


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_response_outlives_the_shorter_of_two_issuers(
    ocspctl, issue, authority, tmp_path, first
):
    short = authority.again(not_after=600).certificate
    chain = [short, authority.certificate] if first else [authority.certificate, short]
    leaf = issue().with_chain(*chain)
    response = tmp_path / "response.der"
    until = ca.now() + ca.seconds(3000)
    response.write_bytes(authority.respond(leaf.certificate, next_update=until))
    ran = ocspctl("check", leaf.chain_file, response)
    assert ran.stdout == f"good: usable until {until:%Y-%m-%dT%H:%M:%SZ}\n"
