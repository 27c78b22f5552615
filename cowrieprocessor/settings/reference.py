"""Every setting with its default, where it can be set, and its meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings.schedule import Schedules, schedules
from cowrieprocessor.settings.secrets import Secret
from cowrieprocessor.settings.values import (
    DAY_S,
    HOUR_S,
    KIB,
    MIB,
    choice,
    duration,
    flag,
    mail_address,
    names,
    seconds,
    size,
    text,
    web_address,
    whole_number,
)

SQLITE_JSON_DEPTH = 1000
"""Maximum nesting that SQLite's JSON functions accept. Source: sqlite.org/json1.html, section 3."""


DEFAULT_DATABASE = "cowrieprocessor.sqlite"
"""The default database, in the current folder."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one run; each is described in `SETTINGS_REFERENCE`."""

    db_url: str | None = None
    report_dir: str | None = None
    log_dir: str | None = None
    report_email: Secret | None = None
    batch_size: int = 10000
    max_value_bytes: int = 2 * MIB
    max_ratio: int = 250
    max_ratio_grace_bytes: int = 64 * MIB
    max_nesting: int = SQLITE_JSON_DEPTH
    lock_timeout_s: float = 600.0
    sqlite_driver: str = "auto"
    session_gap_s: float = DAY_S
    use_new_enrichment: bool = True
    enrichment_providers: tuple[str, ...] | None = None
    settled_by: tuple[str, ...] = ("known-good", "malicious")
    ttl_malicious_s: float = 30 * DAY_S
    ttl_clean_s: float = 7 * DAY_S
    ttl_unknown_s: float = 12 * HOUR_S
    ttl_unknown_max_s: float = 7 * DAY_S
    request_timeout_s: float = 30.0
    virustotal_key: Secret | None = None
    virustotal_user: str | None = None
    virustotal_url: str = "https://www.virustotal.com/api/v3"
    virustotal_per_minute: int | None = None
    virustotal_per_day: int | None = None
    virustotal_per_month: int | None = None
    virustotal_malicious_at: int = 1
    virustotal_upload_from: str | None = None
    abusech_key: Secret | None = None
    malwarebazaar_url: str = "https://mb-api.abuse.ch/api/v1"
    malwarebazaar_per_minute: int = 60
    urlhaus_url: str = "https://urlhaus-api.abuse.ch/v1"
    urlhaus_per_minute: int = 60
    hashlookup_url: str = "https://hashlookup.circl.lu"
    hashlookup_per_minute: int = 600
    work: Schedules | None = None


@dataclass(frozen=True, slots=True)
class SettingReference:
    """One setting: where it can be set, what it means, and how its value is parsed.

    Attributes:
        name: the field of `Settings` and the key in the settings file.
        variable: the environment variable.
        default: the default as users write it.
        meaning: one sentence of documentation, with the unit.
        read: converts a given value to the type of the setting; raises ValueError with what is expected.
        is_secret: the value is a key: it is never shown, and the settings file may only contain a reference to it.
        may_refer: the value is not a key but may also be a reference; it is not shown, either.
        is_path: the value is a path, or for a database may be one: in the settings file relative to that file.
        aliases: other environment variables for the same setting, in descending precedence.
    """

    name: str
    variable: str
    default: str
    meaning: str
    read: Callable[[object], object]
    aliases: tuple[str, ...] = ()
    is_secret: bool = False
    may_refer: bool = False
    is_path: bool = False

    def value(self, given: object, where: str) -> object:
        """Return a value converted to the type of the setting.

        Args:
            given: the value as it was given.
            where: its location, for messages.

        Raises:
            ConfigurationError: the value is invalid; the message gives its location and what is expected.
        """
        is_hidden = self.is_secret or self.may_refer
        try:
            parsed = self.read(given)
        except ValueError as error:
            shown = "(not shown)" if self.name == "db_url" or is_hidden else repr(given)
            raise ConfigurationError(f"{where} is {shown}; expected {error}") from error
        return Secret(str(parsed), where) if is_hidden else parsed


