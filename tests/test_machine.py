# SPDX-License-Identifier: MIT
"""A machine on which servers that know nothing of each other have one certificate."""

import time

import daemons
import responder as r
from client import handshake
from conftest import needs_root, plain_build_only
from support import scaled

pytestmark = [needs_root, plain_build_only]

# Seconds. A response is refreshed between five and six tenths of its life, counted from the whole
# second in which it was made: once a minute, in the long run. In the short one it is not new when it
# comes, so that it does not end if the machine stands still for a while.
REST, AGE = scaled((20, 10), (110, 0))
LIFE = AGE + REST
LENGTH = scaled(33, 3600)
INTERVAL = 0.55 * LIFE - AGE - 0.5


def test_a_web_a_mail_and_an_imap_server_ask_once_for_all_of_them(
    daemon, nginx, issue, responder, figure
):
    leaf = issue(kind="rsa", behaviour=r.good(validity=REST, this_update=-AGE))
    store = daemon.directory / "store"
    store.mkdir(mode=0o755)
    environment = {"OCSPRELOAD_STORE": str(store)}
    web = nginx(leaf, environment=environment)
    assert handshake(web.port).stapled
    servers = {
        "nginx": web,
        "smtpd": daemon(daemons.PostfixWithStore, leaf, environment=environment),
        "imap-login": daemon(daemons.DovecotWithStore, leaf, environment=environment),
    }
    handshakes, missed = 0, []
    began = reported = time.monotonic()
    while (now := time.monotonic()) < began + LENGTH:
        for name, server in servers.items():
            handshakes += 1
            if not handshake(server.port, talk=getattr(server, "talk", None)).stapled:
                missed.append((name, now - began))
        if now > reported + 300:
            reported = now
            print(f"{now - began:.0f} s: {responder.count(leaf)} requests,", end=" ")
            print(f"{handshakes} handshakes, {len(missed)} without a staple", flush=True)
        time.sleep(INTERVAL / 10)
    at = [asked.at for asked in responder.asked_for(leaf)]
    # The first was there before the clock ran.
    asked = sum(began < moment <= began + LENGTH for moment in at)
    gaps = [later - earlier for earlier, later in zip(at, at[1:])]
    figure("seconds", LENGTH)
    figure("requests", f"{asked}, ideally {LENGTH / INTERVAL:.1f}")
    figure("seconds between two", f"{min(gaps):.1f} to {max(gaps):.1f}")
    figure("handshakes", f"{handshakes}, {len(missed)} of them without a staple")
    assert not missed
    assert abs(asked - LENGTH / INTERVAL) <= 2, gaps
    assert min(gaps) >= LIFE / 2 - AGE - 1.5
