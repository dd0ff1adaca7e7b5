# SPDX-License-Identifier: MIT
"""CPython's own tests of TLS say the same of a Python with the shim as of one without."""

import concurrent.futures
import dataclasses
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import ca
import pytest
import responder as r
from conftest import plain_build_only
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from servers import PLAIN_ENVIRONMENT

SUITE = pathlib.Path("/usr/lib") / "python{}.{}".format(*sys.version_info) / "test"
# The names of regrtest. Nothing in them leaves the machine: that takes "-u network".
SUITES = {
    "ssl": ["test_ssl"],
    "http and ftp": ["test_httplib", "test_ftplib"],
    "asyncio": ["test_asyncio", "-m", "*[Ss][Ss][Ll]*"],
}

pytestmark = plain_build_only


@dataclasses.dataclass
class Stranger:
    """A certificate that came with its key and its issuer from elsewhere."""

    certificate: x509.Certificate
    authority: ca.Authority

    @property
    def serial(self):
        return self.certificate.serial_number


@pytest.fixture
def python_responder(responder, tmp_path):
    """Answers for the certificates that CPython's tests serve: their CA's key is among them."""
    key = serialization.load_pem_private_key((SUITE / "pycakey.pem").read_bytes(), None)
    root = x509.load_pem_x509_certificate((SUITE / "pycacert.pem").read_bytes())
    authority = ca.Authority(tmp_path, key, root)
    for name in ("keycert3", "keycert4", "keycertecc", "allsans", "idnsans", "nosan"):
        certificate = x509.load_pem_x509_certificate((SUITE / f"{name}.pem").read_bytes())
        if certificate.issuer == root.subject:
            responder.answer(Stranger(certificate, authority), r.good())
    return responder


def run(directory, arguments, environment):
    """The outcome of each test by its name."""
    directory.mkdir()
    report = directory / "report.xml"
    done = subprocess.run(
        [sys.executable, "-m", "test", "--junit-xml", str(report), *arguments],
        env={**PLAIN_ENVIRONMENT, **environment, "TMPDIR": str(directory)},
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=600,
    )
    assert report.exists(), done.stdout + done.stderr
    outcomes = {}
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        bad = [kind for kind in ("error", "failure") if case.find(kind) is not None]
        name = case.get("name")
        outcomes[name] = bad or ["skipped" if case.find("skipped") is not None else "ok"]
    return outcomes


@pytest.mark.parametrize("suite", SUITES)
def test_every_test_of_cpython_ends_as_without_the_shim(suite, shim, python_responder, tmp_path):
    assert (SUITE / "test_ssl.py").exists(), "libpython3.11-testsuite is not installed"
    log = tmp_path / "shim.log"
    shim.variables.update(
        OCSPRELOAD_LOG=str(log),
        OCSPRELOAD_TRUSTED=str(SUITE / "pycacert.pem"),
        OCSPRELOAD_RESPONDER=python_responder.url,
    )
    with concurrent.futures.ThreadPoolExecutor() as both:
        first = both.submit(run, tmp_path / "without", SUITES[suite], {})
        second = both.submit(run, tmp_path / "under", SUITES[suite], shim.environment())
        without, under = first.result(), second.result()
    assert len(without) > 20
    assert under == without
    # It was in their way all the time.
    assert "stapling the response of" in log.read_text()
    assert python_responder.asked
