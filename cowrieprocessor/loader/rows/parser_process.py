"""The other core parses: a child process reads a log ahead of the writer and hands over finished batches.

`python -m cowrieprocessor.loader.rows.parser_process` takes one line of JSON on standard input, and writes on standard
output each batch as eight bytes of length and a marshalled dictionary: plain data, in the format of the interpreter
that runs both, several times as quick as JSON. It never opens a database. When its reader goes away it ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import orjson

from cowrieprocessor.child_process import module_command, module_environment
from cowrieprocessor.errors import ArchiveCut, InputError
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.reading.value_reader import ValueReader
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.rows.batching import BatchConfig, LogEnd, prepare_batches
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.sanitize import inert
from cowrieprocessor.settings import Settings

WORTHWHILE_BYTES = 16 << 20
"""A log with less than this to read is parsed in the writer's process: starting another takes longer."""

_LENGTH_BYTES = 8
_PIPE_BYTES = 1 << 20
"""How far the two may be apart within a batch; Linux grants so much to everyone who has not many pipes."""

_ASK_EVERY_S = 0.2
_OUT_OF_MEMORY = errno.ENOMEM


class ParserProcessDied(Exception):
    """The process that parses could not be started, or ended without a word: killed, or out of memory.

    Nothing that was stored is lost, and whoever reads the log by itself can go on.
    """


def is_worthwhile(stream: LogStream, cursor: Checkpoint) -> bool:
    """Return whether a log has enough left to be parsed on another core, where there is one."""
    if cursor.lookup is not None or stream.bytes_left * (8 if stream.is_complete else 1) < WORTHWHILE_BYTES:
        return False
    return (os.cpu_count() or 1) > 1


def batches_from_process(
    stream: LogStream, cursor: Checkpoint, reader: ValueReader, recipe: BatchConfig, settings: Settings
) -> Iterator[BatchRows | LogEnd]:
    """Yield what `prepare_batches` would, made by a child process that works ahead.

    The child reads the file that is open here, also if it was renamed or replaced meanwhile.

    Raises:
        ParserProcessDied: it could not be started, or was killed.
        ReadingStopped: the stream's `stop` says so.
    """
    job = {
        "path": inert(str(stream.path)),
        "descriptor": stream.descriptor,
        "cursor": {one.name: getattr(cursor, one.name) for one in dataclasses.fields(cursor)} | {"lookup": None},
        "position": reader.position,
        "line": reader.line,
        "recipe": dataclasses.asdict(recipe),
        "max_value_bytes": settings.max_value_bytes,
        "max_ratio": settings.max_ratio,
        "grace_bytes": settings.max_ratio_grace_bytes,
        "head_digest": stream.head_digest,
    }
    with _started(stream, job) as child:
        assert child.stdout is not None  # noqa: S101
        with ThreadPoolExecutor(1) as ahead:  # it takes a batch from the pipe while the one before it is written
            try:
                following = _submitted(ahead, child.stdout, job)
                while True:
                    data = _awaited(following, stream)
                    if data is None:
                        raise _died(job, _why_ended(child.wait()))
                    document = marshal.loads(data)  # noqa: S302 - our own process wrote it
                    del data
                    if "pending_bytes" in document:
                        yield LogEnd(**document)
                        return
                    following = ahead.submit(_read, child.stdout)
                    rows = BatchRows(**document)
                    del document  # so that one batch is in memory, not two
                    yield rows
                    del rows
            finally:
                child.kill()  # so that the thread finds the end of the pipe


