"""The units for systemd: they run commands that we have, with keys that are found, and are let do nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from cowrieprocessor.cli.main import cli
from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings import SETTINGS_REFERENCE, load_settings
from tests.documents import PROJECT, blocks, table_rows

FOLDER = PROJECT / "packaging" / "systemd"
UNITS = {path.name: path for path in sorted(FOLDER.iterdir())}
SERVICES = [name for name in UNITS if name.endswith(".service")]
README = (PROJECT / "packaging" / "README.md").read_text(encoding="utf-8")
STATE_FOLDER = "/var/lib/cowrieprocessor"

Lines = list[tuple[str, str]]

HARDENING = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "ReadWritePaths": STATE_FOLDER,
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}


def sections(text: str) -> dict[str, Lines]:
    """Return the lines `Key=value` of a unit by section, in order; a key may stand there more than once."""
    found: dict[str, Lines] = {}
    name = ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\[(\w+)\]", line):
            name = match[1]
            found.setdefault(name, [])
        elif line and not line.startswith(("#", ";")):
            key, equals, value = line.partition("=")
            assert equals, line
            found[name].append((key, value))
    return found


def unit(name: str) -> dict[str, Lines]:
    """Return one of our units."""
    return sections(UNITS[name].read_text(encoding="utf-8"))


def values(lines: Lines, key: str) -> list[str]:
    """Return what is given for a key as systemd adds it up: an empty value forgets those before it."""
    found: list[str] = []
    for name, value in lines:
        if name == key:
            found = [*found, value] if value else []
    return found


def environment(lines: Lines) -> dict[str, str]:
    """Return the environment that a service is given."""
    return dict(pair.split("=", 1) for value in values(lines, "Environment") for pair in shlex.split(value))


def credentials(lines: Lines) -> dict[str, str]:
    """Return the file of each credential of a service, by its name."""
    return dict(value.split(":", 1) for value in values(lines, "LoadCredential"))


def accept(words: Sequence[str]) -> None:
    """Parse the words of a command line as the program does, without running the command.

    Raises:
        click.UsageError: the program would not take them.
    """
    name, *rest = words
    context = click.Context(cli, info_name="cowrieprocessor")
    _, command, _ = cli.resolve_command(context, [name])
    assert command is not None
    command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("name", SERVICES)
def test_command_is_one_of_ours(name: str) -> None:
    """What a service runs is a command line that our program takes, with its options and their values."""
    commands = values(unit(name)["Service"], "ExecStart")
    assert 1 == len(commands)
    program, *words = shlex.split(commands[0])
    assert Path("/opt/cowrieprocessor/bin/cowrieprocessor") == Path(program)
    accept(words)
    assert ("--watch" in words) == ("watch" in name)
    assert "enrich" == words[0]


@pytest.mark.parametrize("words", ["enrich --wach", "enrich --limit none", "enrich --provider nobody", "enriched"])
def test_other_command_lines_are_not_accepted(words: str) -> None:
    """Negative control: a command, an option or a value that is not there does not pass."""
    with pytest.raises(click.UsageError):
        accept(words.split())


@pytest.mark.parametrize("name", SERVICES)
def test_database_lies_where_the_service_may_write(name: str) -> None:
    """The folder of the database is the state folder of the service, which is the only one that it may write in."""
    lines = unit(name)["Service"]
    words = shlex.split(values(lines, "ExecStart")[0])
    assert STATE_FOLDER == str(Path(words[words.index("--db") + 1]).parent)
    assert [STATE_FOLDER] == values(lines, "ReadWritePaths")
    assert ["cowrieprocessor"] == values(lines, "StateDirectory")


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_hardened(name: str) -> None:
    """A service runs as a user of its own, gains no privileges, and sees the system read-only."""
    lines = unit(name)["Service"]
    assert ["cowrieprocessor"] == values(lines, "User")
    given = dict(lines)
    assert HARDENING == {key: given.get(key) for key in HARDENING}
    assert "@system-service" in values(lines, "SystemCallFilter")


def test_services_are_hardened_alike() -> None:
    """From the user on the services are the same, line by line."""
    tails = [
        lines[lines.index(("User", "cowrieprocessor")) :] for lines in (unit(name)["Service"] for name in SERVICES)
    ]
    assert all(tail == tails[0] for tail in tails)
    assert len(tails) > 1


@pytest.mark.parametrize("name", SERVICES)
def test_keys_are_found(name: str, tmp_path: Path) -> None:
    """The variables that a service is given lead to the credentials that systemd loads for it."""
    lines = unit(name)["Service"]
    for credential, path in credentials(lines).items():
        assert f"/etc/cowrieprocessor/{credential}.key" == path
        (tmp_path / credential).write_text(f"key-of-{credential}\n", encoding="utf-8")
    given = environment(lines)
    assert given.keys() <= {setting.variable for setting in SETTINGS_REFERENCE}
    settings = load_settings(environ=given)
    assert settings.virustotal_key is not None
    assert settings.abusech_key is not None
    place = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert "key-of-virustotal" == settings.virustotal_key.reveal(place)
    assert "key-of-abusech" == settings.abusech_key.reveal(place)


@pytest.mark.parametrize("name", SERVICES)
def test_no_key_stands_in_a_unit(name: str) -> None:
    """Every setting that is a key says only where it is, and none is on a command line."""
    lines = unit(name)["Service"]
    secret = {setting.variable for setting in SETTINGS_REFERENCE if setting.is_secret}
    given = {variable: value for variable, value in environment(lines).items() if variable in secret}
    assert secret == given.keys()
    assert all(value.startswith("credential:") for value in given.values())
    assert "key" not in values(lines, "ExecStart")[0].lower()


def drop_ins() -> list[Lines]:
    """Return the lines that the page tells to write with `systemctl edit`."""
    return [sections(block.text)["Service"] for block in blocks(README) if block.language == "ini"]


def test_drop_in_for_one_key(tmp_path: Path) -> None:
    """With what the page says to write where there is no key for abuse.ch, only VirusTotal's is looked for."""
    lines = unit("cowrieprocessor-enrich.service")["Service"] + drop_ins()[0]
    assert {"virustotal": "/etc/cowrieprocessor/virustotal.key"} == credentials(lines)
    settings = load_settings(environ=environment(lines))
    assert settings.abusech_key is None
    assert settings.virustotal_key is not None
    with pytest.raises(ConfigurationError, match="LoadCredential"):
        settings.virustotal_key.reveal({})


