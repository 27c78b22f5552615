"""The units for systemd: they run commands that we have, with keys that are found, and are let do nothing else."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import click
import pytest

from cowrieprocessor.cli.main import cli
from cowrieprocessor.errors import AlreadyFollowed, ConfigurationError, DatabaseError, SchemaVersionError
from cowrieprocessor.settings import SETTINGS_REFERENCE, load_sensors, load_settings
from tests.documents import PROJECT, blocks, commands, table_rows

FOLDER = PROJECT / "packaging" / "systemd"
UNITS = {path.name: path for path in sorted(FOLDER.iterdir())}
SERVICES = [name for name in UNITS if name.endswith(".service")]
ASKERS = [name for name in SERVICES if "-enrich" in name or "-work" in name]
READERS = [name for name in SERVICES if name not in ASKERS]
LOGROTATE = (PROJECT / "packaging" / "logrotate" / "cowrie").read_text(encoding="utf-8")
EXAMPLE = PROJECT / "packaging" / "sensors.toml.example"
README = (PROJECT / "packaging" / "README.md").read_text(encoding="utf-8")
STATE_FOLDER = "/var/lib/cowrieprocessor"

Lines = list[tuple[str, str]]

HARDENING = {
    "NoNewPrivileges": "yes",
    "CapabilityBoundingSet": "",
    "ProtectSystem": "strict",
    "ReadWritePaths": STATE_FOLDER,
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectControlGroups": "yes",
    "RestrictNamespaces": "yes",
    "RestrictSUIDSGID": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "SystemCallArchitectures": "native",
    "UMask": "0077",
}
ASKING = {"ProtectHome": "yes", "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX"}
READING = {
    "ProtectHome": "tmpfs",
    "PrivateNetwork": "yes",
    "RestrictAddressFamilies": "AF_UNIX",
    "SupplementaryGroups": "cowrie",
}
"""What is added for services that read the honeypots' files."""


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
    group: click.Group = cli
    context = click.Context(cli, info_name="cowrieprocessor")
    while True:
        name, *words = words
        _, command, _ = group.resolve_command(context, [name])
        assert command is not None
        if not isinstance(command, click.Group) or not words or words[0].startswith("-"):
            break
        group, context = command, click.Context(command, info_name=name, parent=context)
    command.make_context(name, list(words), parent=context)


@pytest.mark.parametrize("name", SERVICES)
def test_command_is_one_of_ours(name: str) -> None:
    """What a service runs is a command line that our program takes, with its options and their values."""
    commands = values(unit(name)["Service"], "ExecStart")
    assert 1 == len(commands)
    program, *words = shlex.split(commands[0])
    assert Path("/opt/cowrieprocessor/bin/cowrieprocessor") == Path(program)
    accept(words)
    assert ("--watch" in words) == (name in ("cowrieprocessor-enrich-watch.service", "cowrieprocessor-scan.service"))
    assert ("--once" in words) == ("once" in name)
    ours = {"enrich": "enrich", "follow": "follow", "scan": "files", "work": "work"}
    assert ours[re.split(r"[-.]", name)[1]] == words[0]


@pytest.mark.parametrize(
    "words", ["enrich --wach", "enrich --limit none", "enrich --provider nobody", "enriched", "follow --onse"]
)
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
    expected = HARDENING | (READING if name in READERS else ASKING)
    assert expected == {key: given.get(key) for key in expected}
    assert "@system-service" in values(lines, "SystemCallFilter")


@pytest.mark.parametrize("names", [ASKERS, READERS])
def test_services_are_hardened_alike(names: list[str]) -> None:
    """From the user on the services of a kind are the same, line by line."""
    tails = [lines[lines.index(("User", "cowrieprocessor")) :] for lines in (unit(name)["Service"] for name in names)]
    assert all(tail == tails[0] for tail in tails)
    assert len(tails) > 1


@pytest.mark.parametrize("name", READERS)
def test_a_reading_service_sees_one_folder_of_a_home(name: str) -> None:
    """Of /home a service sees the one folder of Cowrie's that it reads, read-only, and starts without it, too."""
    (shown,) = values(unit(name)["Service"], "BindReadOnlyPaths")
    what = "var/lib/cowrie/downloads" if "scan" in name else "var/log/cowrie"
    assert f"-/home/cowrie/cowrie/{what}" == shown
    assert [] == values(unit(name)["Service"], "BindPaths")