def _started(stream: LogStream, job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Return the child, which has been told its job."""
    told = orjson.dumps(job) + b"\n"
    try:
        child = subprocess.Popen(  # noqa: S603 - ourselves
            module_command("loader.rows.parser_process"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[stream.descriptor],
            env=module_environment(),
        )
    except (OSError, MemoryError) as error:
        raise _died(job, f"could not be started ({_reason(error)})") from error
    assert child.stdin is not None  # noqa: S101
    assert child.stdout is not None  # noqa: S101
    with contextlib.suppress(OSError):  # whoever has many pipes may be refused; a smaller one does, too
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        child.stdin.write(told)
        child.stdin.close()
    except OSError as error:
        child.kill()
        with contextlib.suppress(OSError), child:
            pass
        raise _died(job, _why_ended(child.wait())) from error
    return child


def _submitted(ahead: ThreadPoolExecutor, pipe: IO[bytes], job: Mapping[str, Any]) -> Future[bytes | None]:
    """Return what will be the first document."""
    try:
        return ahead.submit(_read, pipe)
    except (RuntimeError, MemoryError) as error:  # Python says so where the system grants no more threads
        raise _died(job, f"could not be listened to ({_reason(error)})") from error


def _awaited(following: Future[bytes | None], stream: LogStream) -> bytes | None:
    """Return the next document when it has come, unless the stream is asked to stop meanwhile."""
    while True:
        try:
            return following.result(timeout=_ASK_EVERY_S)
        except TimeoutError:
            if stream.stop():
                raise ReadingStopped from None


def _died(job: Mapping[str, Any], what: str) -> ParserProcessDied:
    return ParserProcessDied(
        f"{job['path']}: the process that parses logs {what}; the load goes on without it, which is slower. "
        "Nothing is lost; if this comes again, give it more memory"
    )


def _why_ended(code: int) -> str:
    if code == -signal.SIGKILL:
        return "was killed, most likely because memory ran out"
    return "ran out of memory" if code == _OUT_OF_MEMORY else f"ended early (exit code {code})"


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or "out of memory"


def _read(pipe: IO[bytes]) -> bytes | None:
    """Return the next document as it was written, None where the other side is gone."""
    head = pipe.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    size = int.from_bytes(head)
    data = pipe.read(size)
    return data if len(data) == size else None


def _is_at_cursor(cursor: dict[str, Any], position: int, before: bytes) -> bool:
    """Return whether the bytes before the place where reading goes on are still the ones that were stored."""
    if position != cursor["byte_pos"] or cursor["tail_hash"] is None or cursor["other_form"]:
        return True
    return sha256(before).hexdigest() == str(cursor["tail_hash"])


def _write(pipe: IO[bytes], document: BatchRows | LogEnd) -> None:
    data = marshal.dumps({one.name: getattr(document, one.name) for one in dataclasses.fields(document)})
    pipe.write(len(data).to_bytes(_LENGTH_BYTES))
    pipe.write(data)
    pipe.flush()


def main() -> None:
    """Parse the log that standard input describes."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they are the writer's to answer: it ends us
        signal.signal(number, signal.SIG_IGN)
    job = orjson.loads(sys.stdin.buffer.readline())
    out = sys.stdout.buffer
    try:
        _parse(job, out)
    except InputError as error:  # before the first value: from there on, what is prepared says so
        _write(out, LogEnd(0, job["line"], str(error), isinstance(error, ArchiveCut)))


def _parse(job: Mapping[str, Any], out: IO[bytes]) -> None:
    """Write the batches of a log."""
    stream = LogStream(
        Path(job["path"]),
        max_ratio=job["max_ratio"],
        grace_bytes=job["grace_bytes"],
        descriptor=job["descriptor"],
    )
    with stream, rare_collections():
        position = job["position"]
        before = b""
        if position:
            overlap = min(position, job["cursor"]["tail_bytes"])
            stream.skip(position - overlap)
            before = stream.read_exactly(overlap)
        if not stream.begins_like(job["head_digest"]) or not _is_at_cursor(job["cursor"], position, before):
            _write(out, LogEnd(0, job["line"], is_stale=True))
            return
        reader = ValueReader(
            stream, position=position, line=job["line"], before=before, max_value_bytes=job["max_value_bytes"]
        )
        for item in prepare_batches(Checkpoint(**job["cursor"]), reader, stream, BatchConfig(**job["recipe"])):
            _write(out, item)
            del item  # so that one batch is in memory while the next is made, not two


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # the writer is gone, and with it whoever would read an error
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
