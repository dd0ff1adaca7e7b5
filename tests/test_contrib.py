# SPDX-License-Identifier: MIT
"""contrib/: what switches it on, as the documents say it, and where make puts it."""

import pathlib
import re
import shutil
import subprocess

import hosts_table
from conftest import needs_root, plain_build_only
from daemons_long import with_etc
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
        if not host.how or host.how.startswith("`LD_PRELOAD="):
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


def output(*command, **variables):
    return subprocess.run(
        list(map(str, command)),
        env={**PLAIN_ENVIRONMENT, **variables},
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_what_servers_read_themselves_says_to_them_what_it_should(tmp_path):
    for name in ("postfix/main.cf", "dovecot/dovecot.conf"):
        shutil.copy(CONTRIB / name, tmp_path)
    (tmp_path / "master.cf").touch()
    of_postfix = output("postconf", "-c", tmp_path, "-h", "import_environment")
    assert f" LD_PRELOAD={LIBRARY} OCSPRELOAD_ONLY=smtpd\n" in of_postfix
    default = output("postconf", "-d", "-h", "import_environment").strip()
    assert set(default.split()) < set(of_postfix.split()), "it takes nothing away"

    of_dovecot = output("doveconf", "-c", tmp_path / "dovecot.conf", "-h", "import_environment")
    assert f" LD_PRELOAD={LIBRARY} OCSPRELOAD_ONLY=imap-login,pop3-login " in of_dovecot
    default = output("doveconf", "-d", "-h", "import_environment").strip()
    assert of_dovecot.startswith(default), "it takes nothing away"

    read = "my %e = PgCommon::read_conf_file($ARGV[0]); print map {qq($_=$e{$_}\\n)} keys %e"
    perl = ["perl", "-I/usr/share/postgresql-common", "-MPgCommon", "-e", read]
    assert output(*perl, CONTRIB / "postgresql/environment") == f"LD_PRELOAD={LIBRARY}\n"

    conf = tmp_path / "nginx.conf"
    line = (CONTRIB / "nginx/nginx.conf").read_text()
    conf.write_text(f"{line}pid {tmp_path}/pid;\nevents {{}}\n")
    output("nginx", "-t", "-q", "-c", conf, "-e", tmp_path / "error.log")


@needs_root
@plain_build_only
def test_of_all_that_ld_so_preload_reaches_ocspreload_conf_lists_squid_alone(
    public, issue, tmp_path
):
    """With the library where the file says."""
    both = tmp_path / "tls.pem"
    both.write_bytes(issue().pem_file.read_bytes())
    (public / "lib").mkdir()
    shutil.copy(BUILD / "libocspreload.so", public / "lib")
    files = {
        "ld.so.preload": (CONTRIB / "squid/ld.so.preload").read_text(),
        "ocspreload.conf": (CONTRIB / "squid/ocspreload.conf").read_text(),
    }
    bound = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    bound += ['mount --bind "$1" /usr/local/lib; shift; exec "$@"', "sh", str(public / "lib")]
    wrapper = [*bound, *with_etc(tmp_path, files)]
    visit = (
        'cp /usr/bin/openssl "$0/squid"\n'
        "for server in /usr/bin/openssl $0/squid; do\n"
        # The shell of what follows empties it, too, but in its own time.
        '  : >"$0/out"\n'
        '  $server s_server -accept 127.0.0.1:0 -cert "$1" >"$0/out" 2>&1 & pid=$!\n'
        '  until grep -q ACCEPT "$0/out"; do kill -0 $pid || exit 1; sleep 0.05; done\n'
        '  "$2" doctor $pid; kill $pid; wait $pid\n'
        "done\ntrue\n"
    )
    command = [*wrapper, "sh", "-c", visit, public, both, BUILD / "ocspctl"]
    first, second = output(*command).splitlines()
    assert first.startswith("not stapled: ") and "OCSPRELOAD_ONLY does not list it" in first
    assert second.startswith("ok: ") and "(squid): libocspreload.so is in it" in second


def complaints(units, directory):
    """What systemd has to say of units in a directory."""
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        env={**PLAIN_ENVIRONMENT, "SYSTEMD_UNIT_PATH": f"{directory}:"},
        check=False,
        capture_output=True,
        text=True,
    ).stderr.replace(str(directory), "")


def units_of_drop_ins():
    """Those that the table names, but for what one has to write and name oneself."""
    for host in hosts_table.HOSTS.values():
        name = re.fullmatch("drop-in, `(.*)`", host.how or "")
        if name and name[1] != "NAME@":
            yield name[1].replace("NAME", "") + ".service"