@pytest.mark.parametrize("name", READERS)
def test_a_reading_service_finds_the_sensors(name: str, tmp_path: Path) -> None:
    """A service is given the settings file that the page installs, whose database is its own, and no key."""
    lines = unit(name)["Service"]
    assert {"COWRIEPROC_CONFIG": "/etc/cowrieprocessor/sensors.toml"} == environment(lines)
    assert {} == credentials(lines)
    installs = [command.text.split() for command in commands(README) if "sensors.toml.example" in command.text]
    assert [("--mode=0640", "--group=cowrieprocessor", "/etc/cowrieprocessor/sensors.toml")] == [
        (words[1], words[2], words[-1]) for words in installs
    ]
    words = shlex.split(values(lines, "ExecStart")[0])
    assert load_settings(environ={}, toml_path=EXAMPLE).db_url == words[words.index("--db") + 1]
    assert load_sensors(environ={}, toml_path=EXAMPLE)


@pytest.mark.parametrize("name", [name for name in SERVICES if ("Type", "exec") in unit(name)["Service"]])
def test_what_does_not_mend_itself_is_not_tried_again(name: str) -> None:
    """A service that stays is started again when it failed, but not after a wrong setting or for an old schema."""
    lines = dict(unit(name)["Service"])
    assert "on-failure" == lines["Restart"]
    final = {ConfigurationError.exit_code, SchemaVersionError.exit_code}
    assert final == set(map(int, lines["RestartPreventExitStatus"].split()))
    assert not final & {DatabaseError.exit_code, AlreadyFollowed.exit_code}


@pytest.mark.parametrize("name", ASKERS)
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


@pytest.mark.parametrize("name", ASKERS)
def test_no_key_stands_in_a_unit(name: str) -> None:
    """Every setting that is a key says only where it is, and none is on a command line."""
    lines = unit(name)["Service"]
    secret = {setting.variable for setting in SETTINGS_REFERENCE if setting.is_secret}
    given = {variable: value for variable, value in environment(lines).items() if variable in secret}
    assert {"COWRIEPROC_VIRUSTOTAL_KEY", "COWRIEPROC_ABUSECH_KEY"} == given.keys()
    assert all(value.startswith("credential:") for value in given.values())
    assert "key" not in values(lines, "ExecStart")[0].lower()


def drop_in(key: str, value: str = "") -> Lines:
    """Return the lines that the page tells to write with `systemctl edit`: those of the one block with this line."""
    found = [sections(block.text)["Service"] for block in blocks(README) if block.language == "ini"]
    (lines,) = [lines for lines in found if any(one == key and value in given for one, given in lines)]
    return lines


def test_drop_in_for_one_key(tmp_path: Path) -> None:
    """With what the page says to write where there is no key for abuse.ch, only VirusTotal's is looked for."""
    lines = unit("cowrieprocessor-enrich.service")["Service"] + drop_in("LoadCredential", "virustotal")
    assert {"virustotal": "/etc/cowrieprocessor/virustotal.key"} == credentials(lines)
    settings = load_settings(environ=environment(lines))
    assert settings.abusech_key is None
    assert settings.virustotal_key is not None
    with pytest.raises(ConfigurationError, match="LoadCredential"):
        settings.virustotal_key.reveal({})


@pytest.mark.parametrize(
    ("name", "database"),
    [
        ("cowrieprocessor-enrich.service", "postgresql:///cowrie"),
        ("cowrieprocessor-follow.service", "postgresql://cowrie@db.example/cowrie"),
    ],
)
def test_drop_in_for_another_database(name: str, database: str) -> None:
    """What the page says to write for PostgreSQL is a command line that we take, with the network that it needs."""
    lines = unit(name)["Service"] + drop_in("ExecStart", database)
    (command,) = values(lines, "ExecStart")
    accept(shlex.split(command)[1:])
    assert database in shlex.split(command)
    if "@" in database:
        assert "no" == dict(lines)["PrivateNetwork"]
        families = " ".join(values(lines, "RestrictAddressFamilies")).split()
        assert {"AF_INET", "AF_INET6", "AF_UNIX"} == set(families)


def test_drop_in_for_other_folders() -> None:
    """What the page says to write for logs elsewhere in /home takes the place of what the unit shows."""
    lines = unit("cowrieprocessor-follow.service")["Service"] + drop_in("BindReadOnlyPaths", "/home")
    (shown,) = values(lines, "BindReadOnlyPaths")
    assert all(path.startswith("/home/pot-") for path in shown.split())


