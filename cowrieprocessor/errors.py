"""Every error that cowrieprocessor raises on purpose.

    CowrieProcessorError
    ├── ConfigurationError      an invalid setting, flag or settings file
    ├── NotFound                no match in the database, or an ambiguous name
    ├── InputError              input that cannot be read
    │   ├── InputNotFound           no such file or folder, or a folder without logs
    │   ├── InputNotReadable        no permission, a FIFO or device, a loop of folders
    │   ├── CompressedDataError     an archive that is truncated, damaged, or expands beyond the limit
    │   │   ├── ArchiveDamaged          an archive that fails its own checks
    │   │   └── ArchiveCut              an archive that is truncated, or followed by other data
    │   ├── UnsupportedEncoding     UTF-16 and UTF-32 text
    │   ├── WrappedLog              an export that has to be unwrapped first
    │   ├── HoldsFiles              a file with other files in it: zip, tar, an archive compressed twice
    │   └── BadSavedFile            a state export that is truncated, altered, or some other file
    ├── JobStopped              a long job was asked to stop
    ├── SaveFailed              the state export could not be written
    ├── InvalidShasum           a file event whose shasum is not 64 hexadecimal characters
    ├── UnreadableTimestamp     a timestamp in none of the formats that Cowrie has used
    └── DatabaseError           the database is unusable
        ├── DatabaseLocked          another process held the lock beyond the timeout
        ├── DatabaseInUse           another process has the file open when exclusive access is needed
        ├── DatabaseReadOnly        the file, its folder or the connection does not allow writing
        ├── DatabaseDamaged         integrity check failed, or a page cannot be read
        ├── DatabaseFull            the disk is full
        ├── NotADatabase            the file is not a database
        ├── CopyRefused             a copy cannot be written, or differs from its source
        ├── JobTaken                another process runs the job
        │   └── AlreadyFollowed         another process follows or watches the same files
        └── SchemaVersionError      too old, too new, or incomplete; the message names the remedy
            └── MigrationNeeded         a v3 database where v4 is required

A message says what happened, where (file:line, sha256) and what to do. `exit_code` is the exit status of the command
line; the codes are documented in docs/reference.md.
"""

from __future__ import annotations


class CowrieProcessorError(Exception):
    """Base class of every error that cowrieprocessor raises on purpose."""

    exit_code = 1


class ConfigurationError(CowrieProcessorError):
    """A setting, flag or settings file that is invalid."""

    exit_code = 2


class NotFound(CowrieProcessorError):
    """The requested item is not in the database, or its name is ambiguous."""


class InputError(CowrieProcessorError):
    """Input that cannot be read."""

    exit_code = 3


class InputNotFound(InputError):
    """No such file or folder, or a folder without logs."""


class InputNotReadable(InputError):
    """Permission is denied, or the path is not a regular file or folder."""


class CompressedDataError(InputError):
    """An archive that is truncated, damaged, or expands beyond the allowed ratio."""


class ArchiveDamaged(CompressedDataError):
    """An archive that fails its own checks: none of its content can be trusted."""


class ArchiveCut(CompressedDataError):
    """An archive that is truncated or followed by other data: the content up to that point is valid."""


class UnsupportedEncoding(InputError):
    """Text in an encoding that Cowrie never writes, such as UTF-16."""


class WrappedLog(InputError):
    """An export from which the original events cannot be told; the message has the command that unwraps it."""


class HoldsFiles(InputError):
    """A file that is no log but holds some: a zip or tar archive, or one that is compressed twice.

    Attributes:
        kind: zip, tar, or the compression of what is in it.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


class BadSavedFile(InputError):
    """A state export that is truncated, altered, or some other file."""


class JobStopped(CowrieProcessorError):
    """A long job was asked to stop; what was committed is kept."""

    exit_code = 130


class SaveFailed(CowrieProcessorError):
    """The state export could not be written; nothing was changed."""


class InvalidShasum(CowrieProcessorError, ValueError):
    """A file event whose shasum is present but is not 64 hexadecimal characters."""


class UnreadableTimestamp(CowrieProcessorError, ValueError):
    """A timestamp in none of the formats that Cowrie has used."""


class DatabaseError(CowrieProcessorError):
    """The database is unusable."""

    exit_code = 4


class DatabaseLocked(DatabaseError):
    """Another process held the database lock beyond the timeout."""


class DatabaseInUse(DatabaseError):
    """Another process has the file open, and the operation needs exclusive access."""


class DatabaseReadOnly(DatabaseError):
    """The database file, its folder, or the connection does not allow writing."""


class DatabaseDamaged(DatabaseError):
    """The integrity check failed, or a page of the file cannot be read."""


class DatabaseFull(DatabaseError):
    """The disk of the database is full."""


class NotADatabase(DatabaseError):
    """The file exists and is not an SQLite database, or the server is not PostgreSQL."""


class JobTaken(DatabaseError):
    """Another process runs the job, or has taken it over."""


class AlreadyFollowed(JobTaken):
    """Another process on this machine follows or watches the same files."""

    exit_code = 6


class CopyRefused(DatabaseError):
    """A copy of a database cannot be written, or differs from its source."""


class SchemaVersionError(DatabaseError):
    """The schema is too old, too new, or incomplete; the message names the remedy."""

    exit_code = 5


class MigrationNeeded(SchemaVersionError):
    """A v3 database was given where v4 is required."""
