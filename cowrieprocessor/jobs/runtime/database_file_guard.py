"""The file of a database while a process works on it for long: another one under its name is another database.

Whoever has a file open goes on writing to it after it was deleted, or another one was put into its place: what is
stored from then on would be gone with the last one who has it open.
"""

from __future__ import annotations

from sqlalchemy import Engine

from cowrieprocessor.db.dialects import dialect_of
from cowrieprocessor.errors import JobTaken


class DatabaseFileGuard:
    """The file that a database was in when this was made; where a server keeps it there is none.

    Args:
        engine: the database; its file is there already.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._began_with: tuple[int, int] | None = None
        self._began_with = self._file_now()

    def require_same(self) -> None:
        """Refuse to go on where the file was deleted, or another one was put into its place.

        Raises:
            JobTaken: it was; nothing that is stored from now on would be found by anybody.
        """
        now = self._file_now()
        if now == self._began_with:
            return
        what = "the file is gone" if now is None else "another file lies there"
        raise JobTaken(
            f"{self._engine.url.database}: the database is another one now ({what}); nothing more is stored. Start the "
            "same command again: it stores what is missing there"
        )

    def _file_now(self) -> tuple[int, int] | None:
        """Return device and inode of what has the database's name; None where nothing has, or a server keeps it."""
        files = dialect_of(self._engine).files
        path = None if files is None else files.path_of(self._engine.url)
        if path is None:
            return None
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return self._began_with  # nobody can tell: what opens it next will say why
        return status.st_dev, status.st_ino
