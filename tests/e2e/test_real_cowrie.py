"""A real Cowrie logs what attackers do, and not one bit of it is lost on the way into the database."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from cowrieprocessor.events import EVENT_FAMILIES, EVENT_NAMES
from tests.e2e.conftest import Recording
from tests.e2e.cowrie_server import DEFAULT_SENSOR
from tests.e2e.hostile_behaviours import HOSTILE
from tests.e2e.scene import DOWNLOAD, DOWNLOAD_FAILED, FAKE_ELF, SSH_KEY, UPLOAD, Attack, Expected

pytestmark = [pytest.mark.cowrie, pytest.mark.timeout(180)]

SHA256 = re.compile(r"[0-9a-f]{64}")


def known(eventid: str) -> bool:
    """Return whether our catalogue has an event name, alone or in a family."""
    return eventid in EVENT_NAMES or eventid.startswith(tuple(EVENT_FAMILIES))


def escaped(data: bytes) -> str:
    """Return bytes as Cowrie 3.1 writes logins: printable ASCII, the rest as backslash, x and two digits."""
    return "".join("\\\\" if byte == 0x5C else chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in data)


def missing(recording: Recording, attack: Attack) -> list[Expected]:
    """Return the file events that an attack should have left, as often as it should, and did not."""
    left = Counter((event["eventid"], event.get("shasum")) for event in recording.events_of(attack))
    without_hash = Counter(event["eventid"] for event in recording.events_of(attack))
    wanted = Counter(attack.expected)
    return [
        expected
        for expected, count in wanted.items()
        if (without_hash[expected.eventid] if expected.shasum is None else left[expected.eventid, expected.shasum])
        < count
    ]


class TestTheDrive:
    """What Cowrie logged of what the attackers did."""

    def test_every_attack_went_through(self, recording: Recording) -> None:
        """No attacker was stopped by a mistake of ours."""
        assert [(attack.behaviour, attack.error) for attack in recording.ledger if attack.error] == []

    def test_every_connection_is_one_session(self, recording: Recording) -> None:
        """Each attacker has one session, with a beginning and an end, under the address it came from."""
        sessions = [{event["session"] for event in recording.events_of(attack)} for attack in recording.ledger]
        assert [1] * len(recording.ledger) == [len(found) for found in sessions]
        assert len(recording.ledger) == len(set.union(*sessions))
        counts = Counter(event["eventid"] for event in recording.events)
        assert counts["cowrie.session.connect"] == counts["cowrie.session.closed"] == len(recording.ledger)

    def test_every_file_has_its_event(self, recording: Recording) -> None:
        """Each file sent or fetched is in the log of its session, with the hash of its content."""
        assert {attack.behaviour: lost for attack in recording.ledger if (lost := missing(recording, attack))} == {}
        assert any(attack.expected for attack in recording.ledger)

    def test_a_lost_event_would_be_noticed(self, recording: Recording) -> None:
        """The check above fails when a file event is taken away."""
        attack = recording.attack("ssh_scp_upload")
        rest = [event for event in recording.events if event not in recording.events_of(attack, UPLOAD)]
        log = recording.log.with_name("tampered.json")
        log.write_text("".join(json.dumps(event) + "\n" for event in rest))
        tampered = Recording(log, recording.downloads, recording.ledger, recording.python)
        assert attack.expected == missing(tampered, attack)

    def test_every_event_name_is_known(self, recording: Recording) -> None:
        """Our catalogue has every event name that the drive provoked."""
        assert set() == {str(event["eventid"]) for event in recording.events if not known(str(event["eventid"]))}

    def test_the_drive_provokes_most_of_what_sessions_can_log(self, recording: Recording) -> None:
        """The names that a session's own doings can have occur, so that what follows is about all of them."""
        wanted = """
            client.fingerprint client.kex client.size client.var client.version
            command.chpasswd command.failed command.input command.success
            direct-tcpip.data direct-tcpip.ja4h direct-tcpip.request log.closed login.failed login.success
            session.closed session.connect session.file_download session.file_download.failed
            session.file_upload session.params telnet.exploit_attempt telnet.option
        """
        missing_names = {f"cowrie.{name}" for name in wanted.split()}
        missing_names -= {str(event["eventid"]) for event in recording.events}
        assert missing_names == set()

    def test_cowries_own_catalogue_is_known(self, recording: Recording) -> None:
        """Every event name in Cowrie's own catalogue is in ours."""
        printed = subprocess.run(
            [str(recording.python), "-c", "from cowrie.core.eventids import ALL; print(*sorted(ALL))"],
            check=True,
            capture_output=True,
            text=True,
            cwd=recording.log.parent,
        )
        theirs = set(printed.stdout.split())
        assert "cowrie.session.connect" in theirs
        assert set() == {name for name in theirs if not known(name)}