def test_drop_in_for_another_database() -> None:
    """What the page says to write for PostgreSQL is a command line that our program takes."""
    lines = unit("cowrieprocessor-enrich.service")["Service"] + drop_ins()[1]
    (command,) = values(lines, "ExecStart")
    accept(shlex.split(command)[1:])
    assert "postgresql:///cowrie" in command


def test_timer_starts_the_service() -> None:
    """The timer names a service that is there, is started by whoever enables it, and stands back for the watch."""
    timer = unit("cowrieprocessor-enrich.timer")
    (service,) = values(timer["Timer"], "Unit")
    assert service in SERVICES
    assert ["timers.target"] == values(timer["Install"], "WantedBy")
    watch = unit("cowrieprocessor-enrich-watch.service")
    assert {"cowrieprocessor-enrich.timer", service} == set(values(watch["Unit"], "Conflicts")[0].split())
    assert ["multi-user.target"] == values(watch["Install"], "WantedBy")
    assert ["oneshot"] == values(unit(service)["Service"], "Type")


def test_page_names_every_unit() -> None:
    """packaging/README.md names each unit, and no other."""
    named = set(re.findall(r"`(?:systemctl [^`]*)?(cowrieprocessor-[\w-]+\.\w+)`", README))
    assert UNITS.keys() == named
    assert table_rows(README, "units", "what they do")


@pytest.fixture
def installed(tmp_path: Path) -> list[str]:
    """The units as they would be installed, with a program that is there, and without waiting for others' units."""
    program = shutil.which("true")
    assert program is not None
    paths = []
    for name, path in UNITS.items():
        text = path.read_text(encoding="utf-8").replace("/opt/cowrieprocessor/bin/cowrieprocessor", program)
        (tmp_path / name).write_text(text, encoding="utf-8")
        paths.append(str(tmp_path / name))
    return paths


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, where it is installed."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze: install Debian's package systemd")
    return subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=60)


def test_systemd_accepts_the_units(installed: list[str]) -> None:
    """In our units systemd finds nothing to complain of."""
    ended = analyze("verify", "--man=no", "--recursive-errors=no", *installed)
    assert (0, "") == (ended.returncode, ended.stderr)


def test_systemd_finds_mistakes(installed: list[str]) -> None:
    """Negative control: a line that systemd does not know is found."""
    path = Path(installed[0])
    path.write_text(path.read_text(encoding="utf-8").replace("ProtectSystem=", "ProtectsSystem="), encoding="utf-8")
    assert "ProtectsSystem" in analyze("verify", "--man=no", "--recursive-errors=no", str(path)).stderr


@pytest.mark.parametrize("name", SERVICES)
def test_systemd_finds_the_services_safe(name: str, installed: list[str]) -> None:
    """By systemd's own measure a service is exposed by no more than 2 of 10."""
    (path,) = [path for path in installed if path.endswith(f"/{name}")]
    ended = analyze("security", "--offline=yes", "--threshold=20", "--no-pager", path)
    if "unrecognized option" in ended.stderr:
        pytest.skip("this systemd cannot judge a unit that is not installed")
    assert 0 == ended.returncode, ended.stdout + ended.stderr
