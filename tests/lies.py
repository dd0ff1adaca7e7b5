# SPDX-License-Identifier: MIT
"""Wrong answers of every kind, for the responder that misbehaves on command."""

import dataclasses
import random

import ca
import responder as r
import test_ocsp as t

# A good body, and not yet what HTTP makes of it.
GOOD = r.good()


def raw(head, body=None):
    """Bytes on the wire: head, and the good body after it if body is None."""

    def answer(leaf):
        good = GOOD(leaf)

        def write(connection, _):
            text = head.replace("LENGTH", str(len(good.body))).encode("latin-1")
            connection.send(text + (good.body if body is None else body))

        return dataclasses.replace(good, write=write)

    return answer


def headers(*fields):
    return raw("\r\n".join(("HTTP/1.1 200 OK", "Content-Type: application/ocsp-response") + fields)
               + "\r\n\r\n")


def resigned(change, **options):
    """A response whose tbsResponseData was changed before it was signed."""

    def answer(leaf):
        authority = leaf.authority
        parts = t.data_of(authority.respond(leaf.certificate, **options))
        tbs = change(parts, leaf)
        return r.Answer(ca.sign_response(tbs, authority.key))

    return answer


def rewrapped(change, **options):
    """A response whose BasicOCSPResponse was changed after it was signed."""

    def answer(leaf):
        response = leaf.authority.respond(leaf.certificate, **options)
        return r.Answer(change(t.unwrap(response)))

    return answer


def _sequence(*parts):
    return ca.tlv(0x30, *parts)


def critical(parts, _):
    return _sequence(*parts[:3], t.extension(t.UNHEARD_OF, True))


def no_single(parts, _):
    return _sequence(*parts[:2], _sequence())


def version_2(parts, _):
    return _sequence(ca.tlv(0xA0, ca.tlv(0x02, b"\1")), *parts)


def produced_in_an_hour(parts, _):
    time = (ca.now() + ca.seconds(3600)).strftime("%Y%m%d%H%M%SZ").encode()
    return _sequence(parts[0], ca.tlv(0x18, time), *parts[2:])


def produced_at_a_fraction(parts, _):
    time = ca.now().strftime("%Y%m%d%H%M%S.5Z").encode()
    return _sequence(parts[0], ca.tlv(0x18, time), *parts[2:])


def revoked_before(parts, leaf):
    """Good, and revoked an hour earlier."""
    revoked = leaf.authority.respond(leaf.certificate, status="revoked", this_update=-3600)
    return _sequence(*parts[:2], _sequence(*t.split(parts[2]), *t.split(t.data_of(revoked)[2])))


def other_digest(parts, _):
    identifier, *rest = t.split(t.split(parts[2])[0])
    _, *hashes = t.split(identifier)
    identifier = _sequence(_sequence(t.UNHEARD_OF), *hashes)
    return _sequence(*parts[:2], _sequence(_sequence(identifier, *rest)))


def algorithm_changed(basic):
    tbs, algorithm, *rest = t.split(basic)
    return t.wrap(_sequence(tbs, _sequence(t.split(algorithm)[0], b"\x04\0"), *rest))


def signed_with_md5(leaf):
    tbs = t.split(t.unwrap(leaf.authority.respond(leaf.certificate)))[0]
    return r.Answer(t.wrap(_sequence(tbs, *t.signed_with(leaf.authority.key, "md5", tbs))))


def delegated_with_md5(leaf):
    signer = t.delegate_signed_with_md5(leaf.authority)
    return r.Answer(leaf.authority.respond(leaf.certificate, signer=signer))


def indefinite(basic):
    tbs, *rest = t.split(basic)
    return t.wrap(_sequence(b"\x30\x80" + b"".join(t.split(tbs)) + b"\0\0", *rest))


def signature_of_another(leaf):
    """What is said is ours, and the signature is a good one of something else."""
    one, other = (
        t.split(t.unwrap(leaf.authority.respond(leaf.certificate, this_update=at)))
        for at in (-60, -120)
    )
    return r.Answer(t.wrap(_sequence(one[0], *other[1:])))


