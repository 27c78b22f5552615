"""The program as operators run it: its output, its keys, its signals, the scripts; services are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowrieprocessor.db.engine import dispose, get_engine
from cowrieprocessor.db.migrations import apply_migrations
from tests.command_line import PROGRAM, run
from tests.documents import PROJECT
from tests.stand_ins.behaviours import HTML_502
from tests.stand_ins.clock import Timepiece
from tests.stand_ins.scene import Services, download, load, services, sha256_of
from tests.stand_ins.server import Behaviour, Exchange, answering, document
from tests.stand_ins.virustotal import KEY, KeyLimits

FILES = tuple(sha256_of(number) for number in range(4))
CANARY = "canary" + "0123456789abcdef" * 3


class _Machine:
    """The machine's clock: the program is another process."""

    def now(self) -> object:
        from cowrieprocessor.clock import SystemClock

        return SystemClock().now()


@pytest.fixture
def here() -> Iterator[Services]:
    """Every service, by the machine's clock, without a limit by the minute that would make the program wait."""
    clock: Timepiece = _Machine()  # type: ignore[assignment]
    with services(KeyLimits(None, 500, 15_500), clock) as all_of_them:  # type: ignore[arg-type]
        yield all_of_them


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database with four files, the first in most sessions."""
    path = tmp_path / "hive.sqlite"
    engine = get_engine(path)
    apply_migrations(engine)
    events = [download(f"{number}-{more}", FILES[number]) for number in range(4) for more in range(5 - number)]
    load(engine, tmp_path, events)
    dispose(engine)
    return path


def program(
    *arguments: object, here: Services, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program, or a script of the project, to its end."""
    words, env = [*map(str, arguments)], surroundings(here, environment)
    if not words[0].startswith("scripts/"):
        return run(*words, cwd=PROJECT, env=env)
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=PROJECT, env=env, check=False)