def test_the_drop_in_is_for_units_of_debians_and_systemd_understands_it_in_each(tmp_path):
    places = ["/lib/systemd/system", *hosts_table.UNPACKED.glob("*/lib/systemd/system")]
    instances = []
    for unit in sorted(set(units_of_drop_ins())):
        files = [pathlib.Path(place) / unit for place in places]
        files = [file for file in files if file.exists()]
        assert files, f"no package has {unit}"
        shutil.copy(files[0], tmp_path)
        instances.append(unit.replace("@.", "@one."))
    assert len(instances) > 20
    before = complaints(instances, tmp_path)
    for unit in instances:
        name = unit.replace("@one.", "@.")
        (tmp_path / f"{name}.d").mkdir()
        shutil.copy(CONTRIB / "systemd/ocspreload.conf", tmp_path / f"{name}.d")
    assert complaints(instances, tmp_path) == before
    for file in tmp_path.glob("*.d/*.conf"):
        file.write_text(file.read_text().replace("Environment=", "Enviroment="))
    wrong = complaints(instances, tmp_path)
    for unit in instances:
        name = unit.replace("@one.", "@.")
        assert f"{name}.d/ocspreload.conf:7: Unknown key" in wrong, "else all this shows nothing"


def test_a_unit_that_lets_nothing_be_executed_is_told_of_the_library(tmp_path):
    units = [pathlib.Path("/lib/systemd/system", unit) for unit in set(units_of_drop_ins())]
    strict = [unit for unit in units if unit.exists() and "NoExecPaths=" in unit.read_text()]
    assert [unit.name for unit in strict] == ["redis-server.service"], "contrib has the others', too"
    shutil.copy(strict[0], tmp_path)
    before = complaints(["redis-server.service"], tmp_path)
    (tmp_path / "redis-server.service.d").mkdir()
    drop_in = tmp_path / "redis-server.service.d/ocspreload.conf"
    shutil.copy(CONTRIB / "redis/ocspreload.conf", drop_in)
    assert complaints(["redis-server.service"], tmp_path) == before
    drop_in.write_text(drop_in.read_text().replace("ExecPaths=/usr", "ExecPaths=usr"))
    assert complaints(["redis-server.service"], tmp_path) != before, "else all this shows nothing"


def test_systemd_understands_the_units_of_our_own(tmp_path):
    names = [path.name for path in (CONTRIB / "systemd").glob("ocspreload-*")]
    assert len(names) == 4
    for name in names:
        text = (CONTRIB / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/usr/local/bin/ocspctl", "/bin/true"))
    ours = [name.replace("@.", "@one.") for name in names]
    said = complaints(ours, tmp_path)
    assert not [line for line in said.splitlines() if "ocspreload" in line], said


def test_every_file_is_tried_by_some_test():
    """A new one needs a new test, here or elsewhere."""
    tried = set(listed()) | {"fleets/squid.conf", "README.md"}
    tried |= {f"systemd/{path.name}" for path in (CONTRIB / "systemd").glob("ocspreload-*")}
    there = {str(path.relative_to(CONTRIB)) for path in CONTRIB.rglob("*") if path.is_file()}
    assert there == tried


@plain_build_only
def test_make_install_names_the_library_where_it_is(tmp_path):
    # Not built anew, whatever flags it was built with: other tests run it meanwhile.
    built = [f"--old-file={BUILD / name}" for name in ("libocspreload.so", "ocspctl")]
    where = [f"DESTDIR={tmp_path}", "PREFIX=/opt/x", f"BUILD={BUILD}"]
    subprocess.run(
        ["make", "-C", ROOT, *built, "install", *where],
        check=True,
        capture_output=True,
    )
    documents = tmp_path / "opt/x/share/doc/ocspreload"
    installed = documents / "contrib"
    for file in (path for path in documents.rglob("*") if path.is_file()):
        # README.md tells where things go to if one does not say otherwise.
        text = file.read_text() if file.parent != documents or file.suffix != ".md" else ""
        assert not re.search("/usr/local/(lib/|bin/|share/)", text), file
    assert (documents / "ocspreload-agent.service").exists()
    assert [path.name for path in (tmp_path / "opt/x/lib").iterdir()] == ["libocspreload.so"]
    for name in re.findall(r"\]\(([^):#]+)", (documents / "README.md").read_text()):
        assert (documents / name).is_file(), f"README.md leads to {name}"
    for name in listed():
        text = (installed / name).read_text()
        assert LIBRARY not in text
        assert text == (CONTRIB / name).read_text().replace(LIBRARY, "/opt/x/lib/libocspreload.so")
