"""How attackers reach Cowrie: by asyncssh, or telnet over a plain socket, from any address they choose."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncssh

# RFC 5737 and RFC 3849: addresses that are nobody's.
HONEYPOT_IPV4: Final = "192.0.2.10"
HONEYPOT_IPV6: Final = "2001:db8:10::10"

IAC, WILL, SB, SE, NEW_ENVIRON, NAWS = 255, 251, 250, 240, 39, 31
NEGOTIATION: Final = re.compile(rb"\xff[\xfb-\xfe].|\xff\xfa.*?\xff\xf0", re.DOTALL)


@dataclass(frozen=True)
class Source:
    """Where an attacker comes from: what Cowrie logs as `src_ip` and `src_port`."""

    ip: str
    port: int

    def proxy_header(self, dst_port: int) -> bytes:
        """Return the PROXY protocol line (version 1) that tells Cowrie so."""
        if ipaddress.ip_address(self.ip).version == 6:
            return f"PROXY TCP6 {self.ip} {HONEYPOT_IPV6} {self.port} {dst_port}\r\n".encode()
        return f"PROXY TCP4 {self.ip} {HONEYPOT_IPV4} {self.port} {dst_port}\r\n".encode()


def connect(source: Source, port: int, dst_port: int) -> socket.socket:
    """Return a connection to Cowrie's loopback `port` that seems to come from `source` to `dst_port`."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(source.proxy_header(dst_port))
    connection.setblocking(False)
    return connection


@dataclass(frozen=True)
class SshSoftware:
    """A kind of SSH client: what it calls itself and what it offers, which decides its hassh."""

    version: str
    kex: tuple[str, ...]
    encryption: tuple[str, ...]
    mac: tuple[str, ...]


SSH_SOFTWARE: Final = (
    SshSoftware("Go", ("curve25519-sha256", "ecdh-sha2-nistp256"), ("aes128-ctr", "aes256-ctr"), ("hmac-sha2-256",)),
    SshSoftware("libssh_0.9.6", ("ecdh-sha2-nistp256",), ("aes256-ctr",), ("hmac-sha2-256", "hmac-sha2-512")),
    SshSoftware("libssh2_1.8.0", ("ecdh-sha2-nistp384",), ("aes128-ctr",), ("hmac-sha2-512",)),
    SshSoftware("PuTTY_Release_0.74", ("ecdh-sha2-nistp521",), ("aes192-ctr", "aes128-ctr"), ("hmac-sha2-256",)),
)


class _Guesser(asyncssh.SSHClient):
    """Offers one password after the other, as bytes, and can send a user name that is not text."""

    def __init__(self, username: bytes, passwords: Sequence[bytes]) -> None:
        self.username = username
        self.passwords = list(passwords)

    def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
        # asyncssh prepares names as RFC 4013 wants, which refuses what attackers send; nothing public helps.
        conn._username = self.username  # type: ignore[assignment]

    def password_auth_requested(self) -> Any:
        return self.passwords.pop(0) if self.passwords else None


@contextlib.asynccontextmanager
async def ssh(
    port: int,
    source: Source,
    software: SshSoftware,
    *,
    username: bytes = b"root",
    passwords: Sequence[bytes] = (b"password",),
    client_keys: Sequence[asyncssh.SSHKey] = (),
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Log in to Cowrie.

    Raises:
        asyncssh.PermissionDenied: no password was accepted.
    """
    connection = await asyncssh.connect(
        sock=connect(source, port, 22),
        client_factory=lambda: _Guesser(username, passwords),
        config=[],
        known_hosts=None,
        agent_path=None,
        client_keys=list(client_keys) or None,
        username="root",
        preferred_auth="publickey,password" if client_keys else "password",
        client_version=software.version,
        kex_algs=software.kex,
        encryption_algs=software.encryption,
        mac_algs=software.mac,
        compression_algs=("none",),
        login_timeout=20,
    )
    async with connection:
        yield connection


async def ssh_shell(connection: asyncssh.SSHClientConnection, lines: Sequence[bytes], size: tuple[int, int]) -> None:
    """Type `lines` into an interactive shell, each after the prompt, and leave."""
    process = await connection.create_process(
        term_type="xterm", term_size=size, env={"LANG": "en_US.UTF-8"}, encoding=None
    )
    async with process:
        for line in [*lines, b"exit"]:
            await _until_prompt(process.stdout)
            process.stdin.write(line + b"\n")
        with contextlib.suppress(asyncssh.Error, asyncio.TimeoutError):
            await asyncio.wait_for(process.wait_closed(), 10)


async def _until_prompt(stream: Any, timeout_s: float = 10) -> bytes:
    """Read until a shell's or telnet's prompt, or the end."""
    seen = b""
    while not NEGOTIATION.sub(b"", seen).rstrip().endswith((b"#", b"$", b"login:", b"Password:")):
        chunk = await asyncio.wait_for(stream.read(4096), timeout_s)
        if not chunk:
            break
        seen += chunk
    return seen


@dataclass
class Telnet:
    """A telnet client as bots write it: it types and reads, and answers no negotiation."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def type(self, line: bytes) -> None:
        """Wait for a prompt, then send one line."""
        await _until_prompt(self.reader)
        self.writer.write(line.replace(b"\xff", b"\xff\xff") + b"\r\n")
        await self.writer.drain()

    async def finish(self) -> bytes:
        """Wait for the next prompt, so that the last line has been dealt with."""
        return await _until_prompt(self.reader)

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are: negotiation, or nonsense."""
        self.writer.write(data)

    async def close(self) -> None:
        """Hang up."""
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def telnet(port: int, source: Source, dst_port: int = 23) -> AsyncIterator[Telnet]:
    """Connect to Cowrie's telnet port (or, with its `port` and 22, to SSH as somebody who speaks no SSH)."""
    reader, writer = await asyncio.open_connection(sock=connect(source, port, dst_port))
    client = Telnet(reader, writer)
    try:
        yield client
    finally:
        await client.close()


def new_environ(name: bytes, value: bytes) -> bytes:
    """Return the telnet sub-negotiation that sets one environment variable (RFC 1572)."""
    return bytes([IAC, WILL, NEW_ENVIRON, IAC, SB, NEW_ENVIRON, 0, 0]) + name + b"\x01" + value + bytes([IAC, SE])


def window_size(width: int, height: int) -> bytes:
    """Return the telnet sub-negotiation that tells the size of the window (RFC 1073)."""
    size = width.to_bytes(2, "big") + height.to_bytes(2, "big")
    return bytes([IAC, WILL, NAWS, IAC, SB, NAWS]) + size + bytes([IAC, SE])
