"""The sensors in the settings file: what is read, what is refused, and the error messages."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings import Sensor, load_sensors, load_settings, no_sensors
from cowrieprocessor.settings.sensor_paths import GivenSensor, SensorPaths
from tests.documents import PROJECT

KEY = "canary" * 10
POT = '[[sensor]]\nname = "pot-1"\nlogpath = "/srv/one/cowrie.json"\n'
POTS = POT + '[[sensor]]\nname = "pot-2"\nlogpath = "/srv/two"\n'


def write_config(folder: Path, content: str | bytes) -> Path:
    """Write a settings file with this content and return its path."""
    path = folder / "sensors.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(folder: Path, content: str | bytes) -> str:
    """Return the error message for a settings file with this content, without the path of the file."""
    path = write_config(folder, content)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={}, toml_path=path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_sensors_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Each [[sensor]] is one sensor, with exactly the values it names."""
    path = write_config(tmp_path, POTS + 'downloads = "/srv/two/downloads"\n')
    assert load_sensors(environ={}, toml_path=path) == (
        Sensor("pot-1", Path("/srv/one/cowrie.json")),
        Sensor("pot-2", Path("/srv/two"), Path("/srv/two/downloads")),
    )


def test_without_a_file_there_are_no_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file, and with a file without sensors, there are none."""
    monkeypatch.chdir(tmp_path)
    assert load_sensors(environ={}) == ()
    write_config(tmp_path, "[cowrieprocessor]\nbatch_size = 7\n")
    assert load_sensors(environ={}) == ()


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    """COWRIEPROC_CONFIG names the file for sensors, too."""
    path = write_config(tmp_path, POT)
    assert [sensor.name for sensor in load_sensors(environ={"COWRIEPROC_CONFIG": str(path)})] == ["pot-1"]


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path in the file does not depend on the current folder; ~ is the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "key").write_text("the-key\n", encoding="utf-8")
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "vt.key").write_text("vt-key\n", encoding="utf-8")
    path = write_config(
        folder,
        '[global]\ndb = "cowrie.sqlite"\nreport_dir = "~/reports"\nurlhausapi = "file:~/key"\n'
        '[[sensor]]\nname = "a"\nlogpath = "log"\ndownloads = "~/dl"\nvtapi = "file:vt.key"\n'
        '[[sensor]]\nname = "b"\nlogpath = "~nobody-of-this-name/x"\n',
    )
    monkeypatch.chdir(home)

    given, (sensor, other) = load_settings(environ={}, toml_path=path), load_sensors(environ={}, toml_path=path)

    assert given.db_url == str(folder / "cowrie.sqlite")
    assert given.report_dir == str(home / "reports")
    assert given.abusech_key is not None
    assert given.virustotal_key is not None
    assert (given.virustotal_key.reveal({}), given.abusech_key.reveal({})) == ("vt-key", "the-key")
    assert (sensor.logpath, sensor.downloads) == (folder / "log", home / "dl")
    assert other.logpath == folder / "~nobody-of-this-name" / "x"


@pytest.mark.parametrize(
    ("db", "expected"),
    [
        ("/srv/c.sqlite", "/srv/c.sqlite"),
        ("c.sqlite", "{folder}/c.sqlite"),
        ("sqlite:///c.sqlite", "sqlite:///{folder}/c.sqlite"),
        ("sqlite:////srv/c.sqlite?x=1", "sqlite:////srv/c.sqlite?x=1"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        (":memory:", ":memory:"),
        ("postgresql://cowrie@db.example/cowrie", "postgresql://cowrie@db.example/cowrie"),
    ],
)
def test_a_database_is_a_path_or_a_url(tmp_path: Path, db: str, expected: str) -> None:
    """A path is relative to the file, also in an SQLite URL; any other URL is left unchanged."""
    path = write_config(tmp_path, f'[global]\ndb = "{db}"\n')
    assert load_settings(environ={}, toml_path=path).db_url == expected.format(folder=tmp_path)


def test_a_file_of_version_3_is_understood(tmp_path: Path) -> None:
    """The keys of version 3 keep their meaning, or are ignored where they have none here."""
    path = write_config(
        tmp_path,
        '[global]\ndb = "/srv/cowrie.sqlite"\nreport_dir = "/srv/reports"\nlog_dir = "/srv/logs"\n'
        'vtapi = "env:VT_API_KEY"\nemail = "soc@example.com"\n'
        "[global.cache]\nredis_enabled = true\n"
        '[[sensor]]\nname = "honeypot-a"\nlogpath = "/mnt/a/cowrie"\nsummarizedays = 1\n'
        'email = "you@example.com"\nvtapi = "env:VT_API_KEY"\nspurapi = "vault://kv/spur#token"\n'
        'report_dir = "/srv/reports/a"\n'
        "[snowshoe_detector]\nenabled = true\n",
    )

    given, (sensor,) = load_settings(environ={}, toml_path=path), load_sensors(environ={}, toml_path=path)

    assert (given.db_url, given.report_dir, given.log_dir) == ("/srv/cowrie.sqlite", "/srv/reports", "/srv/logs")
    assert given.virustotal_key is not None
    assert given.virustotal_key.reveal({"VT_API_KEY": "k"}) == "k"
    assert given.report_email is not None
    assert given.report_email.reveal({}) == "soc@example.com"
    assert sensor.email is not None
    assert sensor.email.reveal({}) == "you@example.com"
    assert (sensor.name, sensor.logpath, sensor.downloads) == ("honeypot-a", Path("/mnt/a/cowrie"), None)


def test_one_honeypot_needs_no_table_of_its_own(tmp_path: Path) -> None:
    """A logpath in [global], with its downloads, is a sensor named default; its key is the key for all."""
    path = write_config(tmp_path, '[global]\nlogpath = "log"\ndownloads = "/srv/dl"\nvtapi = "env:K"\nbatch_size = 7\n')

    (sensor,) = load_sensors(environ={}, toml_path=path)
    given = load_settings(environ={}, toml_path=path)

    assert sensor == Sensor("default", tmp_path / "log", Path("/srv/dl"), is_named=False)
    assert given.batch_size == 7
    assert given.virustotal_key is not None

    path = write_config(tmp_path, '[global]\nlogpath = "/srv/log"\n')
    assert load_sensors(environ={}, toml_path=path) == (Sensor("default", Path("/srv/log"), is_named=False),)


def test_global_knows_every_name_of_a_setting(tmp_path: Path) -> None:
    """[global] accepts the names of [cowrieprocessor], and both tables may set the same value."""
    path = write_config(tmp_path, "[global]\nbatch_size = 7\nmax_ratio = 9\n[cowrieprocessor]\nbatch_size = 7\n")
    assert load_settings(environ={}, toml_path=path).batch_size == 7
    assert load_settings(environ={"COWRIEPROC_MAX_RATIO": "8"}, toml_path=path).max_ratio == 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "[global]\nbatch_size = 7\n[cowrieprocessor]\nbatch_size = 8\n",
            "[cowrieprocessor] batch_size and [global] batch_size set different values; keep one of them",
        ),
        (
            '[global]\ndb = "/a"\ndb_url = "/b"\n',
            "[global] db and [global] db_url set different values; keep one of them",
        ),
        (
            '[cowrieprocessor]\nvirustotal_key = "env:A"\n[global]\nvtapi = "env:B"\n',
            "[cowrieprocessor] virustotal_key and [global] vtapi set different values; keep one of them",
        ),
    ],
)
def test_one_setting_given_twice_has_to_agree(tmp_path: Path, content: str, message: str) -> None:
    """Two tables, or two names of one setting, with different values are refused, naming both."""
    assert refusal(tmp_path, content) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[[sensor]]\nname = "p"\nlogpth = "/x"\n', "[[sensor]] 'p': unknown key 'logpth'; did you mean 'logpath'? "),
        (POT + 'virustotal = "env:X"\n', "[[sensor]] 'pot-1': unknown key 'virustotal'; known are downloads, email, "),
        ('[[sensor]]\nlogpath = "/x"\n', '[[sensor]] number 1 has no name; write name = "pot-1"'),
        (POT + '[[sensor]]\nname = "p"\n', "[[sensor]] 'p' has no logpath; add the path of its log or log folder"),
        ('[[sensor]]\nname = ""\nlogpath = "/x"\n', "[[sensor]] number 1: name is ''; expected 1 to 64 printable "),
        ('[[sensor]]\nname = " p"\nlogpath = "/x"\n', "[[sensor]] ' p': name is ' p'; expected 1 to 64 printable "),
        ('[[sensor]]\nname = "a\\u001bb"\nlogpath = "/x"\n', "[[sensor]] 'a\\x1bb': name is 'a\\x1bb'; expected 1 to "),
        (f'[[sensor]]\nname = "{"x" * 65}"\nlogpath = "/x"\n', f"[[sensor]] '{'x' * 65}': name is "),
        ('[[sensor]]\nname = 7\nlogpath = "/x"\n', "[[sensor]] number 1: name is 7; expected 1 to 64 printable "),
        (POT + POT, "two [[sensor]] tables are named 'pot-1'; give each its own name"),
        ('[[sensor]]\nname = "p"\nlogpath = ["/x"]\n', "[[sensor]] 'p': logpath is ['/x']; expected a path"),
        (POT + 'downloads = ""\n', "[[sensor]] 'pot-1': downloads is ''; expected a path"),
        (POT + 'downloads = "a\\u0000b"\n', "[[sensor]] 'pot-1': downloads is 'a\\x00b'; expected a path"),
        (
            POT + 'downloads = "/d/"\n[[sensor]]\nname = "b"\nlogpath = "/b"\ndownloads = "/x/../d"\n',
            "[[sensor]] 'pot-1' and 'b' have the same downloads folder; ",
        ),
        (
            POT + '[global]\nlogpath = "/x"\n',
            "[global] has `logpath` in addition to [[sensor]]; remove it from [global], and if no [[sensor]] has it, ",
        ),
        (POT + '[global]\ndownloads = "/x"\n', "[global] has `downloads` in addition to [[sensor]]; remove it from "),
        ('[global]\ndownloads = "/x"\n', "[global] has downloads but no logpath; add the path of the log"),
        ("[global]\nlogpath = 7\n", "[global]: logpath is 7; expected a path"),
        ('[global]\nlogpat = "/x"\n', "unknown setting 'logpat' in [global]; did you mean 'logpath'? known are "),
        ('[cowrieprocessor]\nlogpath = "/x"\n', "unknown setting 'logpath' in [cowrieprocessor]; "),
        (POT + 'email = "nobody"\n', "[[sensor]] 'pot-1': email is (not shown); expected an e-mail address"),
        (
            '[sensor]\nname = "p"\nlogpath = "/x"\n',
            "`sensor` is not a list of tables; write [[sensor]] above each sensor",
        ),
        ("sensor = [1]\n", "`sensor` is not a list of tables; write [[sensor]] above each sensor"),
        ('[[sensors]]\nname = "p"\n', "unknown table 'sensors'; did you mean 'sensor'?"),
        ('[Global]\ndb = "x"\n', "unknown table 'Global'; did you mean 'global'?"),
        ("global = 1\n", "`global` is not a table; write [global] above its settings"),
        ("[global]\nvt_api = 1\n", "unknown setting 'vt_api' in [global]; did you mean 'vtapi'? known are "),
        ("[cowrieprocessor]\nvtapi = 1\n", "unknown setting 'vtapi' in [cowrieprocessor]; known are "),
        ("[global]\nbatch_size = true\n", "[global] batch_size is True; expected a whole number"),
    ],
)
def test_a_mistake_is_named_with_its_location_and_the_remedy(tmp_path: Path, content: str, message: str) -> None:
    """Each mistake is refused with the file, the table, the key, and what is expected; near matches are suggested."""
    assert refusal(tmp_path, content).startswith(message)


@pytest.mark.parametrize(
    ("content", "location"),
    [
        ("[global]\ndb = \n", "(at line 2, column 6)"),
        (POT + "logpath = 'x'\n", "(at line 4, column 14)"),
        (b'# caf\xc3\xa9\n[global]\nemail = "\xc3\xa9\xff"\n', "not UTF-8 text (at line 3, column 11)"),
    ],
)
def test_a_file_that_is_no_toml_is_named_with_line_and_column(
    tmp_path: Path, content: str | bytes, location: str
) -> None:
    """The message gives line and column of the mistake."""
    message = refusal(tmp_path, content)
    assert message.startswith("not readable as TOML: ")
    assert location in message


def test_a_byte_order_mark_does_not_matter(tmp_path: Path) -> None:
    """A file that an editor saved with a byte order mark is readable."""
    path = write_config(tmp_path, b"\xef\xbb\xbf" + POT.encode())
    assert [sensor.name for sensor in load_sensors(environ={}, toml_path=path)] == ["pot-1"]


@pytest.mark.parametrize("table", ["[global]\n", POT])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f'"{KEY}"', "vtapi is a key itself, or an unknown kind of reference; write where the key is: env:NAME, "),
        (f'"vault:{KEY}"', "vtapi is a reference `vault:`, which is not supported; write env:NAME, file:PATH or "),
        (f'"op://{KEY}"', "vtapi is a reference `op:`, which is not supported; write env:NAME, file:PATH or "),
        (f'"{KEY}:x"', "vtapi is a key itself, or an unknown kind of reference; write where the key is: env:NAME, "),
        ('"env:"', "vtapi is not a reference; expected env:NAME, file:PATH or credential:NAME"),
        ('""', "vtapi is not a reference; expected env:NAME, file:PATH or credential:NAME"),
        ("7", "vtapi is not a reference; expected env:NAME, file:PATH or credential:NAME"),
    ],
)
def test_only_a_reference_to_a_key_may_stand_in_the_file(tmp_path: Path, table: str, given: str, message: str) -> None:
    """A key itself, or an unknown kind of reference, is refused with its location and never shown."""
    refused = refusal(tmp_path, f"{table}vtapi = {given}\n")
    location = "[global] " if table == "[global]\n" else "[[sensor]] 'pot-1': "
    assert refused.startswith(location + message)
    assert "canary" not in refused


@settings(max_examples=60)
@given(st.text(string.ascii_letters + string.digits + ":/ -_", min_size=8, max_size=60))
def test_no_key_is_ever_shown(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    """No message repeats a text in place of a reference, nor the beginning or end of it."""
    path = write_config(tmp_path_factory.getbasetemp(), f'{POT}vtapi = "{key}-{KEY}-{key}"\n')
    shown = ""
    try:
        shown = repr(load_sensors(environ={}, toml_path=path))
    except ConfigurationError as error:
        shown = str(error)
    assert KEY not in shown
    assert "pot-1" in shown


def test_a_reference_that_leads_nowhere_names_the_sensor_and_the_key(tmp_path: Path) -> None:
    """A variable that is not set and a missing file are reported when the key is used, with sensor and key."""
    path = write_config(tmp_path, POT + 'vtapi = "env:NO_KEY"\nurlhausapi = "file:no.key"\n')

    (sensor,) = load_sensors(environ={}, toml_path=path)

    assert sensor.virustotal_key is not None
    assert sensor.abusech_key is not None
    with pytest.raises(ConfigurationError) as unset:
        sensor.virustotal_key.reveal({})
    with pytest.raises(ConfigurationError) as missing:
        sensor.abusech_key.reveal({})
    location = f"{path}: [[sensor]] 'pot-1'"
    assert str(unset.value) == f"{location}: vtapi: the environment variable NO_KEY is not set; set it"
    assert str(missing.value).startswith(f"{location}: urlhausapi: {tmp_path / 'no.key'} cannot be read: No such file")


def with_keys(first: str, second: str, for_all: str = "") -> str:
    """Return a settings file with the keys of two sensors and the key for all sensors; an empty key is left out."""
    top = f'[global]\nvtapi = "{for_all}"\n' if for_all else ""
    first_line, second_line = (f'vtapi = "{key}"\n' if key else "" for key in (first, second))
    return f'{top}{POT}{first_line}[[sensor]]\nname = "pot-2"\nlogpath = "/srv/two"\n{second_line}'


@pytest.mark.parametrize(
    ("first", "second", "for_all"),
    [
        ("env:A", "", ""),
        ("env:A", "env: A", ""),
        ("", "env:A", "env:A"),
        ("", "", "env:A"),
        ("env:A", "env:A", "env:A"),
    ],
)
def test_one_key_of_the_sensors_serves_the_database(tmp_path: Path, first: str, second: str, for_all: str) -> None:
    """If all sensors with a key name the same key, it applies; flags and environment take precedence."""
    path = write_config(tmp_path, with_keys(first, second, for_all))
    found = load_settings(environ={}, toml_path=path).virustotal_key
    assert found is not None
    assert found.reveal({"A": "key-a"}) == "key-a"
    beaten = load_settings(environ={"COWRIEPROC_VIRUSTOTAL_KEY": "env:B"}, toml_path=path).virustotal_key
    assert beaten is not None
    assert beaten.reveal({"A": "key-a", "B": "key-b"}) == "key-b"


@pytest.mark.parametrize(
    ("first", "second", "for_all", "message"),
    [
        ("env:A", "env:B", "", "[[sensor]] 'pot-1', 'pot-2': different keys in vtapi; a database has one key for all "),
        (
            "env:A",
            "",
            "env:B",
            "[[sensor]] 'pot-1': vtapi differs from the key for all sensors; a database has ",
        ),
    ],
)
def test_several_keys_for_one_database_are_refused(
    tmp_path: Path, first: str, second: str, for_all: str, message: str
) -> None:
    """Different keys would be ambiguous: the message names the sensors and the remedy."""
    assert refusal(tmp_path, with_keys(first, second, for_all)).startswith(message)


def test_the_example_is_a_settings_file(tmp_path: Path) -> None:
    """packaging/sensors.toml.example is valid as it is, and with its commented-out lines."""
    text = (PROJECT / "packaging" / "sensors.toml.example").read_text(encoding="utf-8")
    uncommented = "\n".join(line.removeprefix("#:").strip() for line in text.splitlines())
    assert uncommented != text
    for content in (text, uncommented):
        path = write_config(tmp_path, content)
        assert load_settings(environ={}, toml_path=path).db_url == "/var/lib/cowrieprocessor/cowrie.sqlite"
        assert [sensor.name for sensor in load_sensors(environ={}, toml_path=path)] == ["pot-1", "pot-2"]


@pytest.mark.parametrize("key", ["logpath", "downloads"])
def test_the_hint_about_missing_sensors_can_be_written_into_the_file(tmp_path: Path, key: str) -> None:
    """The lines that the error about missing sensors suggests are a settings file with such a sensor."""
    path = write_config(tmp_path, str(no_sensors(key)).split("write there:\n")[1])
    (sensor,) = load_sensors(environ={}, toml_path=path)
    assert str(getattr(sensor, key)).startswith("/srv/cowrie/var/")


OVERLAPPING = """# two pots
[[sensor]]
name = "pot-1"
logpath = "{one}"