def surroundings(here: Services, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which the program asks the stand-ins, quickly."""
    return {
        **os.environ,
        **here.environment(),
        "COWRIEPROC_VIRUSTOTAL_PER_MINUTE": "6000",
        "COWRIEPROC_MALWAREBAZAAR_PER_MINUTE": "6000",
        "COWRIEPROC_URLHAUS_PER_MINUTE": "6000",
        "COWRIEPROC_HASHLOOKUP_PER_MINUTE": "6000",
        **(environment or {}),
    }


def test_enrich_then_look(database: Path, here: Services) -> None:
    """`enrich`, `enrich status`, `files history`, `files show` and `report` tell one story."""
    here.virustotal.add(FILES[0], malicious=12, total=70)
    done = program("enrich", "--db", database, here=here)
    assert done.returncode == 0, done.stderr
    assert "1 found, 3 unknown" in done.stdout

    status = program("enrich", "status", "--db", database, "--json", here=here)
    assert status.returncode == 0
    told = json.loads(status.stdout)
    (virustotal,) = [one for one in told["sources"] if one["provider"] == "virustotal"]
    assert (4, 0) == (virustotal["queue"]["answered"], virustotal["queue"]["waiting"])

    history = program("files", "history", FILES[0][:12], "--db", database, here=here)
    assert "12/70" in history.stdout
    show = program("files", "show", FILES[0][:12], "--db", database, here=here)
    assert "12/70" in show.stdout
    assert "malicious" in program("files", "list", "--db", database, here=here).stdout


def test_a_refused_key_is_an_error_and_what_it_says_is_inert(database: Path, here: Services) -> None:
    """The exit code is 2; escape sequences in what the source says do not reach the terminal."""
    refusal = document({"error": {"code": "ForbiddenError", "message": "\x1b]0;pwned\x07 \x9b31m no"}}, 403)
    here.virustotal.fail_next(2, answering("no", refusal))
    done = program("enrich", "--db", database, here=here)
    assert done.returncode == 2
    assert "virustotal goes no further" in done.stdout
    assert not {"\x1b", "\x07", "\x9b"} & set(done.stdout + done.stderr)
    status = program("enrich", "status", "--db", database, here=here)
    assert not {"\x1b", "\x07", "\x9b"} & set(status.stdout)


def test_options_before_the_name_are_not_lost(database: Path, here: Services) -> None:
    """`enrich --db X status` would look at another database: it is refused with what to write."""
    done = program("enrich", "--db", database, "status", here=here)
    assert done.returncode == 2
    assert "enrich status --db" in done.stderr


def test_the_script_does_what_the_command_does(database: Path, here: Services) -> None:
    """`scripts/enrichment_refresh.py --files 2 --db URL` asks about two files, and without a number about all."""
    url = f"sqlite:///{database}"
    first = program("scripts/enrichment_refresh.py", "--files", "2", "--db", url, here=here)
    assert first.returncode == 0, first.stderr
    assert set(FILES[:2]) == here.virustotal.asked().keys() - {"overall_quotas"}
    assert program("scripts/enrichment_refresh.py", "--files", "--db", url, here=here).returncode == 0
    assert set(FILES) == here.virustotal.asked().keys() - {"overall_quotas"}


def test_what_is_on_its_way_is_kept_when_the_program_is_told_to_stop(database: Path, here: Services) -> None:
    """SIGTERM while an answer is coming: it is finished and stored, nothing else is asked, and the exit code is 0."""
    asked, go_on = threading.Event(), threading.Event()

    def slowly(exchange: Exchange) -> None:
        asked.set()
        go_on.wait(60)
        exchange.send(exchange.proper())

    here.virustotal.add(FILES[0], malicious=5, total=60)
    here.virustotal.script(FILES[0], [Behaviour("slowly", slowly)])
    command = [*PROGRAM, "enrich", "--watch", "--provider", "virustotal", "--db", str(database)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=surroundings(here), cwd=PROJECT
    ) as running:
        assert asked.wait(60)
        running.send_signal(signal.SIGTERM)
        assert running.stderr is not None
        line = running.stderr.readline()
        go_on.set()
        stdout, _ = running.communicate(timeout=60)
    assert "the request in flight is finished" in line
    assert running.returncode == 0
    assert "stopped" in stdout
    assert {FILES[0]: 1, "overall_quotas": 1} == here.virustotal.asked()
    assert "5/60" in program("files", "show", FILES[0], "--db", database, here=here).stdout


def test_a_stop_during_an_outage_is_no_failure(database: Path, here: Services) -> None:
    """SIGTERM while no request was answered yet: the exit code is 0, and the job is stopped; without it they failed."""
    here.virustotal.outage = HTML_502
    arguments = ("enrich", "--provider", "virustotal", "--db", str(database))
    with subprocess.Popen(
        [*PROGRAM, *arguments, "--watch"], stderr=subprocess.PIPE, text=True, env=surroundings(here), cwd=PROJECT
    ) as running:
        deadline = time.monotonic() + 60
        while len(here.virustotal.log) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        _, stderr = running.communicate(timeout=60)
    assert (0, True) == (running.returncode, "stopping" in stderr), stderr
    status = json.loads(program("enrich", "status", "--db", database, "--json", here=here).stdout)
    assert "stopped" == status["job"]["state"]
    assert 7 == program(*arguments, "--limit", "1", here=here).returncode


def test_staging_is_said(database: Path, here: Services) -> None:
    """With USE_NEW_ENRICHMENT=0 the program says that only cache and ledger are written, and status what waits."""
    staged = program("enrich", "--db", database, here=here, environment={"USE_NEW_ENRICHMENT": "0"})
    assert "USE_NEW_ENRICHMENT=0: only the cache" in staged.stderr
    status = program("enrich", "status", "--db", database, here=here, environment={"USE_NEW_ENRICHMENT": "0"})
    assert "USE_NEW_ENRICHMENT=0" in status.stdout + status.stderr
    sent = here.requests()
    replayed = program("enrich", "--db", database, here=here)
    assert sent == here.requests()
    assert "answers from the cache" in replayed.stdout


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"COWRIEPROC_ENRICHMENT_PROVIDERS": "virustotal", "COWRIEPROC_VIRUSTOTAL_KEY": ""}, "virustotal"),
        ({"COWRIEPROC_ENRICHMENT_PROVIDERS": "virustotl"}, "virustotl"),
        ({"COWRIEPROC_VIRUSTOTAL_KEY": "file:/nowhere/key"}, "/nowhere/key cannot be read"),
        ({"COWRIEPROC_VIRUSTOTAL_URL": "http://203.0.113.1/api"}, "https://"),
        ({"COWRIEPROC_TTL_CLEAN": "soon"}, "COWRIEPROC_TTL_CLEAN is 'soon'"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    database: Path, here: Services, environment: dict[str, str], message: str
) -> None:
    """A key that is not there, an unknown source, an address that would show the key: exit code 2 and the remedy."""
    done = program("enrich", "--db", database, here=here, environment=environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert {0} == set(here.requests().values())


def test_a_key_is_found_nowhere(database: Path, here: Services) -> None:
    """A canary as the key, echoed by the services in every kind of trouble: no output, file or table has it."""
    here.virustotal.keys[CANARY] = KeyLimits(None, None, None)
    here.virustotal.users[CANARY] = CANARY
    here.malwarebazaar.auth_keys.add(CANARY)
    here.urlhaus.auth_keys.add(CANARY)
    echo = {"error": {"code": "ForbiddenError", "message": f"the key {CANARY} may not"}}
    here.virustotal.script(FILES[0], [HTML_502])
    here.virustotal.script(FILES[1], [answering("echo", document(echo, 400))])
    here.virustotal.script(FILES[2], [answering("echo", document(echo, 503))])
    here.virustotal.script(FILES[3], [answering("echo", document(echo, 403))])
    here.malwarebazaar.fail_next(1, answering("echo", document({"query_status": f"unknown {CANARY}"})))
    keys = {"COWRIEPROC_VIRUSTOTAL_KEY": CANARY, "COWRIEPROC_ABUSECH_KEY": CANARY, "PYTHONASYNCIODEBUG": "1"}
    outputs = [
        program(*command, "--db", database, here=here, environment=keys)
        for command in (
            ("enrich",),
            ("enrich", "--json"),
            ("enrich", "status"),
            ("enrich", "status", "--json"),
            ("files", "history", FILES[1]),
            ("db", "status"),
            ("report", "daily"),
        )
    ]
    outputs.append(program("enrich", "--db", database.parent, here=here, environment=keys))
    assert any(one.returncode for one in outputs)
    assert CANARY in str([received.headers for received in here.virustotal.log])
    assert CANARY not in "".join(one.stdout + one.stderr for one in outputs)
    for path in database.parent.iterdir():
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), path.name


def test_a_traceback_has_no_key(here: Services) -> None:
    """Even where the program fails in an unexpected place, with local variables printed, the key does not show."""
    code = (
        "import traceback\n"
        "from cowrieprocessor.settings import load_settings\n"
        "from cowrieprocessor.enrichment.providers.registry import configured_providers\n"
        "settings = load_settings()\n"
        "providers = configured_providers(settings)\n"
        "from cowrieprocessor.enrichment.providers.base import Sample\n"
        "request = providers[-1].request([Sample('0' * 64)])\n"
        "try:\n    raise RuntimeError(repr((settings, request)))\n"
        "except RuntimeError as error:\n"
        "    print(''.join(traceback.TracebackException.from_exception(error, capture_locals=False).format()))\n"
    )
    environment = surroundings(here, {"COWRIEPROC_VIRUSTOTAL_KEY": CANARY})
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=environment, check=False
    )
    assert "RuntimeError" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert KEY not in done.stdout


def test_the_exit_code_says_that_no_request_was_answered(database: Path, here: Services) -> None:
    """Every request failed: 7, also with --json; one source answers: 0; the next run with a network: 0."""
    here.virustotal.outage = HTML_502
    done = program("enrich", "--provider", "virustotal", "--limit", "1", "--db", database, here=here)
    assert done.returncode == 7, done.stderr
    assert "virustotal answered no request; the last failure: server-error: " in done.stdout
    done = program("enrich", "--provider", "virustotal", "--limit", "1", "--json", "--db", database, here=here)
    assert done.returncode == 7
    assert ["virustotal"] == list(json.loads(done.stdout)["unanswered"])
    assert program("enrich", "--limit", "1", "--db", database, here=here).returncode == 0
    here.virustotal.outage = None
    assert program("enrich", "--provider", "virustotal", "--db", database, here=here).returncode == 0


def test_a_setting_above_the_quota_of_the_key_is_said_by_enrich_and_by_status(database: Path, here: Services) -> None:
    """Both name the setting and what holds instead; the JSON of the status has the numbers."""
    environment = {"COWRIEPROC_VIRUSTOTAL_PER_DAY": "20000"}
    line = "virustotal: the key allows 500 requests a day, not the 20,000 of virustotal_per_day"
    assert line in program("enrich", "--limit", "1", "--db", database, here=here, environment=environment).stderr
    status = program("enrich", "status", "--db", database, here=here, environment=environment)
    assert line in " ".join(status.stdout.split())
    status = program("enrich", "status", "--json", "--db", database, here=here, environment=environment)
    (ledger,) = [one for one in json.loads(status.stdout)["ledgers"] if one["ledger"] == "virustotal"]
    assert [{"setting": "virustotal_per_day", "window": "day", "set_to": 20_000, "allowed": 500}] == ledger["overruled"]
