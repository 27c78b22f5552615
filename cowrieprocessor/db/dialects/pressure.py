"""Write pressure: what a long job checks before it writes more."""

from __future__ import annotations

from abc import ABC, abstractmethod

from sqlalchemy import Connection, Engine


class Pressure(ABC):
    """The signs that other connections write to a database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @abstractmethod
    def log_bytes(self) -> int:
        """Return the size of the write-ahead log that is not yet checkpointed; 0 if there is none."""

    @abstractmethod
    def empty_log(self) -> None:
        """Checkpoint the log and truncate it as far as readers allow."""

    @abstractmethod
    def others_wrote(self, connection: Connection) -> bool:
        """Return whether others have committed since the previous call on the same connection."""