class TestTheLog:
    """What a line of a real log is like: the facts that the loader rests on."""

    def test_lines_are_ascii_objects(self, recording: Recording) -> None:
        """Each line is one ASCII JSON object with its shared fields, and ends in a newline."""
        for line, event in zip(recording.lines, recording.events, strict=True):
            assert line.isascii()
            assert line.endswith(b"}\n")
            assert {"session", "eventid", "timestamp", "sensor", "uuid", "src_ip", "message"} <= event.keys()
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", str(event["timestamp"]))
            assert event["sensor"] == DEFAULT_SENSOR

    def test_file_events_have_no_size_and_downloads_no_filename(self, recording: Recording) -> None:
        """No event has a size, and only an upload a filename."""
        for event in recording.events:
            if event["eventid"] in (DOWNLOAD, UPLOAD):
                assert "size" not in event
                assert "file_size" not in event
                assert ("filename" in event) == (event["eventid"] == UPLOAD)

    def test_a_download_names_its_url(self, recording: Recording) -> None:
        """What wget and curl fetch has a url and no destfile; what ftpget and tftp fetch has both."""
        fetched = [event for event in recording.events if event["eventid"] == DOWNLOAD and "url" in event]
        schemes = Counter((str(event["url"]).split(":")[0], "destfile" in event) for event in fetched)
        assert {("http", False), ("ftp", True), ("tftp", True)} == schemes.keys()
        (ftp,) = recording.events_of(recording.attack("ssh_ftpget"), DOWNLOAD)
        assert str(ftp["url"]).startswith("ftp://anon:secret@files.example.net:")

    def test_standard_input_has_an_empty_destination(self, recording: Recording) -> None:
        """A file sent to `cat > file` is logged twice: as input without a name, and as the redirect."""
        events = recording.events_of(recording.attack("ssh_stdin_upload"), DOWNLOAD)
        assert sorted(str(event["destfile"]) for event in events) == ["", "/tmp/.x"]
        assert len({event["shasum"] for event in events}) == 1

    def test_an_scp_upload_has_a_path_for_a_url(self, recording: Recording) -> None:
        """SCP puts a path into url and a bare hash into outfile."""
        (event,) = recording.events_of(recording.attack("ssh_scp_upload"), UPLOAD)
        assert (event["url"], event["destfile"], event["filename"]) == ("/root/sshd", "/root/sshd", "sshd")
        assert event["shasum"] == event["outfile"]

    def test_a_download_of_nothing_has_an_empty_hash(self, recording: Recording) -> None:
        """An empty answer, found or not, is logged as a download whose hash is the empty string."""
        (empty,) = recording.events_of(recording.attack("ssh_wget_empty"), DOWNLOAD)
        gone = recording.events_of(recording.attack("ssh_failed_downloads"), DOWNLOAD)
        assert [(event["shasum"], event["outfile"]) for event in (empty, *gone)] == [("", ""), ("", "")]

    def test_a_failed_download_names_no_file(self, recording: Recording) -> None:
        """A host that is down leaves file_download.failed, with the URL and no hash."""
        failed = recording.events_of(recording.attack("ssh_failed_downloads"), DOWNLOAD_FAILED)
        assert len(failed) == 2
        assert all("shasum" not in event and str(event["url"]).endswith("/a.sh") for event in failed)

    def test_a_tty_log_has_a_hash_that_is_no_file(self, recording: Recording) -> None:
        """The hash of cowrie.log.closed is never the name of a captured file."""
        closed = [event for event in recording.events if event["eventid"] == "cowrie.log.closed"]
        assert closed
        assert set() == {event["shasum"] for event in closed} & {path.name for path in recording.downloads.iterdir()}

    def test_one_key_is_in_many_sessions(self, recording: Recording) -> None:
        """The key that is planted everywhere has one hash, and every planter's session has it."""
        sha256 = hashlib.sha256(SSH_KEY + b"\n").hexdigest()
        planters = recording.attacks("ssh_plant_key")
        assert [[sha256]] * len(planters) == [
            [event["shasum"] for event in recording.events_of(attack, DOWNLOAD)] for attack in planters
        ]

    def test_the_log_does_not_say_where_it_was_made(self, recording: Recording) -> None:
        """Paths in the log are relative to Cowrie's folder."""
        log = recording.log.read_bytes()
        for place in (Path(__file__).resolve().parents[2], Path("/var/tmp"), recording.log.parent):
            assert str(place).encode() not in log


