"""A real Cowrie on loopback, in a folder of its own, for as long as a `with` block lasts.

Cowrie is installed beside the project by `install_cowrie.sh`. It refuses to run as root, so it is started as
an unprivileged user when we are root. It listens behind the PROXY protocol (its `haproxy:` endpoints), so that
attackers on loopback can come from any address; `cowrie_launcher.py` says what else of its network is ours.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final

HERE: Final = Path(__file__).resolve().parent
INSTALL_SCRIPT: Final = HERE / "install_cowrie.sh"
LAUNCHER: Final = HERE / "cowrie_launcher.py"
DEFAULT_SENSOR: Final = "honeypot-1"
# A random UUID of ours: Cowrie would make one that holds the network card's address.
SENSOR_UUID: Final = "5b0ad2a4-9f3c-4a37-8c1f-0d5e6f7a8b90"
PASSWORDS: Final = ("password", "1234", "12345", "admin", "toor", "qwerty", "raspberry", "P@ssw0rd")

CONFIG: Final = """\
[honeypot]
hostname = web01
sensor_name = {sensor}
log_path = var/log/cowrie
state_path = var/lib/cowrie
download_path = var/lib/cowrie/downloads
ttylog_path = var/lib/cowrie/tty
etc_path = etc
logtype = rotating
timezone = UTC
backend = shell
auth_class = UserDB
idle_timeout = 60
authentication_timeout = 30
# Otherwise Cowrie shows the attacker, and so the log, this machine's own address.
internet_facing_ip = 192.0.2.10
internet_facing_ipv6 = 2001:db8:10::10

[shell]
wget_rate_limit_enabled = false
curl_rate_limit_enabled = false
tftp_rate_limit_enabled = false
ftpget_rate_limit_enabled = false

[ssh]
enabled = true
listen_endpoints = haproxy:tcp:{ssh_port}:interface=127.0.0.1
sftp_enabled = true
forwarding = true
forward_redirect = false
forward_tunnel = false

[telnet]
enabled = true
listen_endpoints = haproxy:tcp:{telnet_port}:interface=127.0.0.1

[output_jsonlog]
enabled = true
logfile = var/log/cowrie/cowrie.json
epoch_timestamp = false
"""


class CowrieNotInstalledError(Exception):
    """There is no Cowrie to start; the message says how to install it."""


class CowrieFailedError(Exception):
    """Cowrie did not start, or died; the message holds the end of its own log."""


def venv_path() -> Path:
    """Return where `install_cowrie.sh` puts, or would put, Cowrie."""
    where = subprocess.run(["sh", str(INSTALL_SCRIPT), "--where"], check=True, capture_output=True, text=True)
    return Path(where.stdout.strip())


def installed_python() -> Path:
    """Return the interpreter that has Cowrie.

    Raises:
        CowrieNotInstalledError: `install_cowrie.sh` has not been run, or did not finish.
    """
    venv = venv_path()
    if not list(venv.glob("installed-*")):
        raise CowrieNotInstalledError(f"no Cowrie in {venv}: run tests/e2e/install_cowrie.sh")
    return venv / "bin" / "python"


def free_ports() -> tuple[int, int]:
    """Return two TCP ports that nobody on 127.0.0.1 listens on now."""
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Return the user Cowrie is to run as, or None to run it as ourselves."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _content(log: Path) -> bytes:
    data = log.read_bytes()
    return gzip.decompress(data) if log.suffix == ".gz" else data


def _state(pid: int) -> str:
    """Return what a process does, as one letter. Source: proc(5), /proc/pid/stat, field 3."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@dataclass
