"""Attackers whose bytes do harm where they are read: in a terminal, a page, a spreadsheet, a database."""

from __future__ import annotations

from typing import Final

from tests.e2e.attacker_clients import ssh, telnet
from tests.e2e.scene import DOWNLOAD, UPLOAD, Behaviour, Scene

HOSTILE: Final = {
    "nul": b"a\x00b",
    "esc": b"\x1b[31mred\x1b[0m",
    "tab": b"a\tb",
    "crlf": b"a\r\nb",
    "bom": "\ufeffbom".encode(),
    "c1": "c1\u0085\u009b".encode(),
    "rtl": "txt.\u202egpj.exe".encode(),
    "astral": "\U0001f4a3bomb".encode(),
    "markup": b"<script>alert(1)</script>",
    "formula": b'=HYPERLINK("http://203.0.113.77/";"x")',
    "invalid": b"\xff\xfe\xc3(",
}


def hostile_ssh_login(text: bytes) -> Behaviour:
    """Return a behaviour: `text` as user name and password, refused, then accepted, over SSH."""

    async def attempt(scene: Scene) -> None:
        scene.attack.username, scene.attack.password = text, text + b"hostile"
        async with ssh(
            scene.cowrie.ssh_port,
            scene.attack.source,
            scene.software,
            username=text,
            passwords=[text, text + b"hostile"],
        ):
            pass

    return attempt


def hostile_telnet_login(text: bytes) -> Behaviour:
    """Return a behaviour: `text` as user name and password over telnet, refused."""

    async def attempt(scene: Scene) -> None:
        scene.attack.username, scene.attack.password = text, text
        async with telnet(scene.cowrie.telnet_port, scene.attack.source) as client:
            await client.type(text)
            await client.type(text)
            await client.finish()

    return attempt


async def hostile_commands(scene: Scene) -> None:
    """Each hostile text in a command."""
    async with scene.log_in() as connection:
        for text in HOSTILE.values():
            await scene.run(connection, b"echo '" + text + b"'")


async def hostile_file_names(scene: Scene) -> None:
    """Each hostile text as the name of a file: by SFTP where it is ASCII, as Cowrie wants, else by SCP."""
    async with scene.log_in() as connection:
        async with connection.start_sftp_client(path_encoding=None) as sftp:
            for key, text in HOSTILE.items():
                if text.isascii():
                    content = f"harmless sample named {key}\n".encode()
                    scene.attack.expect(UPLOAD, content)
                    async with sftp.open(b"/tmp/" + text.replace(b"/", b"_"), "wb") as file:
                        await file.write(content)
        for key, text in HOSTILE.items():
            if not text.isascii():
                content = f"harmless sample named {key}\n".encode()
                scene.attack.expect(UPLOAD, content)
                await scene.run(connection, b"scp -t .", b"C0644 %d %s\n%s\0" % (len(content), text, content))


async def hostile_redirects(scene: Scene) -> None:
    """Hostile texts as the names of files written by a redirect."""
    async with scene.log_in() as connection:
        for key in ("esc", "bom", "c1", "rtl", "astral", "markup", "invalid"):
            content = f"harmless sample redirected to {key}\n".encode()
            scene.attack.expect(DOWNLOAD, content)
            name = HOSTILE[key].replace(b"/", b"_")
            await scene.run(connection, b"echo " + content.strip() + b" > '/tmp/" + name + b"'")


async def hostile_variable(scene: Scene) -> None:
    """Hostile texts as environment variables."""
    async with scene.log_in() as connection:
        await scene.run(connection, b"id", env={key.encode(): text for key, text in HOSTILE.items()})


# A NUL or a line break would end the line that telnet sends.
LOGINS: Final[dict[str, Behaviour]] = {
    f"hostile_ssh_login:{key}": hostile_ssh_login(text) for key, text in HOSTILE.items()
} | {
    f"hostile_telnet_login:{key}": hostile_telnet_login(text)
    for key, text in HOSTILE.items()
    if not {0, 10, 13} & set(text)
}
