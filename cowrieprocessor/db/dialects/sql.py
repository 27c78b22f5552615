"""The few SQL expressions that differ between the databases."""

from __future__ import annotations

from abc import ABC, abstractmethod


class SqlExpressions(ABC):
    """Placeholders, comparisons, merges of values, conversions and locks, as text of SQL."""

    @abstractmethod
    def statement(self, sql: str) -> str:
        """Return a statement with `?` as placeholders in the style of the driver."""

    @abstractmethod
    def time_value(self) -> str:
        """Return the placeholder `?` of a time where the server cannot infer the type of a parameter."""

    @abstractmethod
    def earliest(self, left: str, right: str) -> str:
        """Return the smaller of two expressions; NULL only if both are."""

    @abstractmethod
    def latest(self, left: str, right: str) -> str:
        """Return the larger of two expressions; NULL only if both are."""

    @abstractmethod
    def binary(self, text: str) -> str:
        """Return a text expression that compares by its UTF-8 bytes."""

    @abstractmethod
    def differs(self, left: str, right: str) -> str:
        """Return the test whether two expressions differ; NULL equals NULL."""

    @abstractmethod
    def merged_lists(self, left: str, right: str) -> str:
        """Return the sorted union of two JSON lists of texts; `left` counts as empty if it is not a list."""

    @abstractmethod
    def list_values(self, column: str) -> str:
        """Return a table `paths(value)` of the texts in a JSON list; empty if the column holds no list."""

    @abstractmethod
    def json_text(self, column: str) -> str:
        """Return the text of a JSON column."""

    @abstractmethod
    def moment(self, column: str) -> str:
        """Return a datetime column as text `YYYY-MM-DD HH:MM:SS.ffffff`, in UTC."""

    @abstractmethod
    def seconds_between(self, first: str, last: str) -> str:
        """Return the seconds between two time columns, rounded to a few milliseconds; NULL if either is."""

    @abstractmethod
    def for_update(self) -> str:
        """Return the clause that locks the selected rows until the end of the transaction."""

    @abstractmethod
    def numbered_locks(self) -> str | None:
        """Return the statement that acquires numbered locks until the end of the transaction.

        Its parameter is the list of numbers. None if the database has only one writer at a time.
        """

    @abstractmethod
    def named_lock(self, key: int, *, shared: bool) -> str | None:
        """Return the statement that acquires one lock, shared or exclusive, until the end of the transaction.

        None if the database has only one writer at a time.
        """
