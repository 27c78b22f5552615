"""From Cowrie honeypot logs to a database of sessions, commands and captured files.

The public API: the names listed here are stable. Each is imported on first use, so that `import cowrieprocessor` and
`--help` stay fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowrieprocessor.db.engine import get_engine
    from cowrieprocessor.db.migrations import CURRENT_SCHEMA_VERSION, apply_migrations, require_current
    from cowrieprocessor.db.models import Files
    from cowrieprocessor.errors import CowrieProcessorError
    from cowrieprocessor.loader.bulk import BulkLoader, FileResult, LoadResult
    from cowrieprocessor.loader.delta import DeltaLoader
    from cowrieprocessor.loader.file_processor import process_file_download_event
    from cowrieprocessor.settings import Settings, load_settings

__version__ = "0.4.0"

__all__ = [
    "CURRENT_SCHEMA_VERSION",
    "BulkLoader",
    "CowrieProcessorError",
    "DeltaLoader",
    "FileResult",
    "Files",
    "LoadResult",
    "Settings",
    "__version__",
    "apply_migrations",
    "get_engine",
    "load_settings",
    "process_file_download_event",
    "require_current",
]

_MODULES = {
    "CURRENT_SCHEMA_VERSION": "db.migrations",
    "BulkLoader": "loader.bulk",
    "CowrieProcessorError": "errors",
    "DeltaLoader": "loader.delta",
    "FileResult": "loader.bulk",
    "Files": "db.models",
    "LoadResult": "loader.bulk",
    "Settings": "settings",
    "apply_migrations": "db.migrations",
    "get_engine": "db.engine",
    "load_settings": "settings",
    "process_file_download_event": "loader.file_processor",
    "require_current": "db.migrations",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
