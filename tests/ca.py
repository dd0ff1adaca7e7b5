# SPDX-License-Identifier: MIT
"""A throw-away certificate authority that signs good certificates, and OCSP responses of any kind."""

import copy
import datetime
import functools
import itertools
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

SHA1 = hashes.SHA1()
SHA256 = hashes.SHA256()
EXTENDED_KEY_USAGES = {
    "server": ExtendedKeyUsageOID.SERVER_AUTH,
    "client": ExtendedKeyUsageOID.CLIENT_AUTH,
    "ocsp": ExtendedKeyUsageOID.OCSP_SIGNING,
}
_numbers = itertools.count(1)


def now():
    """The time as certificates and responses want it: UTC, naive, whole seconds."""
    return datetime.datetime.utcnow().replace(microsecond=0)


def seconds(number):
    return datetime.timedelta(seconds=number)


@functools.lru_cache(maxsize=None)
def key(kind, label):
    """One key per kind and label for the whole session: making RSA keys is slow."""
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


def pem(*objects):
    text = b""
    for item in objects:
        if isinstance(item, x509.Certificate):
            text += item.public_bytes(serialization.Encoding.PEM)
        else:
            text += item.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
    return text


def common_name(name):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def printable(name):
    """The same name as common_name's, in other bytes."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name, _ASN1Type.PrintableString)])


def tlv(tag, *contents):
    """DER of one value."""
    body = b"".join(contents)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + body


ID_PKIX_OCSP_BASIC = bytes.fromhex("06092b0601050507300101")
ALGORITHMS = {
    "rsa": bytes.fromhex("300d06092a864886f70d01010b0500"),  # sha256WithRSAEncryption
    "ec": bytes.fromhex("300a06082a8648ce3d040302"),  # ecdsa-with-SHA256
}


def sign_response(tbs, private_key, certificates=()):
    """An OCSPResponse around a tbsResponseData of any content, which builders would refuse."""
    if isinstance(private_key, rsa.RSAPrivateKey):
        algorithm, signature = "rsa", private_key.sign(tbs, padding.PKCS1v15(), SHA256)
    else:
        algorithm, signature = "ec", private_key.sign(tbs, ec.ECDSA(SHA256))
    parts = [tbs, ALGORITHMS[algorithm], tlv(0x03, b"\0", signature)]
    if certificates:
        ders = [c.public_bytes(serialization.Encoding.DER) for c in certificates]
        parts.append(tlv(0xA0, tlv(0x30, *ders)))
    basic = tlv(0x30, *parts)
    return tlv(
        0x30,
        tlv(0x0A, b"\0"),
        tlv(0xA0, tlv(0x30, ID_PKIX_OCSP_BASIC, tlv(0x04, basic))),
    )


def error_response(status):
    """An unsuccessful OCSPResponse by the name of its status, such as "TRY_LATER"."""
    response = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus[status])
    return response.public_bytes(serialization.Encoding.DER)


class Leaf:
    """A certificate with its key, its issuer, and the files that a server wants them in."""

    def __init__(self, authority, certificate, private_key):
        self.authority = authority
        self.certificate = certificate
        self.key = private_key
        self.serial = certificate.serial_number
        stem = authority.directory / f"{next(_numbers)}-{self.serial:x}"
        self.certificate_file = stem.with_suffix(".crt")
        self.chain_file = stem.with_suffix(".chain")
        self.key_file = stem.with_suffix(".key")
        self.pem_file = stem.with_suffix(".pem")
        self.certificate_file.write_bytes(pem(certificate))
        self.chain_file.write_bytes(pem(certificate, *authority.chain))
        self.key_file.write_bytes(pem(private_key))
        self.pem_file.write_bytes(pem(private_key, certificate, *authority.chain))

    @property
    def der(self):
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def with_chain(self, *certificates):
        """The same certificate, for a server that sends these after it."""
        other = copy.copy(self)
        stem = self.authority.directory / f"{next(_numbers)}-{self.serial:x}"
        other.chain_file = stem.with_suffix(".chain")
        other.pem_file = stem.with_suffix(".pem")
        other.chain_file.write_bytes(pem(self.certificate, *certificates))
        other.pem_file.write_bytes(pem(self.key, self.certificate, *certificates))
        return other


class Signer:
    """Who signs a response: a key, and the certificate that goes along if it is a delegate."""

    def __init__(self, private_key, certificate, delegated):
        self.key = private_key
        self.certificate = certificate
        self.delegated = delegated


class Authority:
    """A root or an intermediate. chain is what servers send after the leaf; roots are not sent."""

    def __init__(self, directory, private_key, certificate, parent=None):
        self.directory = pathlib.Path(directory)
        self.key = private_key
        self.certificate = certificate
        self.parent = parent
        self.file = self.directory / f"ca-{next(_numbers)}.pem"
        self.file.write_bytes(pem(certificate))

    @classmethod
    def create(cls, directory, name="Root", kind="ec"):
        private_key = key(kind, name)
        certificate = _sign(name, private_key, common_name(name), private_key, ca=True)
        return cls(directory, private_key, certificate)

    @property
    def root(self):
        return self.parent.root if self.parent else self

    @property
    def chain(self):
        return [self.certificate] + self.parent.chain if self.parent else []

    @property
    def subject(self):
        return self.certificate.subject

    def subordinate(self, name="Intermediate", kind="rsa"):
        private_key = key(kind, name)
        certificate = _sign(name, private_key, self.subject, self.key, ca=True)
        return Authority(self.directory, private_key, certificate, self)

    def again(self, parent=None, subject=None, new_key=False, **options):
        """
        The same CA in another certificate: renewed, or signed by another parent, or with another
        subject, or with a key of its own, as nobody but an impostor or a new generation has it.
        """
        parent = parent or self.parent
        private_key = key("ec", f"another {self.file}") if new_key else self.key
        certificate = _sign(
            subject or self.subject, private_key, parent.subject, parent.key, ca=True, **options
        )
        return Authority(self.directory, private_key, certificate, parent)

    def issue(self, *names, kind="ec", responder=None, **options):
        """A leaf for names; responder is a URL, several, or None. For options see _sign."""
        private_key = key(kind, "leaf")
        certificate = _sign(
            names[0] if names else "localhost",
            private_key,
            self.subject,
            self.key,
            names=names or ("localhost",),
            responders=[responder] if isinstance(responder, str) else responder or [],
            **options,
        )
        return Leaf(self, certificate, private_key)

    def delegate(self, usage="ocsp", not_before=None, not_after=None, **options):
        """A delegated signer (RFC 6960, 4.2.2.2); usage None leaves the OCSPSigning EKU out."""
        private_key = key("ec", "delegate")
        certificate = _sign(
            "OCSP Signer",
            private_key,
            self.subject,
            self.key,
            usage=usage,
            not_before=not_before,
            not_after=not_after,
            **options,
        )
        return Signer(private_key, certificate, True)

    def signer(self):
        return Signer(self.key, self.certificate, False)

    def respond(
        self,
        certificate,
        status="good",
        this_update=None,
        next_update=None,
        revoked_at=None,
        algorithm=SHA1,
        signer=None,
        certificates=None,
        by_hash=True,
    ):
        """
        DER of a response for certificate. Times are datetimes or seconds from now; next_update
        "absent" leaves it out, and it may be before this_update.
        """
        signer = signer or self.signer()
        this_update = _time(this_update, 0)
        absent = next_update == "absent"
        next_update = None if absent else _time(next_update, 3600)
        backwards = not absent and next_update < this_update
        revoked = status == "revoked"
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=certificate,
            issuer=self.certificate,
            algorithm=algorithm,
            cert_status=ocsp.OCSPCertStatus[status.upper()],
            this_update=this_update,
            next_update=this_update if backwards else next_update,
            revocation_time=_time(revoked_at, -60) if revoked else None,
            revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
        )
        encoding = ocsp.OCSPResponderEncoding
        builder = builder.responder_id(
            encoding.HASH if by_hash else encoding.NAME, signer.certificate
        )
        if certificates is None:
            certificates = [signer.certificate] if signer.delegated else []
        # The builder refuses what a CA should not do: wrong keys, times that run backwards.
        rightful = self.key if signer.certificate == self.certificate else signer.key
        tbs = builder.sign(rightful, SHA256).tbs_response_bytes
        if backwards:
            head, _, tail = tbs.rpartition(_generalized(this_update))
            tbs = head + _generalized(next_update) + tail
        return sign_response(tbs, signer.key, certificates)

    def sibling(self, certificate, serial=None):
        """A certificate that differs in its serial alone, for responses that miss."""
        return _sign(
            "sibling", key("ec", "leaf"), self.subject, self.key, serial=serial
        )


def _generalized(time):
    return time.strftime("%Y%m%d%H%M%SZ").encode()


def _time(value, default):
    if isinstance(value, datetime.datetime):
        return value
    return now() + seconds(default if value is None else value)


def _sign(
    subject,
    private_key,
    issuer,
    issuer_key,
    ca=False,
    names=(),
    responders=(),
    ca_issuers=(),
    serial=None,
    usage=None,
    must_staple=False,
    no_check=False,
    not_before=None,
    not_after=None,
):
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name(subject) if isinstance(subject, str) else subject)
        .issuer_name(issuer)
        .public_key(private_key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(_time(not_before, -3600))
        .not_valid_after(_time(not_after, 7 * 86400))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private_key.public_key()), False)
    )
    if names:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False
        )
    if usage:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([EXTENDED_KEY_USAGES[name] for name in usage.split()]), False
        )
    access = [(AuthorityInformationAccessOID.CA_ISSUERS, url) for url in ca_issuers]
    access += [(AuthorityInformationAccessOID.OCSP, url) for url in responders]
    if access:
        builder = builder.add_extension(
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
                    for method, url in access
                ]
            ),
            False,
        )
    if must_staple:
        builder = builder.add_extension(
            x509.TLSFeature([x509.TLSFeatureType.status_request]), False
        )
    if no_check:
        builder = builder.add_extension(x509.OCSPNoCheck(), False)
    return builder.sign(issuer_key, SHA256)
