# SPDX-License-Identifier: MIT
"""ocsp_judge, rule by rule, through `ocspctl check`: what a strict client would accept, no more."""

import calendar
import datetime
import itertools
import os
import subprocess

import ca
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.x509 import ocsp
from servers import BUILD

NOT_A_RESPONSE = "refused: this is not an OCSP response"
NOT_BASIC = "refused: no BasicOCSPResponse"
BAD_VERSION = "refused: a version that does not exist"
BAD_SIGNATURE = "refused: the signature is wrong, or not by the issuer or a delegated signer of it"
BAD_ALGORITHM = "refused: the signature's algorithm is not encoded as it has to be"
WEAK_DELEGATE = "refused: its signer's certificate is signed with a digest that can be forged"
SIGNER_NOT_FIRST = "refused: the first certificate in it is not the signer's"
OTHER_CERTIFICATE = "refused: an answer about another certificate"
NOT_YET_VALID = "refused: not valid yet (is the clock right?)"
EXPIRED = "refused: expired (is the clock right?)"
BAD_TIMES = "refused: times that make no sense"
DISPUTED = "refused: two answers that contradict each other"
BAD_TIME_FORM = "refused: a time that is not written as YYYYMMDDHHMMSSZ"
BAD_EXTENSION = "refused: an unknown critical extension"
UNKNOWN = "unknown: the responder does not know the certificate"

_numbers = itertools.count(1)


