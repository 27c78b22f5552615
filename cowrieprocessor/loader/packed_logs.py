"""Files that hold logs, for the drivers: every log in them is loaded like a file of its own."""

from __future__ import annotations

import time
from collections.abc import Callable

from cowrieprocessor.errors import HoldsFiles, InputError
from cowrieprocessor.loader.log_loading import FAILED, FileResult, LoadedLog, LogLoading
from cowrieprocessor.loader.reading.log_stream import LogStream
from cowrieprocessor.loader.writer import LogMoved
from cowrieprocessor.sanitize import inert

_YIELD_S = 0.05


def load_members(
    stream: LogStream,
    holds: HoldsFiles,
    loading: LogLoading,
    finish: Callable[[LoadedLog, FileResult], None],
    members: list[FileResult],
) -> None:
    """Store what is new in every log of a file; a log that cannot be read does not stop the others.

    Args:
        stream: the file.
        holds: what its reading raised.
        loading: loads one log.
        finish: called with what was loaded of each log; adds the notes.
        members: receives the result of each log, under the name `archive!member`.

    Raises:
        InputError: the file itself cannot be read, or holds no logs; what came before is loaded.
        ReadingStopped: the loader was asked to stop.
        DatabaseError: the database refused.
    """
    from cowrieprocessor.loader.reading.archives.members import each_log  # few loads need it

    def load(log: LogStream) -> None:
        result = FileResult(inert(str(log.path)))
        try:
            finish(_load(log, loading, result), result)
        except HoldsFiles:
            raise
        except InputError as error:
            result.state, result.error = FAILED, str(error)
        members.append(result)

    each_log(stream, holds, load)


def _load(log: LogStream, loading: LogLoading, result: FileResult) -> LoadedLog:
    while True:
        try:
            return loading.load(log, result)
        except LogMoved:
            time.sleep(_YIELD_S)  # another loader is storing it, too, which comes to an end
            log.rewind()