class TestHostileBytes:
    """Bytes that do harm where they are read, as a real Cowrie passes them on."""

    @pytest.mark.parametrize("key", HOSTILE)
    def test_ssh_login(self, recording: Recording, key: str) -> None:
        """User names and passwords over SSH arrive as printable ASCII, every other byte escaped."""
        attack = recording.attack(f"hostile_ssh_login:{key}")
        (failed,) = recording.events_of(attack, "cowrie.login.failed")
        (success,) = recording.events_of(attack, "cowrie.login.success")
        text = escaped(HOSTILE[key])
        assert [(text, text), (text, text + "hostile")] == [
            (event["username"], event["password"]) for event in (failed, success)
        ]

    @pytest.mark.parametrize("key", [key for key in HOSTILE if key not in ("nul", "crlf")])
    def test_telnet_login(self, recording: Recording, key: str) -> None:
        """So do those over telnet."""
        (failed,) = recording.events_of(recording.attack(f"hostile_telnet_login:{key}"), "cowrie.login.failed")
        assert (escaped(HOSTILE[key]),) * 2 == (failed["username"], failed["password"])

    def test_commands(self, recording: Recording) -> None:
        """Commands arrive as they are, NUL and ESC too, and what is no UTF-8 as U+FFFD."""
        commands = recording.events_of(recording.attack("hostile_commands"), "cowrie.command.input")
        expected = [f"echo '{text.decode('utf-8', 'replace')}'" for text in HOSTILE.values()]
        assert expected == [event["input"] for event in commands]
        raw = b"".join(recording.lines)
        for written in (
            rb"'a\u0000b'",
            rb"'\u001b[31mred\u001b[0m'",
            rb"'\ufeffbom'",
            rb"'c1\u0085\u009b'",
            rb"'txt.\u202egpj.exe'",
            rb"'\ud83d\udca3bomb'",
            rb"'\ufffd\ufffd\ufffd('",
        ):
            assert b'"input":"echo ' + written + b'"' in raw

    def test_variables(self, recording: Recording) -> None:
        """Environment variables arrive as commands do."""
        variables = recording.events_of(recording.attack("hostile_variable"), "cowrie.client.var")
        assert {key: text.decode("utf-8", "replace") for key, text in HOSTILE.items()} == {
            event["name"]: event["value"] for event in variables
        }

    def test_file_names(self, recording: Recording) -> None:
        """Names of uploaded files arrive as commands do."""
        uploads = recording.events_of(recording.attack("hostile_file_names"), UPLOAD)
        names = {
            hashlib.sha256(f"harmless sample named {key}\n".encode()).hexdigest(): text for key, text in HOSTILE.items()
        }
        assert {sha256: text.replace(b"/", b"_").decode("utf-8", "replace") for sha256, text in names.items()} == {
            event["shasum"]: event["filename"] for event in uploads
        }

    def test_redirects(self, recording: Recording) -> None:
        """So do the paths of redirects."""
        events = recording.events_of(recording.attack("hostile_redirects"), DOWNLOAD)
        destinations = {str(event["destfile"]) for event in events}
        assert {
            "/tmp/\x1b[31mred\x1b[0m",
            "/tmp/\ufeffbom",
            "/tmp/txt.\u202egpj.exe",
            "/tmp/\ufffd\ufffd\ufffd(",
        } <= destinations

    def test_a_long_command_is_logged_whole(self, recording: Recording) -> None:
        """A command of 100 kB is one line of the log."""
        (event,) = recording.events_of(recording.attack("ssh_long_command"), "cowrie.command.input")
        assert "echo " + "A" * recording.long_command_bytes == event["input"]


class TestCapturedFiles:
    """What lies in Cowrie's downloads folder."""

    def test_every_name_is_the_hash_of_its_content(self, recording: Recording) -> None:
        """A captured file with a SHA-256 for a name hashes to it."""
        named = [path for path in recording.downloads.iterdir() if SHA256.fullmatch(path.name)]
        assert [path.name for path in named] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in named]
        assert {expected.shasum for attack in recording.ledger for expected in attack.expected if expected.shasum} <= {
            path.name for path in named
        }

    def test_every_file_of_the_log_lies_there(self, recording: Recording) -> None:
        """Each hash of a file event is a captured file, and no other is."""
        hashes = {event["shasum"] for event in recording.events if event["eventid"] in (DOWNLOAD, UPLOAD)} - {""}
        assert hashes == {path.name for path in recording.downloads.iterdir() if SHA256.fullmatch(path.name)}

    def test_what_busybox_wrote_is_left_under_its_temporary_name(self, recording: Recording) -> None:
        """Cowrie 3.1 forgets what `busybox echo` redirects: no event, and a redir_ file with all of it."""
        left = [path for path in recording.downloads.iterdir() if not SHA256.fullmatch(path.name)]
        assert [FAKE_ELF[:8] + b"harmless"] * len(recording.attacks("telnet_busybox_loader")) == [
            path.read_bytes() for path in left
        ]
        assert all(re.fullmatch(r"redir_[0-9a-f]{32}", path.name) for path in left)
        assert recording.events_of(recording.attack("telnet_busybox_loader"), DOWNLOAD) == []
