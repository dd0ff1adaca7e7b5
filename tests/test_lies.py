# SPDX-License-Identifier: MIT
"""
Wrong answers while a good one is held: none is stapled, no handshake fails, and the good one is kept
to its end. docs/answers.md tells what each comes to; OCSPRELOAD_WRITE_DOCS=1 writes it.
"""

import os
import random
import re
import types

import ca
import pytest
import responder as r
import test_ocsp
from client import Client, assert_strict
from cryptography.x509 import ocsp
from lies import lies, spoilt
from servers import ROOT, SANITIZE
from support import wait_until

DOCUMENT = ROOT / "docs" / "answers.md"
# All lies come from one responder, which is left alone for up to ten seconds when it fails for some:
# the others must still be asked for in what is left after half a life.
LIFE = 30
# ThreadSanitizer is slow, and to it one lie is like another.
STEP = 5 if "thread" in SANITIZE else 1
# The first answers take their time, all at once and with a sanitizer.
PATIENT = {"OCSPRELOAD_STARTUP_WAIT": "20s", "OCSPRELOAD_TIMEOUT": "2s"}
LINE = re.compile(
    r"\bt(?P<name>\d+)\.test \(serial \w+\): no usable response from (?P<url>\S+): (?P<why>.*); "
    r"(?:still stapling the last one until \S+|nothing to staple); trying again in "
)


def once(behaviour):
    """The same bytes, however often a slow machine asks before the lies begin."""
    made = {}
    return lambda leaf: made.setdefault(leaf.serial, behaviour(leaf))


class Witness:
    """
    A server with a certificate for each lie, and what became of each. tell gives the lies by group
    and name; it is told the responder, and another certificate of the server.
    """

    def __init__(self, start, issue, responder, tell):
        self.responder = responder
        other = issue("other.test")
        # What asks nothing has followed a redirect, and is sent on.
        responder.answer(types.SimpleNamespace(serial=None), r.redirect(responder.url + "again"))
        self.lies = [
            (group, name, behaviour)
            for group, told in tell(responder, other).items()
            for name, behaviour in told.items()
        ][::STEP]
        # Names that no lie could be mistaken for: t0.test, t1.test…
        # An older answer is a good one as soon as nothing is held: it must be asked for before, by a
        # name of the responder's that is not left alone for the others' sake.
        alone = {"responder": responder.url.replace("127.0.0.1", "localhost")}
        self.leaves = [
            issue(
                f"t{i}.test",
                behaviour=once(r.good(LIFE)),
                **(alone if name == "older than what is held" else {}),
            )
            for i, (_, name, _) in enumerate(self.lies)
        ]
        files = [f"t{i}.test={leaf.pem_file}" for i, leaf in enumerate(self.leaves)]
        self.server = start(other.pem_file, *files, environment=PATIENT)
        self._client = Client()

    def staple(self, i):
        """By a handshake, which must succeed."""
        result = self._client.handshake(self.server.port, f"t{i}.test")
        assert result.serial == self.leaves[i].serial
        return result.staple

    def staples(self):
        return [self.staple(i) for i in range(len(self.leaves))]

    def tell(self, behaviours):
        for leaf, behaviour in zip(self.leaves, behaviours):
            self.responder.answer(leaf, behaviour)

    def reasons(self):
        """What the log says of each lie, the first time that it came through."""
        found = {}
        for line in self.server.shim_lines("warning", "error"):
            match = LINE.search(line)
            if not match:
                continue
            lie = int(match["name"])
            why = match["why"].replace(f"127.0.0.1:{self.responder.port}", "RESPONDER")
            # All at once, on a slow machine, some that do answer are late.
            late = why.startswith("no answer within")
            silent = self.lies[lie][0] == "The responder" and "waiting for the response" in why
            if silent or not late:
                found.setdefault(lie, why)
        return found


def end_of(staple):
    return ocsp.load_der_ocsp_response(staple).next_update


def assert_held(witness, held):
    """What was held is stapled; on a machine so slow that its time is over, nothing wrong is."""
    for i, (before, (_, name, _)) in enumerate(zip(held, witness.lies)):
        now = witness.staple(i)
        if now == before:
            continue
        assert ca.now() >= end_of(before), name
        # Nothing wrong with this one as soon as no newer one is held.
        assert now is None or name == "older than what is held", name


