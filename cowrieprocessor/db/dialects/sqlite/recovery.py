"""Recovery of a database whose writer was killed in the middle of a transaction, in rollback-journal mode.

The journal that such a writer leaves is hot: it holds the pages as they were before the transaction, and nothing may be
read before they are back in the file. SQLite puts them back when the file is opened for writing, without a word. Here
that happens before every connection, those for reading included, and is said.

Source: sqlite.org/lockingv3.html, "Dealing with hot journals"; sqlite.org/rescode.html, SQLITE_READONLY_ROLLBACK.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from pathlib import Path
from types import ModuleType
from typing import Any

from cowrieprocessor.db.dialects.sqlite.files import journal_of, primary_code, uri
from cowrieprocessor.errors import DatabaseReadOnly

logger = logging.getLogger(__name__)
"""Tells of each recovery, as a warning; the command line prints it as a note on standard error."""

BUSY_S = 10.0
"""SQLite's busy timeout while another process recovers the same file."""


REMEDY = "run this as a user who may write the file, its journal and its folder"


def recover(path: Path, driver: ModuleType) -> None:
    """Roll back what a killed writer left unfinished; committed rows are not affected.

    Any program that opens the file for writing does the same. The journal of a writer that is running is not touched.

    Args:
        path: the database file, resolved.
        driver: the library that this process uses for the file.

    Raises:
        DatabaseReadOnly: this user may not do it, or may not read the journal; the message says why.
    """
    journal = journal_of(path)
    if not journal.exists():
        return
    # pysqlite3 reports only primary result codes, so what refuses a reader is told by the journal
    code = primary_code(_refusal(driver, path, "ro"))
    if code not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
        return
    if not os.access(journal, os.R_OK, effective_ids=True):
        raise DatabaseReadOnly(
            f"{path}: this user may not read {journal.name}, in which a program that was killed may have left what "
            f"must be rolled back before anything can be read; {REMEDY}"
        )
    if code != sqlite3.SQLITE_READONLY or not looks_hot(path):
        return
    reason = _obstacle(path, journal)
    if reason is not None:
        raise DatabaseReadOnly(
            f"{path}: a program that was killed left an unfinished transaction in {journal.name}, which must be rolled "
            f"back before anything can be read or written, but {reason}; {REMEDY}"
        )
    if _refusal(driver, path, "rw") is None:
        logger.warning(
            "%s: a writer was killed, or the machine stopped, in the middle of a transaction; what it had not "
            "committed was rolled back, what is committed is unchanged",
            path,
        )


def looks_hot(path: Path) -> bool:
    """Return whether there is a journal with content: that of a killed writer, or of one that is running."""
    try:
        with journal_of(path).open("rb") as journal:
            return journal.read(1) not in (b"", b"\0")
    except OSError:
        return False


def _refusal(driver: ModuleType, path: Path, mode: str) -> Any:
    """Return the error of reading the file through a connection of its own; None if it can be read."""
    connection = None
    try:
        connection = driver.connect(uri(path, mode), uri=True, isolation_level=None, timeout=BUSY_S)
        connection.execute("PRAGMA schema_version").fetchone()
    except driver.Error as error:
        return error
    finally:
        if connection is not None:
            connection.close()
    return None


def _obstacle(path: Path, journal: Path) -> str | None:
    """Return why this user may not roll the journal back; None if that is not the reason."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return "the file system is mounted read-only"
    for entry, name in ((path, path.name), (journal, journal.name), (path.parent, f"the folder {path.parent}")):
        if not os.access(entry, os.W_OK, effective_ids=True):
            return f"this user may not write {name}"
    folder = path.parent.stat()
    if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, journal.stat().st_uid):
        return f"this user may not delete {journal.name} in the folder {path.parent}, which is sticky"
    return None