def test_drop_in_for_another_group() -> None:
    """What the page says to write for another group takes the place of the unit's."""
    lines = unit("cowrieprocessor-follow.service")["Service"] + drop_in("SupplementaryGroups", "h")
    assert ["honeypot"] == values(lines, "SupplementaryGroups")


@pytest.mark.parametrize(
    ("timer_name", "other", "conflicts"),
    [
        (
            "cowrieprocessor-enrich.timer",
            "cowrieprocessor-enrich-watch.service",
            {"cowrieprocessor-enrich.timer", "cowrieprocessor-enrich.service"},
        ),
        ("cowrieprocessor-follow-once.timer", "cowrieprocessor-follow.service", {"cowrieprocessor-follow-once.timer"}),
    ],
)
def test_timer_starts_the_service(timer_name: str, other: str, conflicts: set[str]) -> None:
    """A timer names a service that is there, is started by who enables it, and stands back for the one that stays."""
    timer = unit(timer_name)
    (service,) = values(timer["Timer"], "Unit")
    assert timer_name.replace(".timer", ".service") == service
    assert service in SERVICES
    assert ["timers.target"] == values(timer["Install"], "WantedBy")
    stays = unit(other)
    assert conflicts == set(values(stays["Unit"], "Conflicts")[0].split())
    assert ["multi-user.target"] == values(stays["Install"], "WantedBy")
    assert ["oneshot"] == values(unit(service)["Service"], "Type")
    assert "Install" not in unit(service)


def rules(text: str) -> tuple[str, dict[str, str]]:
    """Return the pattern of files of logrotate's lines, and what is said of them, without what scripts do."""
    (match,) = re.finditer(r"^(/\S+) \{\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL)
    body = re.sub(r"^ *(lastaction)\n.*?^ *endscript$", r"\1", match[2], flags=re.MULTILINE | re.DOTALL)
    said = [line.split(maxsplit=1) for line in body.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return match[1], {words[0]: words[1] if len(words) > 1 else "" for words in said}


def must() -> str:
    """Return the lines for those who have to use copytruncate, as they are once their marks are removed."""
    return "".join(f"{line[3:]}\n" for line in LOGROTATE.splitlines() if line.startswith("#: "))


def test_logrotate_leaves_the_live_log_alone() -> None:
    """Of a Cowrie that rotates by itself only the days that are over are compressed, and none by copying."""
    pattern, said = rules(LOGROTATE)
    folder = "/home/cowrie/cowrie/var/log/cowrie"
    assert fnmatchcase(f"{folder}/cowrie.json.2026-11-21", pattern)
    assert not fnmatchcase(f"{folder}/cowrie.json", pattern)
    assert not fnmatchcase(f"{folder}/cowrie.json.2026-11-21.1.gz", pattern)
    assert {"compress", "nocreate"} <= said.keys()
    assert not {"copytruncate", "copy", "create", "delaycompress", "shred"} & said.keys()


def test_copytruncate_keeps_the_copies() -> None:
    """The lines for those who must copy and truncate keep each copy for a while, and the youngest one plain."""
    pattern, said = rules(must())
    assert "/home/cowrie/cowrie/var/log/cowrie/cowrie.json" == pattern
    assert {"copytruncate", "compress", "delaycompress"} <= said.keys()
    assert int(said["rotate"]) > 7
    assert "shred" not in said


def test_page_names_every_unit() -> None:
    """packaging/README.md names each unit, and no other."""
    named = set(re.findall(r"`(?:systemctl [^`]*)?(cowrieprocessor-[\w-]+\.(?:service|timer))`", README))
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
    """By systemd's own measure a service is exposed by no more than 2 of 10, without a network by no more than 1."""
    (path,) = [path for path in installed if path.endswith(f"/{name}")]
    ended = analyze("security", "--offline=yes", f"--threshold={10 if name in READERS else 20}", "--no-pager", path)
    if "unrecognized option" in ended.stderr:
        pytest.skip("this systemd cannot judge a unit that is not installed")
    assert 0 == ended.returncode, ended.stdout + ended.stderr


def test_the_extras_are_named() -> None:
    """The page installs and explains every extra that the project has."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = list(project["optional-dependencies"])

    assert [extra for extra in extras if f"the extra `{extra}`" not in README.replace("The extra", "the extra")] == []
    assert "pip install '.[analysis]'" in README
