"""Parsing on a second core: a child process reads a log ahead of the writer and sends finished batches.

`python -m cowrieprocessor.loader.rows.parser_process` reads a job as one line of JSON from standard input. It writes
each batch to standard output as an eight-byte length and a marshalled dictionary: plain data, in the format of the
interpreter that runs both processes, several times as fast as JSON. It never opens a database, and ends when its
reader closes the pipe.
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
from typing import IO, TYPE_CHECKING, Any

import orjson

from cowrieprocessor.child_process import module_command, module_environment
from cowrieprocessor.errors import ArchiveCut, InputError
from cowrieprocessor.loader.logs.checkpoint import Checkpoint
from cowrieprocessor.loader.reading.log_reader import LogReader, reader_of
from cowrieprocessor.loader.reading.log_stream import LogStream, ReadingStopped
from cowrieprocessor.loader.reading.read_sizes import ReadSizes
from cowrieprocessor.loader.rows.batch import BatchRows
from cowrieprocessor.loader.rows.batching import BatchConfig, LogEnd, prepare_batches
from cowrieprocessor.loader.rows.gc_tuning import rare_collections
from cowrieprocessor.sanitize import inert

if TYPE_CHECKING:  # the parser process needs no settings
    from cowrieprocessor.settings import Settings

_LENGTH_BYTES = 8
_PIPE_BYTES = 1 << 20
"""Size of the pipe between the two processes; Linux allows this much to users with few pipes."""

_STOP_CHECK_S = 0.2
_OUT_OF_MEMORY = errno.ENOMEM


class ParserProcessDied(Exception):
    """The parser process could not be started, or ended without a `LogEnd`: killed, or out of memory.

    Nothing that was stored is lost; the writer's process can read the rest of the log itself.
    """


def is_worthwhile(stream: LogStream, cursor: Checkpoint) -> bool:
    """Return whether enough of a log is left to parse it on a second core, and there is one."""
    expansion = 8 if stream.is_complete else 1
    if cursor.lookup is not None or stream.bytes_left * expansion < stream.sizes.other_core_bytes:
        return False
    return (os.cpu_count() or 1) > 1


def batches_from_process(
    stream: LogStream, cursor: Checkpoint, reader: LogReader, config: BatchConfig, settings: Settings
) -> Iterator[BatchRows | LogEnd]:
    """Yield the same as `prepare_batches`, made by a child process that works ahead of the writer.

    The child inherits the stream's descriptor, so it reads the same file even if that was renamed or replaced.

    Raises:
        ParserProcessDied: it could not be started, or was killed.
        ReadingStopped: the stream's `stop` returned True.
    """
    job = {
        "path": inert(str(stream.path)),
        "descriptor": stream.descriptor,
        "cursor": _fields_of(cursor) | {"lookup": None},
        "position": reader.position,
        "line": reader.line,
        "config": _fields_of(config),
        "max_value_bytes": settings.max_value_bytes,
        "max_ratio": stream.max_ratio,
        "grace_bytes": stream.grace_bytes,
        "head_digest": stream.head_digest,
        "is_closed": stream.is_closed,
        "sizes": _fields_of(stream.sizes),
    }
    with _started(stream, job) as child:
        assert child.stdout is not None  # noqa: S101
        with ThreadPoolExecutor(1) as read_ahead:  # reads a batch from the pipe while the previous one is written
            try:
                next_document = _first_read(read_ahead, child.stdout, job)
                while True:
                    data = _wait_for(next_document, stream)
                    if data is None:
                        raise _died(job, _why_ended(child.wait()))
                    document = marshal.loads(data)  # noqa: S302 - our own process wrote it
                    del data
                    if "pending_bytes" in document:
                        yield LogEnd(**document)
                        return
                    next_document = read_ahead.submit(_read, child.stdout)
                    rows = BatchRows(**document)
                    del document  # so that one batch is in memory, not two
                    yield rows
                    del rows
            finally:
                child.kill()  # so that the thread reaches the end of the pipe


def _fields_of(record: Checkpoint | BatchConfig | BatchRows | LogEnd | ReadSizes) -> dict[str, Any]:
    """Return the fields of a dataclass by name, without copying their values."""
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _started(stream: LogStream, job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    """Start the child, send it the job, and return it."""
    request = orjson.dumps(job) + b"\n"
    try:
        child = subprocess.Popen(  # noqa: S603 - our own module
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
    with contextlib.suppress(OSError):  # refused to users with many pipes; a smaller pipe works as well
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        child.stdin.write(request)
        child.stdin.close()
    except OSError as error:
        child.kill()
        with contextlib.suppress(OSError), child:
            pass
        raise _died(job, _why_ended(child.wait())) from error
    return child


def _first_read(read_ahead: ThreadPoolExecutor, pipe: IO[bytes], job: Mapping[str, Any]) -> Future[bytes | None]:
    """Start reading the first document.

    Raises:
        ParserProcessDied: the system allows no further thread.
    """
    try:
        return read_ahead.submit(_read, pipe)
    except (RuntimeError, MemoryError) as error:  # what Python raises if a thread cannot be started
        raise _died(job, f"could not be listened to ({_reason(error)})") from error


def _wait_for(next_document: Future[bytes | None], stream: LogStream) -> bytes | None:
    """Wait for the next document and return it.

    Raises:
        ReadingStopped: the stream's `stop` returned True.
    """
    while True:
        try:
            return next_document.result(timeout=_STOP_CHECK_S)
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
    """Return the next document, still marshalled; None at the end of the pipe."""
    head = pipe.read(_LENGTH_BYTES)
    if len(head) < _LENGTH_BYTES:
        return None
    size = int.from_bytes(head)
    data = pipe.read(size)
    return data if len(data) == size else None


def _is_at_cursor(cursor: dict[str, Any], position: int, before: bytes) -> bool:
    """Return whether the bytes before the position at which reading resumes match the hash in the checkpoint."""
    if position != cursor["byte_pos"] or cursor["tail_hash"] is None:
        return True
    return sha256(before).hexdigest() == str(cursor["tail_hash"])


def _write(pipe: IO[bytes], document: BatchRows | LogEnd) -> None:
    data = marshal.dumps(_fields_of(document))
    pipe.write(len(data).to_bytes(_LENGTH_BYTES))
    pipe.write(data)
    pipe.flush()


def main() -> None:
    """Parse the log described by the job on standard input."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the writer handles them, and kills this process
        signal.signal(number, signal.SIG_IGN)
    job = orjson.loads(sys.stdin.buffer.readline())
    out = sys.stdout.buffer
    try:
        _parse(job, out)
    except InputError as error:  # before the first value; later ones are in the `LogEnd` of `prepare_batches`
        _write(out, LogEnd(0, job["line"], str(error), isinstance(error, ArchiveCut)))


def _parse(job: Mapping[str, Any], out: IO[bytes]) -> None:
    """Write the batches of a log to a pipe."""
    stream = LogStream(
        Path(job["path"]),
        max_ratio=job["max_ratio"],
        grace_bytes=job["grace_bytes"],
        descriptor=job["descriptor"],
        sizes=ReadSizes(**job["sizes"]),
    )
    stream.is_closed = job["is_closed"]
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
        reader = reader_of(
            stream,
            job["cursor"]["wrapper"],
            position=position,
            line=job["line"],
            before=before,
            max_value_bytes=job["max_value_bytes"],
        )
        for item in prepare_batches(Checkpoint(**job["cursor"]), reader, stream, BatchConfig(**job["config"])):
            _write(out, item)
            del item  # so that while the next batch is made, this one is not in memory


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(1)  # the writer has ended, so there is no reader for an error
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)