def check_document(witness, reasons):
    lines = [
        "# Wrong answers",
        "",
        "What becomes of them while a good response is held. In each case no handshake fails, none",
        "of them is stapled, the good one is stapled until its nextUpdate, and the responder is asked",
        "again after the usual delay. This table is written by a test (`tests/test_lies.py`).",
        "",
    ]
    group = None
    for i, (title, name, _) in enumerate(witness.lies):
        if title != group:
            lines += [""] * (group is not None)
            lines += [f"## {title}", "", "| answer | what the log says |", "|---|---|"]
            group = title
        lines.append(f"| {name} | {reasons[i]} |")
    text = "\n".join(lines) + "\n"
    if os.environ.get("OCSPRELOAD_WRITE_DOCS") == "1":
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(text)
    assert DOCUMENT.read_text() == text, "run me with OCSPRELOAD_WRITE_DOCS=1"


def examine(witness, directory):
    """Tells the lies where something good is held, and the truth afterwards."""
    held = witness.staples()
    assert all(held), witness.server.log()
    witness.tell(behaviour for _, _, behaviour in witness.lies)
    # A refresh comes at half-life, and with it the first lie.
    wait_until(
        lambda: len(witness.reasons()) == len(witness.lies),
        timeout=2 * LIFE,
        interval=0.2,
        what=lambda: [
            lie[:2] for i, lie in enumerate(witness.lies) if i not in witness.reasons()
        ],
    )
    assert_held(witness, held)
    witness.tell([r.good()] * len(held))
    for i, leaf in enumerate(witness.leaves):
        # Not within seconds: how long it takes depends on how often it had failed before.
        staple = wait_until(
            lambda i=i: (witness.staple(i) or held[i]) != held[i] and witness.staple(i),
            timeout=70,
            interval=0.1,
            what=lambda i=i: (witness.lies[i], witness.server.log()),
        )
        if i % 10 == 0:
            assert_strict(staple, leaf, directory)


def test_no_lie_is_stapled_and_the_good_response_is_kept(
    python_server, issue, responder, tmp_path
):
    witness = Witness(python_server, issue, responder, lies)
    assert len(witness.lies) >= 45 // STEP
    examine(witness, tmp_path)
    if STEP == 1:
        check_document(witness, witness.reasons())


def test_nothing_spoilt_is_stapled_and_the_good_response_is_kept(
    python_server, issue, responder, tmp_path
):
    size = min(len(r.good()(issue()).body) for _ in range(3))
    witness = Witness(python_server, issue, responder, lambda *_: spoilt(size))
    assert len(witness.lies) >= (size // 16 + 10) // STEP
    examine(witness, tmp_path)


def test_a_good_body_is_good_whatever_content_type_it_comes_with(
    s_server, issue, tmp_path
):
    leaf = issue(behaviour=r.content_type("text/html", r.good()))
    assert_strict(Client().handshake(s_server(leaf).port).staple, leaf, tmp_path)


# Byte by byte


@pytest.fixture(scope="module")
def court(tmp_path_factory):
    return test_ocsp.Court(tmp_path_factory.mktemp("lies"))


@pytest.mark.parametrize("by", ["issuer", "delegate"])
def test_a_response_cut_short_anywhere_is_refused(court, by):
    signer = court.authority.delegate() if by == "delegate" else None
    response = court.respond(signer=signer)
    assert court.judge(response) == test_ocsp.good(court.until)
    for size in range(0, len(response), 16):
        assert court.judge(response[:size]) == test_ocsp.NOT_A_RESPONSE


@pytest.mark.parametrize("by", ["issuer", "delegate"])
def test_a_bit_flipped_anywhere_is_refused(court, by):
    signer = court.authority.delegate() if by == "delegate" else None
    response = court.respond(signer=signer)
    draw = random.Random(6960)
    for bit in draw.sample(range(8 * len(response)), 100):
        flipped = bytearray(response)
        flipped[bit // 8] ^= 1 << bit % 8
        assert court.judge(bytes(flipped)).startswith("refused: "), bit
