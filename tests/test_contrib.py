# SPDX-License-Identifier: MIT
"""contrib/: what switches it on, as the documents say it, and where make puts it."""

import pathlib
import re
import subprocess

import hosts_table
from conftest import plain_build_only
from servers import BUILD, PLAIN_ENVIRONMENT, ROOT

CONTRIB = ROOT / "contrib"
LIBRARY = "/usr/local/lib/libocspreload.so"
DOCUMENT = (ROOT / "docs" / "servers.md").read_text()


def listed():
    """The files that contrib/README.md tells of."""
    return re.findall(r"^\| `([^`]+)` \|", (CONTRIB / "README.md").read_text(), re.MULTILINE)


def settings(path):
    """What is left of a file without comments and white space at the ends."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_contribs_readme_tells_of_files_that_are_there():
    assert len(listed()) > 5
    for name in listed():
        assert settings(CONTRIB / name), name


def test_what_switches_a_server_on_stands_in_the_documents_word_for_word():
    said = [line.strip().strip("`") for line in DOCUMENT.splitlines()]
    text = " ".join(said)
    for name in listed():
        for line in settings(CONTRIB / name):
            if name.startswith("systemd/") and "OCSPRELOAD_LOG" in line:
                assert line.partition("=")[2] in text
            else:
                assert line in text, f"{name}: {line}"


def test_every_file_that_the_table_names_is_among_them():
    places = {pathlib.Path(name).name for name in listed()}
    for host in hosts_table.HOSTS.values():
        if host.how.startswith("`LD_PRELOAD="):
            continue
        for name in re.findall(r"`([^`]+)`", host.how):
            # A drop-in's name is that of its unit.
            if not host.how.startswith("drop-in"):
                assert pathlib.Path(name).name in places, f"{host.title}: {name}"


def test_what_a_shell_reads_sets_the_variable():
    for name in ("apache2/envvars", "pure-ftpd/pure-ftpd-common"):
        output = subprocess.check_output(
            ["sh", "-c", '. "$0"; unset -f true; exec /usr/bin/env', str(CONTRIB / name)],
            env={**PLAIN_ENVIRONMENT, "LD_BIND_NOT": ""},
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert f"LD_PRELOAD={LIBRARY}\n" in output


@plain_build_only
def test_make_install_names_the_library_where_it_is(tmp_path):
    subprocess.run(
        ["make", "-C", ROOT, "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/x", f"BUILD={BUILD}"],
        check=True,
        capture_output=True,
    )
    installed = tmp_path / "opt/x/share/doc/ocspreload/contrib"
    for name in listed():
        text = (installed / name).read_text()
        assert LIBRARY not in text
        assert text == (CONTRIB / name).read_text().replace(LIBRARY, "/opt/x/lib/libocspreload.so")
