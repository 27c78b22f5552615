"""Every error that cowrieprocessor raises on purpose.

    CowrieProcessorError
    ├── ConfigurationError      a setting, flag or file of settings that cannot be used
    ├── NotFound                what was asked for is not in the database, or the name fits several
    ├── InputError              something that was given to read cannot be read
    │   ├── InputNotFound           no such file or folder, or a folder without logs
    │   ├── InputNotReadable        permission, a FIFO or device, a loop of folders
    │   ├── CompressedDataError     an archive that ends early, or grows without measure
    │   │   ├── ArchiveDamaged          an archive that fails its own checks
    │   │   └── ArchiveCut              an archive that ends early, or that something else follows
    │   ├── UnsupportedEncoding     UTF-16 and UTF-32 text
    │   └── BadSavedFile            saved knowledge that is cut off, altered, or something else
    ├── SaveFailed              saved knowledge could not be written where it should be
    ├── InvalidShasum           a file event whose shasum is not 64 hexadecimal characters
    ├── UnreadableTimestamp     a timestamp in none of the forms that Cowrie has written
    └── DatabaseError           the database cannot serve
        ├── DatabaseLocked          another process held the lock for longer than we may wait
        ├── DatabaseInUse           another process has the file open, where it must not
        ├── DatabaseReadOnly        the file, its folder or the connection does not allow writing
        ├── DatabaseDamaged         integrity check failed, or a page cannot be read
        ├── DatabaseFull            the disk has no room left
        ├── NotADatabase            the file is something else
        ├── CopyRefused             a copy cannot be written there, or is not what it was copied from
        ├── JobTaken                another process runs the job
        │   └── AlreadyFollowed         another process follows, or watches, the same files
        └── SchemaVersionError      too old, too new, or half-made; the message names the remedy
            └── MigrationNeeded         a v3 database where v4 is wanted

A message says what happened, where (file:line, sha256) and what to do. `exit_code` is what the command line
ends with; the codes are documented in docs/reference.md.
"""

from __future__ import annotations


class CowrieProcessorError(Exception):
    """The root: everything that cowrieprocessor raises on purpose derives from it."""

    exit_code = 1


class ConfigurationError(CowrieProcessorError):
    """A setting, a flag or a file of settings that cannot be used."""

    exit_code = 2


class NotFound(CowrieProcessorError):
    """What was asked for is not in the database, or the name fits several."""


class InputError(CowrieProcessorError):
    """Something that was given to read cannot be read."""

    exit_code = 3


class InputNotFound(InputError):
    """No such file or folder, or a folder that holds no logs."""


class InputNotReadable(InputError):
    """The permissions refuse it, or it is no regular file or folder."""


class CompressedDataError(InputError):
    """An archive that ends early, is damaged, or grows beyond the allowed ratio."""


class ArchiveDamaged(CompressedDataError):
    """An archive that fails its own checks: nothing that comes out of it can be trusted."""


class ArchiveCut(CompressedDataError):
    """An archive that ends early, or that something else follows: what came out before that place is sound."""


class UnsupportedEncoding(InputError):
    """Text in an encoding that Cowrie never writes, such as UTF-16."""


class BadSavedFile(InputError):
    """A file of saved knowledge that is cut off, was altered, or is something else."""


class SaveFailed(CowrieProcessorError):
    """Saved knowledge could not be written where it should be; nothing was changed."""


class InvalidShasum(CowrieProcessorError, ValueError):
    """A file event whose shasum is present but is not 64 hexadecimal characters."""


class UnreadableTimestamp(CowrieProcessorError, ValueError):
    """A timestamp that is in none of the forms that Cowrie has written."""


class DatabaseError(CowrieProcessorError):
    """The database cannot serve."""

    exit_code = 4


class DatabaseLocked(DatabaseError):
    """Another process held the database for longer than we may wait."""


class DatabaseInUse(DatabaseError):
    """Another process has the file open, and what was asked for needs that none has."""


class DatabaseReadOnly(DatabaseError):
    """The database file, its folder, or the connection does not allow writing."""


class DatabaseDamaged(DatabaseError):
    """The integrity check failed, or a page of the file cannot be read."""


class DatabaseFull(DatabaseError):
    """The disk that holds the database has no room left."""


class NotADatabase(DatabaseError):
    """The file exists and is not a SQLite database, or the server is not PostgreSQL."""


class JobTaken(DatabaseError):
    """Another process runs the job, or has taken it over."""


class AlreadyFollowed(JobTaken):
    """Another process of this machine follows, or watches, the same files."""

    exit_code = 6


class CopyRefused(DatabaseError):
    """A copy of a database cannot be written where it should, or it is not what it was copied from."""


class SchemaVersionError(DatabaseError):
    """The schema is too old, too new, or incomplete; the message names the remedy."""

    exit_code = 5


class MigrationNeeded(SchemaVersionError):
    """A v3 database was given where v4 is wanted."""