_LOADING: tuple[SettingReference, ...] = (
    SettingReference(
        "db_url",
        "COWRIEPROC_DB_URL",
        f"{DEFAULT_DATABASE} in the current folder; `db` commands want it named",
        "The database: the path of an SQLite file, or an SQLAlchemy URL (`sqlite:///…`, `postgresql://…`). "
        "`COWRIEPROC_DB_PATH` is a path, used if `COWRIEPROC_DB_URL` is not set.",
        text,
        aliases=("COWRIEPROC_DB_PATH",),
        is_path=True,
    ),
    SettingReference(
        "report_dir",
        "COWRIEPROC_REPORT_DIR",
        "none",
        "The folder for reports, as in the settings file of version 3. Not used yet.",
        text,
        is_path=True,
    ),
    SettingReference(
        "log_dir",
        "COWRIEPROC_LOG_DIR",
        "none",
        "The folder for this program's own logs, as in the settings file of version 3. Not used yet.",
        text,
        is_path=True,
    ),
    SettingReference(
        "report_email",
        "COWRIEPROC_REPORT_EMAIL",
        "none",
        "The recipient of reports: an e-mail address, or a reference to one (as for a key). Not used yet.",
        mail_address,
        may_refer=True,
    ),
    SettingReference(
        "batch_size",
        "COWRIEPROC_BATCH_SIZE",
        "10000",
        "Events in one transaction of the loader.",
        whole_number(1),
    ),
    SettingReference(
        "max_value_bytes",
        "COWRIEPROC_MAX_VALUE_BYTES",
        "2MiB",
        "The largest JSON value in bytes that is stored as an event; a larger value becomes a dead letter.",
        size(KIB),
    ),
    SettingReference(
        "max_ratio",
        "COWRIEPROC_MAX_RATIO",
        "250",
        "The highest decompression ratio of a log; beyond it the log is refused as a decompression bomb.",
        whole_number(1),
    ),
    SettingReference(
        "max_ratio_grace_bytes",
        "COWRIEPROC_MAX_RATIO_GRACE_BYTES",
        "64MiB",
        "The number of decompressed bytes from which on `max_ratio` is checked.",
        size(0),
    ),
    SettingReference(
        "max_nesting",
        "COWRIEPROC_MAX_NESTING",
        str(SQLITE_JSON_DEPTH),
        "The deepest nesting of a JSON value; at most 1000, the limit of SQLite.",
        whole_number(1, SQLITE_JSON_DEPTH),
    ),
    SettingReference(
        "lock_timeout_s",
        "COWRIEPROC_LOCK_TIMEOUT_S",
        "600",
        "How many seconds to wait for another process that is writing, before giving up.",
        seconds,
    ),
    SettingReference(
        "sqlite_driver",
        "COWRIEPROC_SQLITE_DRIVER",
        "auto",
        "Which SQLite library to use: `pysqlite3` (needs its wheel), `stdlib` (Python's own), or `auto`: "
        "pysqlite3 where it is installed.",
        choice("auto", "pysqlite3", "stdlib"),
    ),
    SettingReference(
        "session_gap_s",
        "COWRIEPROC_SESSION_GAP",
        "24h",
        "A longer pause between neighbouring events of a session means that its id was used again (`24h`, `7d`, …).",
        duration,
    ),
)