[[ "sensor" ]]
# the other one
logpath = "{two}"
name = "pot-2"
"""


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("log/cowrie.json", "log/cowrie.json"),
        ("log/cowrie.json", "log/../log/cowrie.json"),
        ("log", "log/cowrie.json"),
        ("/srv/a/b/cowrie.json", "/srv/a"),
        ("log/cowrie.json", "log/cowrie.json.2026-11-21"),
        ("log/cowrie.json-1.gz", "log/cowrie.json"),
    ],
)
def test_a_log_of_two_sensors_is_refused(tmp_path: Path, one: str, two: str) -> None:
    """Two sensors whose logpaths overlap are an error that names both, with their lines."""
    path = write_config(tmp_path, OVERLAPPING.format(one=one, two=two))

    with pytest.raises(ConfigurationError, match=r"'pot-1' \(line 4\) and 'pot-2' \(line 8\): logpath .* overlap"):
        load_sensors(environ={}, toml_path=path)


@pytest.mark.parametrize(
    ("one", "two"),
    [("a/cowrie.json", "b/cowrie.json"), ("log/cowrie.json", "log/cowrie2.json"), ("/srv/a", "/srv/ab")],
)
def test_logs_beside_each_other_are_two_sensors(tmp_path: Path, one: str, two: str) -> None:
    """Paths that only look alike do not overlap."""
    path = write_config(tmp_path, OVERLAPPING.format(one=one, two=two))

    assert [sensor.name for sensor in load_sensors(environ={}, toml_path=path)] == ["pot-1", "pot-2"]


def test_the_sensor_of_a_log_is_told_by_its_path(tmp_path: Path) -> None:
    """A sensor has its live log, those rotated from it, those in its folder, also by links; [global] names none."""
    folder = tmp_path / "real"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    paths = SensorPaths([Sensor("one", folder / "cowrie.json"), Sensor("two", tmp_path / "all")])
    unnamed = SensorPaths([Sensor("default", tmp_path, is_named=False)])

    def name(path: str) -> str | None:
        given = paths.of(tmp_path / path)
        return given.name if given else None

    assert {name(f"real/cowrie.json{suffix}") for suffix in ("", ".2026-11-21", ".1.gz", "-1")} == {"one"}
    assert name("link/cowrie.json") == "one"
    assert name("all/deep/x.json") == "two"
    assert {name(path) for path in ("real/cowrie2.json", "other/cowrie.json", "all2/x.json")} == {None}
    assert unnamed.of(tmp_path / "cowrie.json") is None
    assert SensorPaths(name="three").of("/anywhere") == GivenSensor("three")
