"""Settings: precedence, what is refused and how, and the reference that matches code and docs."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings import SETTINGS_REFERENCE, Secret, Settings, fingerprint, load_settings
from cowrieprocessor.settings.environment import PROJECT_VARIABLES
from cowrieprocessor.settings.values import duration
from tests.documents import PROJECT

DOCS = Path(__file__).parents[2] / "docs" / "settings.md"


def write_config(tmp_path: Path, content: str) -> Path:
    """Write a settings file with this content and return its path."""
    path = tmp_path / "sensors.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_class() -> None:
    """Without flags, environment and file the defaults apply."""
    assert load_settings(environ={}) == Settings()


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    """Each source overrides the ones below it, setting by setting."""
    path = write_config(tmp_path, "[cowrieprocessor]\nbatch_size = 10\nmax_ratio = 20\nmax_nesting = 30\n")
    environ = {"COWRIEPROC_BATCH_SIZE": "11", "COWRIEPROC_MAX_RATIO": "21"}
    settings = load_settings(overrides={"batch_size": 12}, environ=environ, toml_path=path)
    assert (settings.batch_size, settings.max_ratio, settings.max_nesting) == (12, 21, 30)
    assert settings.lock_timeout_s == Settings().lock_timeout_s


def test_flag_not_given_and_empty_variable_set_nothing() -> None:
    """None as a flag and an empty variable count as not given."""
    settings = load_settings(overrides={"batch_size": None}, environ={"COWRIEPROC_BATCH_SIZE": ""})
    assert settings.batch_size == Settings().batch_size


def test_url_beats_path_in_the_environment() -> None:
    """COWRIEPROC_DB_PATH applies if COWRIEPROC_DB_URL is not set."""
    both = {"COWRIEPROC_DB_PATH": "/a.sqlite", "COWRIEPROC_DB_URL": "postgresql:///b"}
    assert load_settings(environ=both).db_url == "postgresql:///b"
    assert load_settings(environ={"COWRIEPROC_DB_PATH": "/a.sqlite"}).db_url == "/a.sqlite"


def test_file_in_the_current_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """sensors.toml in the current folder is read without being named; its unknown tables are ignored."""
    write_config(tmp_path, '[enrichment_of_others]\nname = "x"\n[cowrieprocessor]\nbatch_size = 7\n')
    monkeypatch.chdir(tmp_path)
    assert load_settings(environ={}).batch_size == 7


def test_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    """COWRIEPROC_CONFIG names the settings file."""
    path = write_config(tmp_path, "[cowrieprocessor]\nbatch_size = 7\n")
    assert load_settings(environ={"COWRIEPROC_CONFIG": str(path)}).batch_size == 7


@pytest.mark.parametrize(
    ("given", "expected"), [("4096", 4096), ("64KiB", 65536), ("4MiB", 4 << 20), ("2 gib", 2 << 30)]
)
def test_sizes_may_have_a_unit(given: str, expected: int) -> None:
    """A size is a number of bytes, or a number with a binary unit."""
    assert load_settings(environ={"COWRIEPROC_MAX_VALUE_BYTES": given}).max_value_bytes == expected


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("COWRIEPROC_BATCH_SIZE", "many"),
        ("COWRIEPROC_BATCH_SIZE", "0"),
        ("COWRIEPROC_BATCH_SIZE", "1.5"),
        ("COWRIEPROC_MAX_VALUE_BYTES", "4 megabytes"),
        ("COWRIEPROC_MAX_VALUE_BYTES", "-1"),
        ("COWRIEPROC_MAX_RATIO", "0"),
        ("COWRIEPROC_MAX_NESTING", "1001"),
        ("COWRIEPROC_LOCK_TIMEOUT_S", "-1"),
        ("COWRIEPROC_LOCK_TIMEOUT_S", "nan"),
        ("COWRIEPROC_LOCK_TIMEOUT_S", "inf"),
        ("COWRIEPROC_SQLITE_DRIVER", "apsw"),
    ],
)
def test_unusable_variable_is_named_with_its_value_and_the_remedy(variable: str, value: str) -> None:
    """An invalid value is refused, naming the variable, the value and what is expected."""
    with pytest.raises(ConfigurationError, match=rf"{variable} is '{re.escape(value)}'; expected .+"):
        load_settings(environ={variable: value})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[cowrieprocessor]\nbatchsize = 1\n", "unknown setting 'batchsize'.*batch_size"),
        ("[cowrieprocessor]\nbatch_size = true\n", "batch_size is True; expected"),
        ("[cowrieprocessor]\ndb_url = 3\n", "db_url is .*; expected"),
        ("cowrieprocessor = 1\n", "not a table"),
        ("[cowrieprocessor\n", "not readable as TOML"),
    ],
)
def test_unusable_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    """A settings file with a mistake is refused, naming the file and the mistake."""
    path = write_config(tmp_path, content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_settings(environ={}, toml_path=path)
    assert str(caught.value).startswith(str(path))


def test_file_that_is_named_and_missing_is_refused(tmp_path: Path) -> None:
    """A settings file that was named must exist."""
    with pytest.raises(ConfigurationError, match=r"no\.toml .COWRIEPROC_CONFIG.: no such settings file"):
        load_settings(environ={"COWRIEPROC_CONFIG": str(tmp_path / "no.toml")})


def test_unknown_flag_is_refused() -> None:
    """An override that is not a setting is refused."""
    with pytest.raises(ConfigurationError, match="unknown setting 'colour'"):
        load_settings(overrides={"colour": "red"}, environ={})


def test_reference_names_every_setting() -> None:
    """Every field of Settings is in the reference, in order, with its variable and its actual default."""
    assert [setting.name for setting in SETTINGS_REFERENCE] == [field.name for field in fields(Settings)]
    for setting in SETTINGS_REFERENCE:
        name = setting.name.removesuffix("_s") if setting.read is duration else setting.name
        assert f"COWRIEPROC_{name.upper()}" in (setting.variable, *setting.aliases)
        default = getattr(Settings(), setting.name)
        if default is not None:
            assert setting.read(setting.default) == default


def test_docs_list_every_setting() -> None:
    """docs/settings.md has one row for each setting, with variable, default and meaning as in the code."""
    rows = {
        (f"`{setting.name}`", f"`{setting.variable}`", setting.default, setting.meaning)
        for setting in SETTINGS_REFERENCE
    }
    table = re.findall(r"^\| (`\w+`) \| (`\w+`) \| (.+?) \| (.+?) \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(table) == rows
    assert len(table) == len(rows)


@pytest.mark.parametrize(
    ("given", "expected"), [("90", 90), ("90s", 90), ("15min", 900), ("12h", 43200), ("30d", 2592000)]
)
def test_durations_may_have_a_unit(given: str, expected: float) -> None:
    """A duration is a number of seconds, or a number with a unit."""
    assert load_settings(environ={"COWRIEPROC_TTL_CLEAN": given}).ttl_clean_s == expected


@pytest.mark.parametrize(
    "address",
    ["http://mirror.example/api", "ftp://x", "https://user:pw@x", "https://", "https://x/?key=1", "https://x:port"],
)
def test_addresses_of_services_are_encrypted_and_carry_no_key(address: str) -> None:
    """An address that would send a key in clear text, or contains one, is refused."""
    with pytest.raises(ConfigurationError, match="https://"):
        load_settings(environ={"COWRIEPROC_VIRUSTOTAL_URL": address})


def test_a_service_on_this_machine_needs_no_encryption() -> None:
    """A service on loopback may use plain http; a trailing slash is dropped."""
    loaded = load_settings(environ={"COWRIEPROC_VIRUSTOTAL_URL": "http://127.0.0.1:8080/api/v3/"})
    assert loaded.virustotal_url == "http://127.0.0.1:8080/api/v3"


def test_a_key_is_shown_nowhere(tmp_path: Path) -> None:
    """Neither the settings nor an error about a key reveal it; its fingerprint identifies it."""
    key = "canary" * 10
    settings = load_settings(environ={"COWRIEPROC_VIRUSTOTAL_KEY": key})
    assert settings.virustotal_key is not None
    assert settings.virustotal_key.reveal() == key
    assert key not in repr(settings) + str(settings.virustotal_key) + f"{settings.virustotal_key}"
    assert fingerprint(key) != fingerprint(key + "x")
    assert key not in fingerprint(key)
    with pytest.raises(ConfigurationError) as caught:
        Secret(f"{key} {key}", "COWRIEPROC_VIRUSTOTAL_KEY").reveal()
    assert key not in str(caught.value)
    with pytest.raises(ConfigurationError, match="env:NAME") as caught:
        load_settings(environ={}, toml_path=write_config(tmp_path, f'[cowrieprocessor]\nvirustotal_key = "{key}"\n'))
    assert key not in str(caught.value)


def test_keys_are_read_from_where_they_are(tmp_path: Path) -> None:
    """A key comes from a variable, a file, or systemd, quoted or not; a missing one is reported with the remedy."""
    (tmp_path / "key").write_text("the-key\n", encoding="utf-8")
    environ = {"MY_KEY": "other-key", "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert Secret("env:MY_KEY", "s").reveal(environ) == "other-key"
    assert Secret(f"file:{tmp_path / 'key'}", "s").reveal(environ) == "the-key"
    assert Secret("credential:key", "s").reveal(environ) == "the-key"
    for number, content in enumerate(('"the-key"\n', "'the-key'", ' " the-key "\r\n', '\ufeff"the-key"')):
        path = tmp_path / f"quoted {number}"
        path.write_text(content, encoding="utf-8")
        assert Secret(f"file:{path}", "s").reveal(environ) == "the-key"
        assert Secret(f'"file:{path}"', "s").reveal(environ) == "the-key"
        assert Secret("env:QUOTED", "s").reveal({"QUOTED": content.lstrip("\ufeff")}) == "the-key"
    (tmp_path / "torn").write_text('"the-key\n', encoding="utf-8")
    for given, message in (
        (f"file:{tmp_path / 'torn'}", "torn is not a key; expected one line without blanks and quotation marks"),
        ("env:NO_KEY", "NO_KEY is not set"),
        (f"file:{tmp_path / 'no'}", "cannot be read"),
        ("credential:../key", "no systemd credential"),
        ("credential:no", "cannot be read"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Secret(given, "s").reveal(environ)


def test_an_unknown_variable_is_refused() -> None:
    """A mistyped variable sets nothing, so it is refused, with the one that was probably meant."""
    with pytest.raises(ConfigurationError, match=r"COWRIEPROC_DB_ULR: unknown setting.*; did you mean"):
        load_settings(environ={"COWRIEPROC_DB_ULR": "x.sqlite"})
    with pytest.raises(ConfigurationError, match="did you mean 'COWRIEPROC_CONFIG'"):
        load_settings(environ={"COWRIEPROC_CONFGI": "x.toml"})

    assert load_settings(environ={"COWRIEPROC_DB_ULR": ""}) == Settings()
    assert load_settings(environ={"COWRIE_DB_URL": "x.sqlite", "cowrieproc_db_url": "y"}) == Settings()


def test_a_variable_that_a_setting_refers_to_may_have_any_name(tmp_path: Path) -> None:
    """`env:NAME` in the environment or in the file names a variable; that is no setting, and is known."""
    environ = {"COWRIEPROC_VIRUSTOTAL_KEY": "env:COWRIEPROC_MY_KEY", "COWRIEPROC_MY_KEY": "k"}
    path = write_config(tmp_path, '[cowrieprocessor]\nabusech_key = "env:COWRIEPROC_OTHER"\n')

    assert load_settings(environ=environ | {"COWRIEPROC_OTHER": "o"}, toml_path=path).virustotal_key is not None
    overruled = environ | {"COWRIEPROC_OTHER": "o", "COWRIEPROC_ABUSECH_KEY": "a"}
    assert load_settings(environ=overruled, toml_path=path).abusech_key == Secret("a", "COWRIEPROC_ABUSECH_KEY")
    with pytest.raises(ConfigurationError, match=r"COWRIEPROC_OTHER.*no setting in use names it"):
        load_settings(environ=environ | {"COWRIEPROC_OTHER": "o"})


def test_variables_of_the_makefile_and_the_tests_are_known() -> None:
    """Every variable with our prefix that the Makefile, the tests and the benchmarks use is a setting or listed."""
    paths = [PROJECT / "Makefile", *(PROJECT / "tests").rglob("*.py"), *(PROJECT / "benchmarks").rglob("*.py")]
    used = {
        name
        for path in [*paths, *(PROJECT / "tests").rglob("*.sh")]
        for name in re.findall(r"\bCOWRIEPROC_[A-Z_0-9]*[A-Z0-9]\b", path.read_text(encoding="utf-8"))
    }
    settings = {name for setting in SETTINGS_REFERENCE for name in (setting.variable, *setting.aliases)}
    made_up = {"COWRIEPROC_DB_ULR", "COWRIEPROC_CONFGI", "COWRIEPROC_MY_KEY", "COWRIEPROC_OTHER"}

    assert used - settings - made_up - {"COWRIEPROC_CONFIG"} == PROJECT_VARIABLES
