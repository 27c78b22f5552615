"""A guard against replacing the database file while a long-running process uses it.

A process that has a file open keeps writing to it after the file was deleted or replaced. Whatever it stores from then
on is lost when the last process closes the file.
"""

from __future__ import annotations

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.errors import JobTaken


class DatabaseFileGuard:
    """Remembers the database file that existed when the guard was made; a database on a server has none.

    Args:
        engine: the database; its file exists already.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._original_file: tuple[int, int] | None = None
        self._original_file = self._current_file()

    def require_same(self) -> None:
        """Check that the file was neither deleted nor replaced.

        Raises:
            JobTaken: it was; whatever is stored from now on would be lost.
        """
        current_file = self._current_file()
        if current_file == self._original_file:
            return
        what = "the file is gone" if current_file is None else "another file lies there"
        raise JobTaken(
            f"{self._engine.url.database}: the database is another one now ({what}); nothing more is stored. Start the "
            "same command again: it stores what is missing there"
        )

    def _current_file(self) -> tuple[int, int] | None:
        """Return device and inode of the database's path; None if nothing is there, or the database is on a server."""
        files = dialect_of(self._engine).files
        path = None if files is None else files.path_of(self._engine.url)
        if path is None:
            return None
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return self._original_file  # unknown: the next attempt to open the file reports the error
        return status.st_dev, status.st_ino