class CowrieServer:
    """One Cowrie; a context manager.

    Args:
        hosts: name or address as an attacker writes it -> the loopback address where Cowrie finds it.
        sensor: what the log calls this honeypot.
        start_timeout_s: how long to wait for both ports; the first start makes host keys.
        day_s: after so many seconds its log is rotated as it is else at midnight; 0: at midnight.
    """

    hosts: Mapping[str, str] = field(default_factory=dict)
    sensor: str = DEFAULT_SENSOR
    start_timeout_s: float = 60.0
    day_s: int = 0
    ssh_port: int = field(init=False, default=0)
    telnet_port: int = field(init=False, default=0)
    home: Path = field(init=False)
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    @property
    def log(self) -> Path:
        """The JSON log."""
        return self.home / "var/log/cowrie/cowrie.json"

    @property
    def logs(self) -> list[Path]:
        """The JSON log and what was rotated away, oldest first where days were."""
        return [*sorted(self.log.parent.glob("cowrie.json[.-]*")), self.log]

    @property
    def downloads(self) -> Path:
        """The folder of captured files."""
        return self.home / "var/lib/cowrie/downloads"

    @property
    def console(self) -> str:
        """The end of what Cowrie said about itself."""
        path = self.home / "console.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""

    def lines(self) -> list[bytes]:
        """Return every line logged so far with its end; an unfinished last line is left out.

        Logs may be rotated meanwhile. Where one was truncated under Cowrie, NUL bytes are before its first line.
        """
        while True:
            try:
                contents = [_content(log) for log in self.logs if log.exists()]
            except FileNotFoundError:
                continue
            lines = [line for content in contents for line in content.lstrip(b"\0").splitlines(keepends=True)]
            return [line for line in lines if line.endswith(b"\n")]

    def events(self) -> list[dict[str, object]]:
        """Return every event logged so far."""
        return [json.loads(line) for line in self.lines()]

    def __enter__(self) -> CowrieServer:
        """Start Cowrie and wait until both its ports accept.

        Raises:
            CowrieNotInstalledError: there is none.
            CowrieFailedError: it did not come up.
        """
        python = installed_python()
        self.home = Path(tempfile.mkdtemp(prefix="cowrieprocessor-e2e-", dir="/var/tmp"))
        try:
            self.ssh_port, self.telnet_port = free_ports()
            self._lay_out()
            self._start(python)
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop Cowrie and remove its folder, whatever happened."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def stop(self, timeout_s: float = 20.0) -> None:
        """Stop Cowrie, by its process id, and wait: open sessions are closed in the log first."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let Cowrie stand still meanwhile: it writes its lines whole, so none is half there."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            while _state(self._process.pid) != "T":
                time.sleep(0.001)
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def restart_with_new_log(self) -> None:
        """Stop Cowrie, put its log aside as `cowrie.json.1`, as logrotate does, and start it again."""
        self.stop()
        self.log.rename(self.log.with_name("cowrie.json.1"))
        self._start(installed_python())
        self._wait_until_ready()

    def wait_for_sessions_to_close(self, timeout_s: float = 30.0) -> None:
        """Wait until every session in the log has its `cowrie.session.closed`.

        Raises:
            CowrieFailedError: some are still open after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            events = self.events()
            opened = {event["session"] for event in events if event["eventid"] == "cowrie.session.connect"}
            closed = {event["session"] for event in events if event["eventid"] == "cowrie.session.closed"}
            if opened <= closed:
                return
            if time.monotonic() > deadline:
                raise CowrieFailedError(
                    f"sessions still open after {timeout_s:g} s: {sorted(map(str, opened - closed))}"
                )
            time.sleep(0.1)

    def _lay_out(self) -> None:
        for folder in ("etc", "var/log/cowrie", "var/lib/cowrie/downloads", "var/lib/cowrie/tty", "var/run"):
            (self.home / folder).mkdir(parents=True)
        (self.home / "etc/cowrie.cfg").write_text(
            CONFIG.format(sensor=self.sensor, ssh_port=self.ssh_port, telnet_port=self.telnet_port)
        )
        accepted = [f"root:x:{password}" for password in PASSWORDS]
        # One rule that lets any bytes in, so that hostile passwords can be seen to succeed as well as fail.
        (self.home / "etc/userdb.txt").write_text(
            "\n".join([*accepted, "admin:x:admin", "ubuntu:x:ubuntu", "*:x:/hostile/"])
        )
        (self.home / "var/lib/cowrie/uuid").write_text(SENSOR_UUID + "\n")
        shutil.copyfile(LAUNCHER, self.home / "launcher.py")
        user = _unprivileged_user()
        if user is not None:
            for path in [self.home, *self.home.rglob("*")]:
                os.chown(path, user.pw_uid, user.pw_gid)

    def _start(self, python: Path) -> None:
        user = _unprivileged_user()
        environment = {
            "PATH": f"{python.parent}:/usr/bin:/bin",
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "COWRIEPROC_E2E_HOSTS": json.dumps(dict(self.hosts)),
            "COWRIEPROC_E2E_DAY_S": str(self.day_s),
        }
        with (self.home / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                [str(python), "launcher.py"],
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        for port in (self.ssh_port, self.telnet_port):
            while not self._listens(port):
                if self._process is None or self._process.poll() is not None:
                    raise CowrieFailedError(f"Cowrie ended while starting:\n{self.console}")
                if time.monotonic() > deadline:
                    raise CowrieFailedError(f"no port {port} after {self.start_timeout_s:g} s:\n{self.console}")
                time.sleep(0.05)

    @staticmethod
    def _listens(port: int) -> bool:
        """Look in the kernel's table: a connection made to find out would be an event in the log."""
        wanted = f"0100007F:{port:04X}"
        rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return any(row[1] == wanted and row[3] == "0A" for row in rows)
