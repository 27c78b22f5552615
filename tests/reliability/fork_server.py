"""Processes of the program that begin at once: a server has imported everything and forks for each.

    python -m tests.reliability.fork_server SOCKET

Each connection to the socket starts one process: a JSON line with its arguments, folder, environment and the name of a
mistake of `tests.rotation.sabotage` that it is to make, if any, with the descriptors of its open standard streams. The
answers are the number of the process, and after its end its exit code, or minus the signal that ended it.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
UNEXPECTED = 70
"""The exit code of a command that ended with an exception, as a process of its own would with a traceback."""

STREAMS = 3
_MAX_REQUEST_BYTES = 1 << 20


class Fork:
    """A process of the program.

    Attributes:
        pid: its number.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._answers = connection.makefile("r")
        connection.close()
        self.pid = int(self._answers.readline() or _fail())

    def wait(self) -> int:
        """Wait for its end; return its exit code, or minus the signal that ended it."""
        with self._answers:
            return int(self._answers.readline() or _fail())


def _fail() -> int:
    raise RuntimeError("the fork server has died")


class ForkServer:
    """Forks processes that have imported everything; it ends with this process."""

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="forks")
        self._address = f"{self._folder}/socket"
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.fork_server", self._address], cwd=PROJECT
        )
        atexit.register(self.close)

    def start(
        self,
        arguments: Sequence[str],
        streams: Sequence[int | None],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        sabotage: str | None = None,
    ) -> Fork:
        """Start `cowrieprocessor`.

        Args:
            arguments: its words.
            streams: the descriptors of its standard input, output and error; None for one that is closed.
            cwd: its folder; by default ours.
            env: all variables of its environment; by default ours.
            sabotage: the name of a mistake that it is to make.
        """
        request = {
            "argv": list(arguments),
            "cwd": os.fspath(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "sabotage": sabotage,
            "open": [number for number, stream in enumerate(streams) if stream is not None],
        }
        connection = self._connect()
        descriptors = [stream for stream in streams if stream is not None]
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], descriptors)
        return Fork(connection)

    def close(self) -> None:
        """End the server."""
        self._server.terminate()
        self._server.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _connect(self) -> socket.socket:
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._address)
            except OSError:
                connection.close()
                if self._server.poll() is not None:
                    raise RuntimeError("the fork server has not begun") from None
                time.sleep(0.05)
            else:
                return connection


@functools.cache
def fork_server() -> ForkServer:
    """Return the server of this process, which is started by the first call."""
    return ForkServer()


def _serve(address: str) -> None:
    """Fork a process for each connection that waits for a command, so that no command waits for another."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(f"{address}.new")
        listener.listen(64)
        Path(f"{address}.new").rename(address)
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                with contextlib.suppress(BrokenPipeError):
                    _handle(connection)
                os._exit(0)
            connection.close()


def _handle(connection: socket.socket) -> None:
    """Start the command that a connection asks for, and answer with its number and its end."""
    text, descriptors, _, _ = socket.recv_fds(connection, _MAX_REQUEST_BYTES, STREAMS)
    while not text.endswith(b"\n"):
        text += connection.recv(_MAX_REQUEST_BYTES)
    request = json.loads(text)
    if request["sabotage"]:
        import tests.rotation.sabotage  # noqa: F401 - so that each process need not
    pid = os.fork()
    if not pid:
        connection.close()
        _run(request, descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(b"%d\n" % pid)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def _run(request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
    """Run a command in this process, and end it."""
    _set_streams(dict(zip(request["open"], descriptors, strict=True)), request["env"].get("PYTHONIOENCODING"))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = UNEXPECTED
    try:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["cowrieprocessor", *request["argv"]]
        if request["sabotage"]:
            _sabotage(request["sabotage"])
        code = _main()
    except BaseException:  # noqa: BLE001 - what a process of its own would print
        traceback.print_exc()
    finally:
        os._exit(_flushed(code))


def _set_streams(descriptors: Mapping[int, int], encoding: str | None) -> None:
    """Set up the standard streams as Python does at its start: a closed one is None."""
    moved = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD, STREAMS) for number, descriptor in descriptors.items()}
    for descriptor in descriptors.values():
        os.close(descriptor)
    for number in range(STREAMS):
        os.close(number)
    for number, descriptor in moved.items():
        os.dup2(descriptor, number)
        os.close(descriptor)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = open(number, mode, encoding=encoding or "utf-8", errors=errors) if number in moved else None  # noqa: SIM115,PTH123
        if stream is not None:
            stream.reconfigure(line_buffering=name == "stderr")
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _flushed(code: int) -> int:
    """Flush the standard streams as Python does at its end; return the exit code, which is 120 if that fails."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            return 120 if code == 0 else code
    return code


def _main() -> int:
    from cowrieprocessor.cli.main import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _import_everything() -> None:
    """Import what the commands import, so that they need not."""
    import psycopg
    import watchfiles
    from sqlalchemy.orm import configure_mappers

    import cowrieprocessor
    from cowrieprocessor.db.engine import get_engine

    for module in pkgutil.walk_packages(cowrieprocessor.__path__, "cowrieprocessor."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    get_engine("sqlite://").dispose()
    configure_mappers()
    assert all((psycopg, watchfiles))
    gc.collect()
    gc.freeze()


def _sabotage(name: str) -> None:
    import pytest

    from tests.rotation import sabotage

    getattr(sabotage, name)(pytest.MonkeyPatch())


CAPTURED, NOTHING, CLOSED, UNREAD = "captured", "nothing", "closed", "unread"
"""What a standard stream of a command can be: a file, /dev/null, closed, or a pipe whose reader has gone."""


def run_forked(
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = NOTHING,
    stdout: str = CAPTURED,
    stderr: str = CAPTURED,
) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end, without a terminal.

    Args:
        arguments: its words.
        cwd: its folder; by default ours.
        env: all variables of its environment; by default ours.
        stdin: nothing or closed.
        stdout: captured, nothing, closed or unread.
        stderr: the same.
    """
    with ExitStack() as stack:
        paths = [Path(stack.enter_context(tempfile.TemporaryDirectory())) / name for name in ("in", "out", "err")]
        streams = [_opened(stack, kind, path) for kind, path in zip((stdin, stdout, stderr), paths, strict=True)]
        code = fork_server().start(arguments, streams, cwd=cwd, env=env).wait()
        output = (path.read_bytes() if path.exists() else b"" for path in paths[1:])
        return subprocess.CompletedProcess(list(arguments), code, *output)


def _opened(stack: ExitStack, kind: str, path: Path) -> int | None:
    """Return the descriptor of a stream, which is closed with the stack."""
    if kind == CLOSED:
        return None
    if kind == UNREAD:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(path if kind == CAPTURED else os.devnull, os.O_RDWR | os.O_CREAT, 0o600)
    stack.callback(os.close, writer)
    return writer


if __name__ == "__main__":
    _import_everything()
    _serve(sys.argv[1])