_ENRICHMENT: tuple[SettingReference, ...] = (
    SettingReference(
        "use_new_enrichment",
        "USE_NEW_ENRICHMENT",
        "1",
        "With 0, enrichment writes only its cache, its queue and the ledger of its quotas; back at 1, the cache is "
        "replayed without a request.",
        flag,
        aliases=("COWRIEPROC_USE_NEW_ENRICHMENT",),
    ),
    SettingReference(
        "enrichment_providers",
        "COWRIEPROC_ENRICHMENT_PROVIDERS",
        "every source that has its key",
        "The sources to ask, in this order, separated by commas: `hashlookup`, `malwarebazaar`, `urlhaus`, "
        "`urlhaus-url`, `virustotal`; `none` asks no source.",
        names,
    ),
    SettingReference(
        "settled_by",
        "COWRIEPROC_SETTLED_BY",
        "known-good,malicious",
        "The decisive verdicts: after one of them the later sources are not asked about a file; with `none` every "
        "source is asked about every file.",
        names,
    ),
    SettingReference(
        "ttl_malicious_s",
        "COWRIEPROC_TTL_MALICIOUS",
        "30d",
        "How long a verdict malicious or known-good is valid before the source is asked again (`30d`, `12h`, …).",
        duration,
    ),
    SettingReference(
        "ttl_clean_s", "COWRIEPROC_TTL_CLEAN", "7d", "The same for a verdict clean or suspicious.", duration
    ),
    SettingReference(
        "ttl_unknown_s",
        "COWRIEPROC_TTL_UNKNOWN",
        "12h",
        "The same for a file that the source does not know; it doubles each time up to `ttl_unknown_max_s`.",
        duration,
    ),
    SettingReference(
        "ttl_unknown_max_s",
        "COWRIEPROC_TTL_UNKNOWN_MAX",
        "7d",
        "The longest time before a source is asked again about a file that it does not know.",
        duration,
    ),
    SettingReference(
        "request_timeout_s",
        "COWRIEPROC_REQUEST_TIMEOUT",
        "30s",
        "The total timeout of one request to a source.",
        duration,
    ),
    SettingReference(
        "virustotal_key",
        "COWRIEPROC_VIRUSTOTAL_KEY",
        "none: VirusTotal is not asked",
        "VirusTotal's API key, or where it is: `env:NAME`, `file:PATH` or `credential:NAME` (systemd).",
        text,
        is_secret=True,
    ),
    SettingReference(
        "virustotal_user",
        "COWRIEPROC_VIRUSTOTAL_USER",
        "none: the key stands for its user",
        "Your user name at VirusTotal: with it the quota of the key is read without the key in the URL.",
        text,
    ),
    SettingReference(
        "virustotal_url",
        "COWRIEPROC_VIRUSTOTAL_URL",
        "https://www.virustotal.com/api/v3",
        "Where VirusTotal's API is.",
        web_address,
    ),
    SettingReference(
        "virustotal_per_minute",
        "COWRIEPROC_VIRUSTOTAL_PER_MINUTE",
        "what VirusTotal says of the key, else 4",
        "Requests to VirusTotal a minute at most.",
        whole_number(1, 100_000),
    ),
    SettingReference(
        "virustotal_per_day",
        "COWRIEPROC_VIRUSTOTAL_PER_DAY",
        "what VirusTotal says of the key, else 500",
        "Requests to VirusTotal a day (UTC) at most.",
        whole_number(1),
    ),
    SettingReference(
        "virustotal_per_month",
        "COWRIEPROC_VIRUSTOTAL_PER_MONTH",
        "what VirusTotal says of the key, else 15500",
        "Requests to VirusTotal a month (UTC) at most.",
        whole_number(1),
    ),
    SettingReference(
        "virustotal_malicious_at",
        "COWRIEPROC_VIRUSTOTAL_MALICIOUS_AT",
        "1",
        "How many of VirusTotal's engines must report malicious for the file to count as malicious.",
        whole_number(1, 1000),
    ),
    SettingReference(
        "virustotal_upload_from",
        "COWRIEPROC_VIRUSTOTAL_UPLOAD_FROM",
        "none: nothing is ever uploaded",
        "The folder of captured files: those that VirusTotal does not know are uploaded to it. They are then visible "
        "to its customers.",
        text,
        is_path=True,
    ),
    SettingReference(
        "abusech_key",
        "COWRIEPROC_ABUSECH_KEY",
        "none: MalwareBazaar and URLhaus are not asked",
        "The Auth-Key of abuse.ch, for MalwareBazaar and URLhaus, or where it is (see `virustotal_key`).",
        text,
        is_secret=True,
    ),
    SettingReference(
        "malwarebazaar_url",
        "COWRIEPROC_MALWAREBAZAAR_URL",
        "https://mb-api.abuse.ch/api/v1",
        "Where MalwareBazaar's API is.",
        web_address,
    ),
    SettingReference(
        "malwarebazaar_per_minute",
        "COWRIEPROC_MALWAREBAZAAR_PER_MINUTE",
        "60",
        "Requests to MalwareBazaar a minute at most.",
        whole_number(1, 100_000),
    ),
    SettingReference(
        "urlhaus_url",
        "COWRIEPROC_URLHAUS_URL",
        "https://urlhaus-api.abuse.ch/v1",
        "Where URLhaus's API is.",
        web_address,
    ),
    SettingReference(
        "urlhaus_per_minute",
        "COWRIEPROC_URLHAUS_PER_MINUTE",
        "60",
        "Requests to URLhaus a minute at most, by hash and by URL together.",
        whole_number(1, 100_000),
    ),
    SettingReference(
        "hashlookup_url",
        "COWRIEPROC_HASHLOOKUP_URL",
        "https://hashlookup.circl.lu",
        "Where CIRCL hashlookup is.",
        web_address,
    ),
    SettingReference(
        "hashlookup_per_minute",
        "COWRIEPROC_HASHLOOKUP_PER_MINUTE",
        "600",
        "Requests to CIRCL hashlookup a minute at most.",
        whole_number(1, 100_000),
    ),
)

_WORK: tuple[SettingReference, ...] = (
    SettingReference(
        "work",
        "COWRIEPROC_WORK",
        "what each task brings with it",
        "When `work` runs its tasks: `enrichment=15min,propagation=off`, or the table `[work]` of the settings file. A "
        "task has an interval (`90s`, `15min`, `6h`), a time of day in UTC (`03:15`), or is `off`.",
        schedules,
    ),
)

SETTINGS_REFERENCE = (*_LOADING, *_ENRICHMENT, *_WORK)
"""Every setting, exactly once; a test compares it with the fields of `Settings`."""