def ocspctl(*arguments, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OCSPRELOAD")}
    return subprocess.run(
        [str(BUILD / "ocspctl"), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={**inherited, **environment},
        timeout=60,
    )


def good(until):
    return f"good: usable until {until:%Y-%m-%dT%H:%M:%SZ}"


class Court:
    """A CA, a certificate of it, and a moment at which responses are judged."""

    def __init__(self, directory):
        self.directory = directory
        self.authority = ca.Authority.create(directory, "Root")
        self.leaf = self.authority.issue("www.example.org")
        # Ahead of all that is signed while the tests go on: producedAt is when it is.
        self.moment = ca.now() + ca.seconds(1200)
        self.until = self.after(3600)

    def after(self, number):
        return self.moment + ca.seconds(number)

    def respond(self, certificate=None, authority=None, **options):
        """Valid from a minute ago for an hour from now, unless the options say otherwise."""
        authority = authority or self.authority
        options.setdefault("this_update", self.after(-60))
        options.setdefault("next_update", self.until)
        return authority.respond(certificate or self.leaf.certificate, **options)

    def check(self, response, *options, leaf_file=None, at=None, **environment):
        file = self.directory / f"{next(_numbers)}.der"
        file.write_bytes(response)
        at = calendar.timegm((at or self.moment).timetuple())
        leaf_file = leaf_file or self.leaf.certificate_file
        return ocspctl("check", *options, "-a", at, leaf_file, file, **environment)

    def judge(self, response, at=None, issuer=None):
        """The line that `ocspctl check` prints; its exit status must fit."""
        result = self.check(response, "-i", (issuer or self.authority).file, at=at)
        line = result.stdout.decode()
        assert result.stderr == b""
        assert line.count("\n") == 1
        assert result.returncode == (0 if line.startswith("good: ") else 1)
        return line.rstrip("\n")


@pytest.fixture(scope="module")
def court(tmp_path_factory):
    return Court(tmp_path_factory.mktemp("ocsp"))


@pytest.fixture(scope="module")
def impostor(tmp_path_factory):
    """Another CA of the same name, with another key."""
    return ca.Authority.create(tmp_path_factory.mktemp("impostor"), "Root", kind="rsa")


# DER by hand, for what no builder makes


def split(der):
    """The values inside a constructed value, each with its tag and length."""
    at, size = 2, der[1]
    if size & 0x80:
        at, size = 2 + (size & 0x7F), int.from_bytes(der[2 : 2 + (size & 0x7F)], "big")
    assert at + size == len(der)
    values = []
    while at < len(der):
        start, size, at = at, der[at + 1], at + 2
        if size & 0x80:
            octets = size & 0x7F
            size, at = int.from_bytes(der[at : at + octets], "big"), at + octets
        at += size
        values.append(der[start:at])
    return values


def data_of(response):
    """responderID, producedAt, responses[, responseExtensions]"""
    return split(ocsp.load_der_ocsp_response(response).tbs_response_bytes)


def combine(court, *responses, extensions=b""):
    """One response that says what several say."""
    responder_id, produced_at = data_of(responses[0])[:2]
    singles = [single for response in responses for single in split(data_of(response)[2])]
    tbs = ca.tlv(0x30, responder_id, produced_at, ca.tlv(0x30, *singles), extensions)
    return ca.sign_response(tbs, court.authority.key)


def extension(oid, critical, value=b"\x04\x02\x05\x00"):
    parts = [oid, b"\x01\x01\xff" if critical else b"", value]
    return ca.tlv(0xA1, ca.tlv(0x30, ca.tlv(0x30, *parts)))


def with_single_extension(court, wrapped):
    responder_id, produced_at, singles = data_of(court.respond())[:3]
    single = ca.tlv(0x30, *split(split(singles)[0]), wrapped)
    tbs = ca.tlv(0x30, responder_id, produced_at, ca.tlv(0x30, single))
    return ca.sign_response(tbs, court.authority.key)


UNHEARD_OF = bytes.fromhex("06062a0304050607")  # 1.2.3.4.5.6.7
NONCE = bytes.fromhex("06092b0601050507300102")
ARCHIVE_CUTOFF = bytes.fromhex("06092b0601050507300106")


def with_version(court, number):
    """[0] EXPLICIT INTEGER in front of what is there."""
    version = ca.tlv(0xA0, ca.tlv(0x02, bytes([number])))
    return ca.sign_response(ca.tlv(0x30, version, *data_of(court.respond())), court.authority.key)


def with_produced_at(court, time):
    responder_id, _, singles = data_of(court.respond())[:3]
    tbs = ca.tlv(0x30, responder_id, ca.tlv(0x18, time), singles)
    return ca.sign_response(tbs, court.authority.key)


# Accepted


def test_a_response_by_the_issuer_is_good_until_its_next_update(court):
    assert court.judge(court.respond()) == good(court.until)


def test_the_issuer_may_name_itself_by_its_subject(court):
    assert court.judge(court.respond(by_hash=False)) == good(court.until)


def test_an_rsa_issuer_is_as_good(court, tmp_path):
    rsa = ca.Authority.create(tmp_path, "RSA Root", kind="rsa")
    leaf = rsa.issue("rsa.example.org")
    response = court.respond(leaf.certificate, rsa)
    result = court.check(response, "-i", rsa.file, leaf_file=leaf.certificate_file)
    assert result.stdout.decode() == good(court.until) + "\n"


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_a_cert_id_may_use_another_digest_than_we_asked_with(court, algorithm):
    assert court.judge(court.respond(algorithm=algorithm)) == good(court.until)


# Not a response


@pytest.mark.parametrize(
    "status, words",
    [
        ("MALFORMED_REQUEST", "malformedRequest"),
        ("INTERNAL_ERROR", "internalError"),
        ("TRY_LATER", "tryLater"),
        ("SIG_REQUIRED", "sigRequired"),
        ("UNAUTHORIZED", "unauthorized (it may not know the certificate yet)"),
    ],
)
def test_an_error_status_is_refused_by_its_name(court, status, words):
    assert court.judge(ca.error_response(status)) == f"refused: {words}"


@pytest.mark.parametrize("status", [4, 7, 127])
def test_a_status_that_does_not_exist_is_refused(court, status):
    response = ca.tlv(0x30, ca.tlv(0x0A, bytes([status])))
    assert court.judge(response) == "refused: a responseStatus that does not exist"


def test_an_error_status_is_refused_even_around_a_good_answer(court):
    response = court.respond()
    assert response.count(b"\x0a\x01\x00") == 1
    response = response.replace(b"\x0a\x01\x00", b"\x0a\x01\x03")
    assert court.judge(response) == "refused: tryLater"


@pytest.mark.parametrize(
    "response",
    [b"", b"\0", b"<html></html>", b"\x30\x00", b"\xff" * 5000],
    ids=["empty", "nul", "html", "sequence", "long"],
)
def test_garbage_is_refused(court, response):
    assert court.judge(response) == NOT_A_RESPONSE


def test_a_truncated_response_is_refused(court):
    response = court.respond()
    for size in (1, 4, 10, len(response) // 2, len(response) - 1):
        assert court.judge(response[:size]) == NOT_A_RESPONSE


def test_bytes_after_the_response_are_refused(court):
    assert court.judge(court.respond() + b"\0") == NOT_A_RESPONSE
    assert court.judge(court.respond() * 2) == NOT_A_RESPONSE


def wrap(basic, type_of=ca.ID_PKIX_OCSP_BASIC):
    inner = ca.tlv(0xA0, ca.tlv(0x30, type_of, ca.tlv(0x04, basic)))
    return ca.tlv(0x30, ca.tlv(0x0A, b"\0"), inner)


def unwrap(response):
    """The BasicOCSPResponse."""
    octets = split(split(split(response)[1])[0])[1]
    return octets[2 + (octets[1] & 0x7F if octets[1] & 0x80 else 0) :]


def test_bytes_after_the_basic_response_are_refused(court):
    basic = unwrap(court.respond())
    assert court.judge(wrap(basic)) == good(court.until)
    assert court.judge(wrap(basic + b"\0")) == NOT_A_RESPONSE


def test_ber_that_is_not_der_is_refused_wherever_it_is(court):
    response = court.respond()
    assert court.judge(b"\x30\x80" + b"".join(split(response)) + b"\0\0") == NOT_A_RESPONSE
    tbs, *rest = split(unwrap(response))
    indefinite = b"\x30\x80" + b"".join(split(tbs)) + b"\0\0"
    assert court.judge(wrap(ca.tlv(0x30, indefinite, *rest))) == NOT_A_RESPONSE


def test_another_type_of_response_is_refused(court):
    assert court.judge(wrap(unwrap(court.respond()), UNHEARD_OF)) == NOT_BASIC


def test_success_without_an_answer_is_refused(court):
    assert court.judge(ca.tlv(0x30, ca.tlv(0x0A, b"\0"))) == NOT_BASIC


# The signature and the signer


def test_a_bad_signature_is_refused(court):
    response = bytearray(court.respond())
    response[-5] ^= 1
    assert court.judge(bytes(response)) == BAD_SIGNATURE


@pytest.mark.parametrize("status", ["revoked", "unknown"])
def test_nothing_is_believed_without_its_signature(court, status):
    response = bytearray(court.respond(status=status))
    response[-5] ^= 1
    assert court.judge(bytes(response)) == BAD_SIGNATURE


def test_a_change_in_what_was_signed_is_refused(court):
    response = court.respond()
    old, new = (f"{time:%Y%m%d%H%M%SZ}".encode() for time in (court.until, court.after(7200)))
    assert court.judge(response.replace(old, new)) == BAD_SIGNATURE


def test_another_key_under_the_issuers_name_is_refused(court, impostor):
    tbs = ocsp.load_der_ocsp_response(court.respond()).tbs_response_bytes
    assert court.judge(ca.sign_response(tbs, court.authority.key)) == good(court.until)
    assert court.judge(ca.sign_response(tbs, impostor.key)) == BAD_SIGNATURE


def test_another_certificate_under_the_issuers_name_is_refused(court, impostor):
    signer = ca.Signer(impostor.key, impostor.certificate, True)
    assert court.judge(court.respond(signer=signer)) == BAD_SIGNATURE
    assert court.judge(court.respond(signer=signer, by_hash=False)) == BAD_SIGNATURE


@pytest.mark.parametrize("by_hash", [True, False])
def test_a_delegated_signer_is_accepted(court, by_hash):
    signer = court.authority.delegate()
    assert court.judge(court.respond(signer=signer, by_hash=by_hash)) == good(court.until)


@pytest.mark.parametrize(
    "options",
    [{"no_check": True}, {"no_check": False}, {"responders": ["http://127.0.0.1:1/"]}],
    ids=["not-to-be-checked", "says-nothing", "to-be-asked-about"],
)
def test_a_delegate_is_not_checked_for_revocation_whatever_it_says(court, options):
    response = court.respond(signer=court.authority.delegate(**options))
    assert court.judge(response) == good(court.until)


@pytest.mark.parametrize("usage", [None, "server", "client"])
def test_a_delegate_without_the_ocsp_signing_usage_is_refused(court, usage):
    assert court.judge(court.respond(signer=court.authority.delegate(usage))) == BAD_SIGNATURE


def test_a_delegate_that_does_not_come_along_is_refused(court):
    response = court.respond(signer=court.authority.delegate(), certificates=[])
    assert court.judge(response) == BAD_SIGNATURE


def test_a_delegate_of_another_authority_is_refused(court, impostor, tmp_path):
    other = ca.Authority.create(tmp_path, "Other")
    for authority in (impostor, other):
        response = court.respond(
            signer=authority.delegate(),
            certificates=[authority.delegate().certificate, authority.certificate],
        )
        assert court.judge(response) == BAD_SIGNATURE


def test_a_delegate_of_a_delegate_is_refused(court):
    between = court.authority.subordinate("Between")
    signer = between.delegate()
    response = court.respond(signer=signer, certificates=[signer.certificate, between.certificate])
    assert court.judge(response) == BAD_SIGNATURE


def test_the_issuers_own_issuer_has_no_say(court):
    between = court.authority.subordinate("Between")
    leaf = between.issue("below.example.org")
    options = ["-i", between.file]
    for signer in (court.authority.signer(), court.authority.delegate()):
        response = court.respond(leaf.certificate, between, signer=signer)
        result = court.check(response, *options, leaf_file=leaf.certificate_file)
        assert result.stdout.decode().strip() == BAD_SIGNATURE


def test_the_certificate_itself_has_no_say(court):
    signer = ca.Signer(court.leaf.key, court.leaf.certificate, True)
    assert court.judge(court.respond(signer=signer)) == BAD_SIGNATURE


@pytest.mark.parametrize("kind, right", [("rsa", b"\x05\0"), ("ec", b"")])
def test_parameters_that_the_algorithm_does_not_have_are_refused(court, tmp_path, kind, right):
    authority = ca.Authority.create(tmp_path, kind, kind=kind)
    leaf = authority.issue("parameters.example.org")
    basic = unwrap(court.respond(leaf.certificate, authority))
    tbs, algorithm, signature = split(basic)
    oid = split(algorithm)[0]
    verdicts = {
        parameters: court.check(
            wrap(ca.tlv(0x30, tbs, ca.tlv(0x30, oid, parameters), signature)),
            *("-i", authority.file),
            leaf_file=leaf.certificate_file,
        ).stdout.decode().strip()
        for parameters in (b"", b"\x05\0", b"\x04\0", b"\x30\0", b"\x0c\x01a", b"\x06\x01\x2a")
    }
    # RSA's may also be absent (RFC 4055, 5).
    accepted = {parameters for parameters in verdicts if verdicts[parameters] == good(court.until)}
    assert accepted == {b"", right}
    assert {verdicts[parameters] for parameters in set(verdicts) - accepted} == {BAD_ALGORITHM}


# PKCS #1's, with each digest.
RSA_WITH = {"md5": 4, "sha1": 5, "sha256": 11, "sha384": 12, "sha512": 13}


def signed_with(private_key, digest, tbs):
    """The AlgorithmIdentifier and the BIT STRING of an RSA key's signature."""
    oid = bytes.fromhex("06092a864886f70d0101") + bytes([RSA_WITH[digest]])
    signature = private_key.sign(tbs, padding.PKCS1v15(), getattr(hashes, digest.upper())())
    return ca.tlv(0x30, oid, b"\x05\0"), ca.tlv(0x03, b"\0", signature)


def test_a_digest_that_can_be_forged_is_refused(court, tmp_path):
    authority = ca.Authority.create(tmp_path, "Digests", kind="rsa")
    leaf = authority.issue("digests.example.org")
    tbs = split(unwrap(court.respond(leaf.certificate, authority)))[0]

    def judge(digest):
        response = wrap(ca.tlv(0x30, tbs, *signed_with(authority.key, digest, tbs)))
        result = court.check(response, "-i", authority.file, leaf_file=leaf.certificate_file)
        return result.stdout.decode().strip()

    # Old responders sign with SHA-1, and clients take it of them.
    for digest in ("sha1", "sha256", "sha384", "sha512"):
        assert judge(digest) == good(court.until)
    assert judge("md5") == "refused: it is signed with a digest that can be forged"


RSA_PSS = bytes.fromhex("06092a864886f70d01010a")
MGF1 = bytes.fromhex("06092a864886f70d010108")


DIGESTS = {
    "md5": bytes.fromhex("06082a864886f70d0205"),
    "sha1": bytes.fromhex("06052b0e03021a"),
    "sha256": bytes.fromhex("0609608648016503040201"),
    "sha384": bytes.fromhex("0609608648016503040202"),
    "sha512": bytes.fromhex("0609608648016503040203"),
}


def pss(digest, salt, null=b"\x05\0"):
    """The AlgorithmIdentifier of RSASSA-PSS."""
    digest = ca.tlv(0x30, DIGESTS[digest.name], null)
    return ca.tlv(
        0x30,
        RSA_PSS,
        ca.tlv(
            0x30,
            ca.tlv(0xA0, digest),
            ca.tlv(0xA1, ca.tlv(0x30, MGF1, digest)),
            ca.tlv(0xA2, ca.tlv(0x02, bytes([salt]))),
        ),
    )


def test_an_rsa_pss_signature_is_accepted_in_its_common_encodings_only(court, tmp_path):
    authority = ca.Authority.create(tmp_path, "PSS", kind="rsa")
    leaf = authority.issue("pss.example.org")
    tbs = split(unwrap(court.respond(leaf.certificate, authority)))[0]

    def judge(algorithm, digest, salt):
        scheme = padding.PSS(padding.MGF1(digest), salt)
        signature = ca.tlv(0x03, b"\0", authority.key.sign(tbs, scheme, digest))
        response = wrap(ca.tlv(0x30, tbs, algorithm, signature))
        result = court.check(response, "-i", authority.file, leaf_file=leaf.certificate_file)
        return result.stdout.decode().strip()

    for digest in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        size = digest.digest_size
        assert judge(pss(digest, size), digest, size) == good(court.until)
        assert judge(pss(digest, size, null=b""), digest, size) == BAD_ALGORITHM
        assert judge(pss(digest, 20), digest, 20) == BAD_ALGORITHM


def delegate_signed_with(authority, algorithm, scheme, digest):
    """A delegate whose certificate its issuer, which has an RSA key, has signed in that way."""
    delegate = authority.delegate()
    version, serial, _, *rest = split(delegate.certificate.tbs_certificate_bytes)
    tbs = ca.tlv(0x30, version, serial, algorithm, *rest)
    signature = ca.tlv(0x03, b"\0", authority.key.sign(tbs, scheme, digest))
    certificate = x509.load_der_x509_certificate(ca.tlv(0x30, tbs, algorithm, signature))
    return ca.Signer(delegate.key, certificate, True)


def delegate_signed_with_md5(authority):
    algorithm, _ = signed_with(authority.key, "md5", b"")
    return delegate_signed_with(authority, algorithm, padding.PKCS1v15(), hashes.MD5())


def test_a_delegate_whose_certificate_can_be_forged_is_refused(court, tmp_path):
    authority = ca.Authority.create(tmp_path, "Delegates", kind="rsa")
    leaf = authority.issue("delegates.example.org")

    def judge(algorithm, scheme, digest):
        signer = delegate_signed_with(authority, algorithm, scheme, digest)
        response = court.respond(leaf.certificate, authority, signer=signer)
        result = court.check(response, "-i", authority.file, leaf_file=leaf.certificate_file)
        return result.stdout.decode().strip()

    for digest in (hashes.MD5(), hashes.SHA1(), hashes.SHA256()):
        wanted = WEAK_DELEGATE if digest.name == "md5" else good(court.until)
        algorithm, _ = signed_with(authority.key, digest.name, b"")
        assert judge(algorithm, padding.PKCS1v15(), digest) == wanted
        size = digest.digest_size
        scheme = padding.PSS(padding.MGF1(digest), size)
        assert judge(pss(digest, size), scheme, digest) == wanted


def test_the_signers_certificate_is_the_first_of_those_that_come_along(court):
    delegate = court.authority.delegate()
    issuer, leaf = court.authority.certificate, court.leaf.certificate
    for signer, own in ((delegate, delegate.certificate), (court.authority.signer(), issuer)):
        for others in ([leaf], [issuer], [leaf, issuer]):
            certificates = [own, *others]
            response = court.respond(signer=signer, certificates=certificates)
            assert court.judge(response) == good(court.until)
        response = court.respond(signer=signer, certificates=[leaf, own])
        assert court.judge(response) == SIGNER_NOT_FIRST


def test_certificates_that_nobody_needed_are_refused_in_front(court):
    response = court.respond(certificates=[court.leaf.certificate])
    assert court.judge(response) == SIGNER_NOT_FIRST


def test_a_delegate_that_has_expired_is_refused(court):
    signer = court.authority.delegate(not_after=court.after(-1))
    assert court.judge(court.respond(signer=signer)) == EXPIRED


def test_a_delegate_that_is_not_valid_yet_is_refused(court):
    signer = court.authority.delegate(not_before=court.after(60))
    assert court.judge(court.respond(signer=signer)) == NOT_YET_VALID


def test_a_delegates_end_is_the_responses_end(court):
    end = court.after(600)
    response = court.respond(signer=court.authority.delegate(not_after=end))
    assert court.judge(response) == good(end)
    assert court.judge(response, at=court.after(599)) == good(end)
    assert court.judge(response, at=end) == EXPIRED


def test_the_issuers_end_is_the_responses_end(court):
    end = court.authority.certificate.not_valid_after
    later = end + ca.seconds(3600)
    for signer in (court.authority.signer(), court.authority.delegate(not_after=later)):
        response = court.respond(next_update=later, signer=signer)
        assert court.judge(response) == good(end)
        assert court.judge(response, at=end) == EXPIRED


def test_the_moment_of_judgement_counts_and_not_the_clock(court):
    signer = court.authority.delegate(not_before=court.after(80000), not_after=court.after(90000))
    response = court.respond(
        signer=signer, this_update=court.after(85000), next_update=court.after(95000)
    )
    assert court.judge(response, at=court.after(85001)) == good(court.after(90000))


# The certificate it is about


def test_an_answer_about_another_serial_is_refused(court):
    sibling = court.authority.sibling(court.leaf.certificate)
    assert court.judge(court.respond(sibling)) == OTHER_CERTIFICATE


def test_an_answer_about_another_issuer_is_refused(court, tmp_path):
    other = ca.Authority.create(tmp_path, "Other")
    twin = other.issue("www.example.org", serial=court.leaf.serial)
    response = court.respond(twin.certificate, other, signer=court.authority.signer())
    assert court.judge(response) == OTHER_CERTIFICATE


def test_an_answer_about_an_issuer_of_the_same_name_is_refused(court, impostor):
    response = court.respond(authority=impostor, signer=court.authority.signer())
    assert court.judge(response) == OTHER_CERTIFICATE


def test_a_cert_id_with_an_unheard_of_digest_is_refused(court):
    sha1 = bytes.fromhex("06052b0e03021a")
    responder_id, produced_at, singles = data_of(court.respond())[:3]
    cert_id, *rest = split(split(singles)[0])
    algorithm, *hashes_and_serial = split(cert_id)
    assert sha1 in algorithm
    cert_id = ca.tlv(0x30, ca.tlv(0x30, UNHEARD_OF), *hashes_and_serial)
    singles = ca.tlv(0x30, ca.tlv(0x30, cert_id, *rest))
    tbs = ca.tlv(0x30, responder_id, produced_at, singles)
    assert court.judge(ca.sign_response(tbs, court.authority.key)) == OTHER_CERTIFICATE


def test_no_answer_at_all_is_refused(court):
    responder_id, produced_at = data_of(court.respond())[:2]
    tbs = ca.tlv(0x30, responder_id, produced_at, ca.tlv(0x30))
    assert court.judge(ca.sign_response(tbs, court.authority.key)) == OTHER_CERTIFICATE


def test_the_answer_may_be_one_of_several(court):
    others = [
        court.respond(court.authority.sibling(court.leaf.certificate), status=status)
        for status in ("revoked", "good", "unknown")
    ]
    ours = court.respond()
    for at in range(4):
        responses = others[:at] + [ours] + others[at:]
        assert court.judge(combine(court, *responses)) == good(court.until)


def test_of_several_answers_about_the_certificate_the_newest_counts(court):
    older = court.respond(this_update=court.after(-120), next_update=court.after(1800))
    newer = court.respond(status="revoked", algorithm=ca.SHA256, revoked_at=court.after(-90))
    for responses in ((older, newer), (newer, older)):
        assert court.judge(combine(court, *responses)).startswith("revoked: ")


def test_good_is_not_believed_beside_an_older_answer_that_says_otherwise(court):
    newest = court.respond(this_update=court.after(-30))
    for status in ("revoked", "unknown"):
        older = court.respond(status=status, revoked_at=court.after(-90))
        for responses in itertools.permutations((older, newest)):
            assert court.judge(combine(court, *responses)) == DISPUTED


def test_of_several_good_answers_the_first_to_end_counts(court):
    end = court.after(1800)
    older = court.respond(this_update=court.after(-120), next_update=end)
    newer = court.respond()
    for responses in itertools.permutations((older, newer)):
        response = combine(court, *responses)
        assert court.judge(response) == good(end)
        assert court.judge(response, at=end) == EXPIRED


def test_a_revocation_counts_beside_an_older_answer_that_has_ended(court):
    older = court.respond(this_update=court.after(-120), next_update=court.after(-10))
    newer = court.respond(status="revoked", revoked_at=court.after(-90))
    for responses in itertools.permutations((older, newer)):
        assert court.judge(combine(court, *responses)).startswith("revoked: ")


def test_of_answers_that_are_equally_new_the_worst_counts(court):
    well = court.respond()
    unknown = court.respond(status="unknown", algorithm=ca.SHA256)
    revoked = court.respond(status="revoked", revoked_at=court.after(-90))
    for responses in itertools.permutations((well, unknown, revoked)):
        assert court.judge(combine(court, *responses)).startswith("revoked: ")
    for responses in itertools.permutations((well, unknown)):
        assert court.judge(combine(court, *responses)) == UNKNOWN


# What it says


def test_revoked_is_said_with_the_time_and_the_reason(court):
    response = court.respond(status="revoked", revoked_at=court.after(-3600))
    since = f"{court.after(-3600):%Y-%m-%dT%H:%M:%SZ}"
    assert court.judge(response) == f"revoked: since {since}, keyCompromise"


def test_revoked_by_a_delegate_is_as_bad(court):
    response = court.respond(status="revoked", signer=court.authority.delegate())
    assert court.judge(response).startswith("revoked: ")


def test_unknown_is_not_good(court):
    assert court.judge(court.respond(status="unknown")) == UNKNOWN


@pytest.mark.parametrize("status", ["revoked", "unknown"])
def test_an_expired_response_says_nothing(court, status):
    response = court.respond(status=status)
    assert court.judge(response, at=court.until) == EXPIRED


# Its time


def test_a_response_that_was_produced_in_the_future_is_refused(court):
    for seconds, words in ((299, None), (301, NOT_YET_VALID)):
        time = court.after(seconds).strftime("%Y%m%d%H%M%SZ").encode()
        judged = court.judge(with_produced_at(court, time))
        assert judged == (words or good(court.until))


def test_a_response_may_have_been_produced_long_ago(court):
    assert court.judge(with_produced_at(court, b"20010101000000Z")) == good(court.until)


def test_a_version_that_does_not_exist_is_refused(court):
    for number in (1, 2, 127, 128):
        assert court.judge(with_version(court, number)) == BAD_VERSION


def test_the_version_that_exists_may_be_said(court):
    assert court.judge(with_version(court, 0)) == good(court.until)


def test_a_this_update_in_the_future_is_refused(court):
    assert court.judge(court.respond(this_update=court.after(301))) == NOT_YET_VALID


def test_a_this_update_within_the_skew_is_accepted(court):
    assert court.judge(court.respond(this_update=court.after(300))) == good(court.until)


def test_a_response_ends_with_its_next_update(court):
    response = court.respond()
    assert court.judge(response, at=court.after(3599)) == good(court.until)
    assert court.judge(response, at=court.until) == EXPIRED
    assert court.judge(response, at=court.after(3601)) == EXPIRED


def test_without_next_update_a_response_lives_for_an_hour(court):
    response = court.respond(next_update="absent")
    end = court.after(-60 + 3600)
    assert court.judge(response) == good(end)
    assert court.judge(response, at=end) == EXPIRED


def test_a_next_update_that_is_not_after_this_update_is_refused(court):
    assert court.judge(court.respond(next_update=court.after(-60))) == BAD_TIMES
    assert court.judge(court.respond(next_update=court.after(-61))) == BAD_TIMES
    later = court.respond(this_update=court.after(200), next_update=court.after(100))
    assert court.judge(later) == BAD_TIMES


def test_a_time_that_cannot_be_read_is_refused(court):
    responder_id, produced_at, singles = data_of(court.respond())[:3]
    time = f"{court.until:%Y%m%d%H%M%SZ}".encode()
    nonsense = b"2026" + b"99" + time[6:]
    tbs = ca.tlv(0x30, responder_id, produced_at, singles.replace(time, nonsense))
    response = ca.sign_response(tbs, court.authority.key)
    assert court.judge(response) in (BAD_TIMES, NOT_BASIC)


# All say the same; OpenSSL reads them, and others do not.
TIME_FORMS = ["%Y%m%d%H%M%S.5Z", "%Y%m%d%H%M%S.0Z", "%Y%m%d%H%M%S+0000"]


def with_time(court, which, form, **options):
    """A response with one of its times in another form."""
    responder_id, produced_at, singles = data_of(court.respond(**options))[:3]
    cert_id, status, *times = split(split(singles)[0])
    times = {"producedAt": produced_at, "thisUpdate": times[0], "nextUpdate": split(times[1])[0]}
    time = datetime.datetime.strptime(times[which][2:].decode(), "%Y%m%d%H%M%SZ")
    times[which] = ca.tlv(0x18, time.strftime(form).encode())
    next_update = ca.tlv(0xA0, times["nextUpdate"])
    single = ca.tlv(0x30, cert_id, status, times["thisUpdate"], next_update)
    tbs = ca.tlv(0x30, responder_id, times["producedAt"], ca.tlv(0x30, single))
    return ca.sign_response(tbs, court.authority.key)


@pytest.mark.parametrize("which", ["producedAt", "thisUpdate", "nextUpdate"])
def test_a_time_in_another_form_is_refused(court, which):
    assert court.judge(with_time(court, which, "%Y%m%d%H%M%SZ")) == good(court.until)
    for form in TIME_FORMS:
        assert court.judge(with_time(court, which, form)) == BAD_TIME_FORM


@pytest.mark.parametrize("which", ["producedAt", "thisUpdate", "nextUpdate"])
def test_a_revocation_counts_with_times_in_any_form(court, which):
    for form in TIME_FORMS:
        response = with_time(court, which, form, status="revoked")
        assert court.judge(response).startswith("revoked: ")


# Its extensions


def test_an_unknown_critical_extension_is_refused(court):
    wrapped = extension(UNHEARD_OF, critical=True)
    assert court.judge(combine(court, court.respond(), extensions=wrapped)) == BAD_EXTENSION
    assert court.judge(with_single_extension(court, wrapped)) == BAD_EXTENSION


def test_an_unknown_extension_that_is_not_critical_is_ignored(court):
    wrapped = extension(UNHEARD_OF, critical=False)
    response = combine(court, court.respond(), extensions=wrapped)
    assert court.judge(response) == good(court.until)
    assert court.judge(with_single_extension(court, wrapped)) == good(court.until)


def test_a_known_critical_extension_is_accepted(court):
    nonce = extension(NONCE, critical=True)
    response = combine(court, court.respond(), extensions=nonce)
    assert court.judge(response) == good(court.until)
    cutoff = ca.tlv(0x04, ca.tlv(0x18, f"{court.moment:%Y%m%d%H%M%SZ}".encode()))
    response = with_single_extension(court, extension(ARCHIVE_CUTOFF, True, cutoff))
    assert court.judge(response) == good(court.until)


# The issuer


def test_the_issuer_is_found_in_the_chain(court):
    between = court.authority.subordinate("Between")
    leaf = between.issue("below.example.org")
    response = court.respond(leaf.certificate, between)
    assert court.check(response, leaf_file=leaf.chain_file).returncode == 0
    assert court.check(response, leaf_file=leaf.certificate_file).returncode == 1


def test_the_issuer_is_found_behind_what_cannot_be_decoded(court, tmp_path):
    file = tmp_path / "chain.pem"
    junk = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    parts = [
        b"text before\n",
        court.leaf.certificate_file.read_bytes(),
        junk,
        b"-----BEGIN CERTIFICATE-----\n*\n",
        ca.pem(court.leaf.key),
        court.authority.file.read_bytes(),
    ]
    file.write_bytes(b"".join(parts))
    assert court.check(court.respond(), leaf_file=file).returncode == 0


def test_the_issuer_is_found_in_the_systems_store(court):
    result = court.check(court.respond(), SSL_CERT_FILE=str(court.authority.file))
    assert result.stdout.decode() == good(court.until) + "\n"


def test_the_issuer_is_found_in_the_configured_file(court):
    result = court.check(court.respond(), OCSPRELOAD_TRUSTED=str(court.authority.file))
    assert result.stdout.decode() == good(court.until) + "\n"


def test_an_issuer_of_the_same_name_is_not_the_issuer(court, impostor):
    for arguments, environment in (
        (["-i", impostor.file], {}),
        ([], {"SSL_CERT_FILE": str(impostor.file)}),
    ):
        result = court.check(court.respond(), *arguments, **environment)
        assert result.returncode == 1
        assert b"issuer was not found" in result.stderr
        assert result.stdout == b""


def test_a_chain_in_an_encrypted_pem_asks_for_no_password(court, tmp_path):
    file = tmp_path / "encrypted.pem"
    lines = court.authority.file.read_bytes().splitlines(keepends=True)
    header = b"Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF\n\n"
    file.write_bytes(b"".join([lines[0], header, *lines[1:]]))
    assert court.check(court.respond(), "-i", file).returncode == 1
    file.write_bytes(file.read_bytes() + court.authority.file.read_bytes())
    assert court.check(court.respond(), "-i", file).returncode == 0