def signed_by_another_authority(name):
    """By a CA that the issuer has made, or that has made the issuer."""

    def answer(leaf):
        authority = leaf.authority
        other = authority.parent if name == "parent" else authority.subordinate("Below")
        signer = ca.Signer(other.key, other.certificate, True)
        return r.Answer(authority.respond(leaf.certificate, signer=signer))

    return answer


def delegated_by_another_authority(leaf):
    authority = leaf.authority
    signer = authority.parent.delegate()
    return r.Answer(authority.respond(leaf.certificate, signer=signer))


def certificates_in_front(leaf):
    authority = leaf.authority
    delegate = authority.delegate()
    return r.Answer(
        authority.respond(
            leaf.certificate,
            signer=delegate,
            certificates=[leaf.certificate, delegate.certificate],
        )
    )


def about(other):
    """A valid response for another certificate of the same server."""
    return lambda leaf: GOOD(other)


def of_same_serial(leaf):
    """The right serial number under another issuer, signed by ours."""
    parent = leaf.authority.parent
    twin = parent.sibling(leaf.certificate, leaf.serial)
    return r.Answer(parent.respond(twin, signer=leaf.authority.signer()))


def bit_flipped(seed):
    """Anywhere in the body."""

    def answer(leaf):
        good = GOOD(leaf)
        body = bytearray(good.body)
        bit = random.Random(seed).randrange(8 * len(body))
        body[bit // 8] ^= 1 << bit % 8
        return dataclasses.replace(good, body=bytes(body))

    return answer


def spoilt(size):
    """What the network may make of a good answer of this size."""
    return {
        "Cut": {f"after {at} bytes": r.body_cut(GOOD, at) for at in range(0, size, 16)},
        "A bit flipped": {f"at random, {seed}": bit_flipped(seed) for seed in range(10)},
    }


def lies(responder, other):
    """Each by its name in docs/answers.md; other is another certificate of the server."""
    loop = responder.url + "again"
    secure = responder.url.replace("http:", "https:")
    return {
        "The responder": {
            "takes the connection and never answers": r.hanging(),
            "closes the connection without an answer": r.hanging_up(),
            "sends a byte every tenth of a second": r.dripping(GOOD),
            "sends without end": r.endless(GOOD),
        },
        "HTTP": {
            "a good body without HTTP around it": r.without_http(GOOD),
            "less than Content-Length promised": r.truncated(GOOD),
            "a TLS alert": raw("", b"\x15\x03\x01\x00\x02\x02\x28"),
            "an SSH banner": raw("", b"SSH-2.0-OpenSSH_9.2\r\n"),
            "HTTP/0.9": raw("", b"<html>Hello</html>"),
            "HTTP/2": raw("HTTP/2 200\r\n\r\n"),
            "two different lengths": headers("Content-Length: LENGTH", "Content-Length: 7"),
            "a length and chunks": headers("Content-Length: LENGTH", "Transfer-Encoding: chunked"),
            "a negative length": headers("Content-Length: -1"),
            "a length of 2^64 - 1": headers("Content-Length: 18446744073709551615"),
            "a transfer coding that was not asked for": headers("Transfer-Encoding: gzip, chunked"),
            "chunks that are none": headers("Transfer-Encoding: chunked"),
            "a chunk without end": raw(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"fffffffffffffffff\r\n"
            ),
            "a folded header": headers("X-Folded: a", " b", "Content-Length: LENGTH"),
            "a header without a colon": headers("nonsense", "Content-Length: LENGTH"),
            "a NUL in a header": headers("X: \0", "Content-Length: LENGTH"),
            "a bare CR in a header": headers("X: a\rb", "Content-Length: LENGTH"),
            "a header of 100 KB": headers("X: " + 100000 * "a", "Content-Length: LENGTH"),
            "a switch to another protocol": raw(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
            ),
            "100 Continue without end": raw(2000 * "HTTP/1.1 100 Continue\r\n\r\n", b""),
        },
        "HTTP status": {
            "204 with a body": r.http_status(204, GOOD),
            "206 with a good body": r.http_status(206, GOOD),
            "301 to the same place, for ever": r.redirect(loop, 301),
            "302 to https": r.redirect(secure),
            "302 to a file": r.redirect("file:///etc/passwd"),
            "302 to nowhere": r.http_status(302, GOOD),
            "304 with a good body": r.http_status(304, GOOD),
            "403 with HTML": r.http_status(403, r.html()),
            "404 with a good body": r.http_status(404, GOOD),
            "407": r.http_status(407, r.html()),
            "500 with a good body": r.http_status(500, GOOD),
            "503 with Retry-After": lambda leaf: r.Answer(
                b"", status=503, headers=(("Retry-After", "1"),)
            ),
        },
        "Body": {
            "nothing": r.empty(),
            "HTML with status 200": r.html(),
            "256 bytes of garbage": r.garbage(),
            "a megabyte of zeros": r.bytes_of(bytes(1 << 20)),
            "cut short": r.body_cut(GOOD, 200),
            "one byte more": r.trailing(GOOD),
            "twice the same": lambda leaf: r.trailing(GOOD, GOOD(leaf).body)(leaf),
            "a byte more inside": rewrapped(lambda basic: t.wrap(basic + b"\0")),
            "BER that is not DER": rewrapped(indefinite),
            "PEM": lambda leaf: r.Answer(ca.pem(leaf.certificate)),
            "another type of response": rewrapped(lambda basic: t.wrap(basic, t.UNHEARD_OF)),
            "success, and no response": r.bytes_of(_sequence(ca.tlv(0x0A, b"\0"))),
        },
        "Response status": {
            **{
                status: r.error(name)
                for status, name in (
                    ("malformedRequest", "MALFORMED_REQUEST"),
                    ("internalError", "INTERNAL_ERROR"),
                    ("tryLater", "TRY_LATER"),
                    ("sigRequired", "SIG_REQUIRED"),
                    ("unauthorized", "UNAUTHORIZED"),
                )
            },
            "one that does not exist": r.bytes_of(_sequence(ca.tlv(0x0A, b"\x04"))),
        },
        "Signature": {
            "a bit of it flipped": r.bad_signature(),
            "a good one of another response": signature_of_another,
            "its algorithm with strange parameters": rewrapped(algorithm_changed),
            "with a digest that can be forged (MD5)": signed_with_md5,
            "by another key under the issuer's name": r.signed_by_stranger(),
            "by the certificate itself": r.signed_by_leaf(),
            "by the issuer's own issuer": signed_by_another_authority("parent"),
            "by a CA below the issuer": signed_by_another_authority("below"),
            "by a delegate without the OCSP signing usage": r.delegated(None),
            "by a delegate with another usage": r.delegated("server"),
            "by a delegate that has expired": r.delegated(not_after=-10),
            "by a delegate that is not valid yet": r.delegated(not_before=60),
            "by a delegate that can be forged (MD5)": delegated_with_md5,
            "by a delegate of another CA": delegated_by_another_authority,
            "another certificate in front of the signer's": certificates_in_front,
        },
        "What it says": {
            "good, of another certificate of this server": about(other),
            "good, of a serial number next to ours": r.wrong_serial(),
            "good, of our serial number under another issuer": of_same_serial,
            "good, by a digest that does not exist": resigned(other_digest),
            "nothing about any certificate": resigned(no_single),
            "good, and in an older answer revoked": resigned(revoked_before),
            "unknown": r.unknown(),
            "something of a version that does not exist": resigned(version_2),
            "a critical extension that does not exist": resigned(critical),
        },
        "Its time": {
            "over": r.expired(),
            "not begun": r.not_yet_valid(),
            "begun, and produced in an hour": resigned(produced_in_an_hour),
            "backwards": r.times_reversed(),
            "with a fraction of a second": resigned(produced_at_a_fraction),
            "a day old, without an end": r.good("absent", this_update=-86400),
            "older than what is held": r.good(this_update=-600),
        },
    }
