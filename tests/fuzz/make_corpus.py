#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""
Makes tests/fuzz/court and tests/fuzz/corpus anew: certificates, the moment at which they are judged,
and the seeds of each fuzzer. Run by hand when there is something to add; what it makes is committed.
"""

import calendar
import os
import pathlib
import shutil
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import ca  # noqa: E402
import test_ocsp as t  # noqa: E402
from cryptography.hazmat.primitives import hashes  # noqa: E402
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7  # noqa: E402

RESPONSES = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Type: application/ocsp-response\r\n"
    b"Content-Length: 5\r\n\r\nhello",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n3\r\nabc\r\n0\r\nTrailer: x\r\n\r\n",
    "close": b"HTTP/1.0 200\nContent-Type: Application/OCSP-Response; x=y\n\nhello",
    "continue": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello",
    "smuggled": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    "not-modified": b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 5\r\n\r\n',
    "redirect": b"HTTP/1.1 302 Found\r\nLocation: http://a.test/b\r\nContent-Length: 0\r\n\r\n",
    "caching": b"HTTP/1.1 200 OK\r\nCache-Control: max-age=600, public\r\nAge: 7\r\n"
    b"Date: Sat, 21 Nov 2026 11:00:00 GMT\r\nExpires: Sat, 21 Nov 2026 12:00:00 GMT\r\n"
    b'Last-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\nETag: W/"x"\r\n\r\n',
    "retry": b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n",
    "kept": b"HTTP/1.0 200 OK\r\nConnection: x, Keep-Alive\r\nContent-Length: 0\r\n\r\n",
    "not-kept": b"HTTP/1.1 200 OK\r\nConnection: close\r\nConnection: keep-alive\r\n"
    b"Content-Length: 0\r\n\r\n",
    "pipelined": b"HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
    "huge": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n",
}


def script(first, second="length"):
    """A first answer, nothing unasked, a second answer: see fuzz_exchange.c."""
    first, second = RESPONSES[first], RESPONSES[second]
    return b"\0" + len(first).to_bytes(2, "big") + b"\0" + first + second


URLS = [
    "http://ocsp.example.org",
    "http://ocsp.example.org:8080/path/?query#fragment",
    "http://[2001:db8::1]:80/",
    "http://192.0.2.1:/a",
    "HTTP://a.test?x",
    "https://a.test/",
    "http://user@a.test/",
    "http://a.test:65536/",
    "http://" + "a" * 256,
    "http://a/" + "b" * 1024,
]

FILES = {
    "whole": b"# a comment\nOCSPRELOAD=on\nOCSPRELOAD_ONLY=nginx, httpd\n"
    b"OCSPRELOAD_RESPONDER=http://a.test/\nOCSPRELOAD_TRUSTED=/etc/ssl/ca.pem\n"
    b"OCSPRELOAD_FETCH=off\nOCSPRELOAD_HTTP_PROXY='http://proxy.test:3128'\n"
    b'OCSPRELOAD_TIMEOUT="500ms"\nOCSPRELOAD_STARTUP_WAIT=0\nOCSPRELOAD_LOG=/var/log/x\n'
    b"OCSPRELOAD_LOG_LEVEL=debug\n",
    "environment": b"\xffOCSPRELOAD_TIMEOUT=1h\0http_proxy=http://a.test:80/\0no_proxy=.b,c\0"
    b"OCSPRELOAD_LOG=syslog\0OCSPRELOAD_LIBRARY=/x\0OCSPRELOAD_NONSENSE=1",
    "both": b"OCSPRELOAD_TIMEOUT=2m\r\n\xffOCSPRELOAD_TIMEOUT=999999999999999999999\0OCSPRELOAD=",
    "broken": b'no equals\n=\nOCSPRELOAD_ONLY="\n\0\nOCSPRELOAD_STORE=off\n  OCSPRELOAD_ONLY = x \n',
    "foreign": b"\xffHOME=/root\0XDG_CACHE_HOME=relative\0OCSPRELOAD_STORE=/var/x\0"
    b"OCSPRELOAD_RESPONSES=/etc/ocsp",
}

# Of the judge's.
STORED = (
    "good-ec-direct",
    "good-ec-several",
    "good-rsa-delegate",
    "revoked",
    "expired",
    "sibling",
    "error",
    "empty",
    "trailing",
    "cut",
)

# Fields have their size in four bytes before them.
MESSAGES = {
    "question": b"OCSPq\0\0\1\0" b"\0\0\0\4leaf" b"\0\0\0\6issuer",
    "look": b"OCSPq\0\0\1\1" b"\0\0\0\4leaf" b"\0\0\0\0",
    "answer": b"OCSPa\0\0\1\0" b"\0\0\1\xa1\xfeoG\xda" b"\0\0\0\5bytes" + bytes(8),
    "refusal": b"OCSPa\0\0\1\3" + bytes(16) + b"\0\0\0\2no",
}


def write(name, seeds):
    directory = HERE / "corpus" / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for seed, data in seeds.items():
        (directory / seed).write_bytes(data)


def respond(authority, leaf, court, **options):
    return court.respond(leaf.certificate, authority, **options)


def good_responses(kind, authority, leaf, court):
    """With "flip" in its name, each of its bits is tried by the fuzzer, which takes its time."""
    delegate = authority.delegate()
    own, other = authority.certificate, leaf.certificate
    made = {
        "direct": {},
        "by-name": {"by_hash": False},
        "sha256": {"algorithm": hashes.SHA256()},
        "absent": {"next_update": "absent"},
        "own": {"certificates": [own]},
        "delegate": {"signer": delegate},
        "more": {"signer": delegate, "certificates": [delegate.certificate, other]},
    }
    if kind == "rsa":
        made = {name: made[name] for name in ("direct", "delegate")}
    flipped = ("ec-delegate", "rsa-direct")
    return {
        f"good-{kind}-{name}" + "-flip" * (f"{kind}-{name}" in flipped): respond(
            authority, leaf, court, **options
        )
        for name, options in made.items()
    }


def several(authority, leaf, court):
    """About another certificate first."""
    sibling = court.respond(authority.sibling(leaf.certificate), authority)
    head, ours = t.data_of(sibling)[:2], respond(authority, leaf, court)
    singles = [single for der in (sibling, ours) for single in t.split(t.data_of(der)[2])]
    return ca.sign_response(ca.tlv(0x30, *head, ca.tlv(0x30, *singles)), authority.key)


def bad_responses(authority, leaf, court):
    sibling = authority.sibling(leaf.certificate)
    single = respond(authority, leaf, court)
    data = t.data_of(single)
    critical = t.extension(t.UNHEARD_OF, True)
    return {
        "revoked": respond(authority, leaf, court, status="revoked"),
        "unknown": respond(authority, leaf, court, status="unknown"),
        "expired": respond(authority, leaf, court, next_update=court.after(-1)),
        "early": respond(authority, leaf, court, this_update=court.after(301)),
        "sibling": court.respond(sibling, authority),
        "usage": respond(authority, leaf, court, signer=authority.delegate("server")),
        "order": respond(authority, leaf, court, certificates=[leaf.certificate]),
        "error": ca.error_response("TRY_LATER"),
        "empty": ca.tlv(0x30, ca.tlv(0x0A, b"\0")),
        "critical": ca.sign_response(ca.tlv(0x30, *data[:3], critical), authority.key),
        "trailing": single + b"\0",
        "cut": single[:-20],
    }


def main():
    with tempfile.TemporaryDirectory() as directory:
        court = t.Court(pathlib.Path(directory))
        # For ever: what is judged is judged at this moment.
        moment = calendar.timegm(court.moment.timetuple())
        target = HERE / "court"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "moment").write_text(f"{moment}\n")
        judged, certificates = {}, {}
        for kind in ("ec", "rsa"):
            authority = ca.Authority.create(directory, f"{kind} Root", kind=kind)
            leaf = authority.issue("www.example.org", responder="http://ocsp.example.org/")
            issuer = authority.certificate.public_bytes(Encoding.DER)
            (target / f"{kind}-leaf.der").write_bytes(leaf.der)
            (target / f"{kind}-issuer.der").write_bytes(issuer)
            judged.update(good_responses(kind, authority, leaf, court))
            if kind == "ec":
                judged["good-ec-several"] = several(authority, leaf, court)
                judged.update(bad_responses(authority, leaf, court))
            certificates[f"{kind}-leaf"] = leaf.der
            certificates[f"{kind}-issuer"] = issuer
            certificates[f"{kind}-pem"] = b"text\n" + ca.pem(leaf.certificate, authority.certificate)
            both = [authority.certificate, leaf.certificate]
            for name, encoding in (("pkcs7", Encoding.DER), ("pkcs7-pem", Encoding.PEM)):
                bundle = pkcs7.serialize_certificates(both, encoding)
                certificates[f"{kind}-{name}"] = bundle
            urls = ["http://a.test/", "http://b.test/x?y", "ldap://c.test", "http://with space/"]
            other = ca.Authority.create(directory, f"Other {kind} Root", kind=kind)
            odd = other.issue("*.example.org", "b.test", responder=urls, usage="server client")
            certificates[f"{kind}-odd"] = odd.der
    write("judge", judged)
    write("store", {name: judged[name] for name in STORED})
    write("certificate", certificates)
    # A byte for the limit, two for the pieces: see fuzz_http.c.
    write("exchange", {name: script(name) for name in RESPONSES})
    write("http", {name: b"\0\x07\x03" + data for name, data in RESPONSES.items()})
    write("url", {str(i): url.encode() for i, url in enumerate(URLS)})
    write("config", FILES)
    write("agent", MESSAGES)


if __name__ == "__main__":
    os.umask(0o022)
    main()
