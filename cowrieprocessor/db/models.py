"""The v4 schema as SQLAlchemy models: the unchanged v3 tables, and the tables that v4 adds.

The revisions in `db/revisions` create exactly these tables; a test compares them. Each declares what a rollback saves
of it, see `db/saved_rows.py`. The differences between SQLite and PostgreSQL are in `db/dialects`, those of generated
columns in `db/columns.py`.
"""

from __future__ import annotations

from cowrieprocessor.db.columns import GENERATED_FROM_PAYLOAD, Base, UtcDateTime
from cowrieprocessor.db.models_v3 import (
    V3_TABLES,
    CommandStat,
    DeadLetterEvent,
    IngestCursor,
    RawEvent,
    SchemaState,
    SessionSummary,
)
from cowrieprocessor.db.tables.enrichment import (
    ApiQuota,
    EnrichmentCacheEntry,
    EnrichmentQueueItem,
    FileVerdict,
    VerdictPropagation,
)
from cowrieprocessor.db.tables.files import (
    CONTENT_COLUMNS,
    FILES,
    HASHES,
    JUDGEMENT_COLUMNS,
    VERDICT_AGE,
    VERDICT_COLUMNS,
    FileHash,
    FileMention,
    Files,
)
from cowrieprocessor.db.tables.jobs import Job
from cowrieprocessor.db.tables.logs import (
    FollowedFile,
    LogDamage,
    LogFile,
    LogSensor,
    OverlappingEvent,
    OverlappingSession,
    WrappedLog,
)
from cowrieprocessor.db.tables.sessions import (
    RenamedSensor,
    SessionAttribute,
    SessionLogin,
    SessionSensor,
    SessionToRename,
    TwinEvent,
)

__all__ = [
    "CONTENT_COLUMNS",
    "FILES",
    "GENERATED_FROM_PAYLOAD",
    "HASHES",
    "JUDGEMENT_COLUMNS",
    "V3_TABLES",
    "VERDICT_AGE",
    "VERDICT_COLUMNS",
    "ApiQuota",
    "Base",
    "CommandStat",
    "DeadLetterEvent",
    "EnrichmentCacheEntry",
    "EnrichmentQueueItem",
    "FileHash",
    "FileMention",
    "FileVerdict",
    "Files",
    "FollowedFile",
    "IngestCursor",
    "Job",
    "LogDamage",
    "LogFile",
    "LogSensor",
    "OverlappingEvent",
    "OverlappingSession",
    "RawEvent",
    "RenamedSensor",
    "SchemaState",
    "SessionAttribute",
    "SessionLogin",
    "SessionSensor",
    "SessionSummary",
    "SessionToRename",
    "TwinEvent",
    "UtcDateTime",
    "VerdictPropagation",
    "WrappedLog",
]
