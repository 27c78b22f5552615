"""Interrupts a poll at any place where it accesses the database or a file.

It is killed as by `kill -9`, the database is locked, or another process does something meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import Engine

from cowrieprocessor.errors import DatabaseLocked

_FILE_OPERATIONS = ("open", "read", "stat", "fstat", "lseek", "scandir")


class Killed(BaseException):
    """Represents the end of the process."""


class Places:
    """Counts the places that a poll passes, and interrupts it at one of them.

    Args:
        engine: its transactions are places: before and after each begin and each commit.
        monkeypatch: undoes at the end what is patched here.
    """

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left: int | None = None
        self._error: type[BaseException] = Killed
        self._engine = engine
        self._is_dead = False
        self._is_watching = False
        self._opened: set[int] = set()
        self._meanwhile: Callable[[], None] | None = None
        for name in _FILE_OPERATIONS:
            monkeypatch.setattr(os, name, self._watched(getattr(os, name), opens=name == "open"))
        monkeypatch.setattr(os, "close", self._close(os.close))
        dialect: Any = engine.dialect
        monkeypatch.setattr(dialect, "do_begin", self._around(dialect.do_begin), raising=False)
        monkeypatch.setattr(dialect, "do_commit", self._around(dialect.do_commit), raising=False)

    @property
    def is_dead(self) -> bool:
        """Whether the process was killed; errors that this led to were not seen by it."""
        return self._is_dead

    @contextmanager
    def killed_at(self, place: int) -> Iterator[None]:
        """Kill what runs inside at the place with this number, and let nothing access the database after that."""
        with self._ended(place, Killed):
            yield

    @contextmanager
    def locked_at(self, place: int) -> Iterator[None]:
        """Lock the database once, at the place with this number or the next one that is a transaction."""
        with self._ended(place, DatabaseLocked):
            yield

    @contextmanager
    def meanwhile_at(self, place: int, action: Callable[[], None]) -> Iterator[None]:
        """Run an action at the first place from this number on that accesses a file."""
        self._meanwhile = action
        with self._ended(place, Exception):
            yield
        self._meanwhile = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Track the files that are opened inside, so that they can be closed after a kill."""
        self._is_watching = True
        try:
            yield
        finally:
            self._is_watching = False

    def bury(self, close: Callable[[], None]) -> None:
        """Close what a killed follower had open, as the operating system does."""
        with suppress(Killed):
            close()
        for descriptor in list(self._opened):
            os.close(descriptor)
        self._engine.dispose()
        self._is_dead, self._left = False, None

    def pass_place(self, *_: object) -> None:
        """Pass a place; a kill happens here."""
        if self._is_dead:
            raise Killed
        if self._left is not None:
            self._left -= 1
            if self._left <= 0 and self._error is Killed:
                self._is_dead = True
                raise Killed

    @contextmanager
    def _ended(self, place: int, error: type[BaseException]) -> Iterator[None]:
        self._left, self._error = place, error
        try:
            with self.watching():
                yield
        finally:
            if not self._is_dead:
                self._left = None

    def _act(self) -> None:
        """Run the action for `meanwhile_at`, if this is the place."""
        action = self._meanwhile
        if action is not None and self._left is not None and self._left <= 0:
            self._meanwhile = self._left = None
            self._is_watching = False
            action()
            self._is_watching = True

    def _pass_transaction(self) -> None:
        self.pass_place()
        if self._error is DatabaseLocked and self._left is not None and self._left <= 0:
            self._left = None
            raise DatabaseLocked("another process is writing (the test says so)")

    def _around(self, operation: Callable[[Any], None]) -> Callable[[Any], None]:
        def run(connection: Any) -> None:
            self._pass_transaction()
            operation(connection)
            self.pass_place()

        return run

    def _watched(self, operation: Callable[..., Any], *, opens: bool) -> Callable[..., Any]:
        def run(*arguments: Any, **more: Any) -> Any:
            if not self._is_watching:
                return operation(*arguments, **more)
            self.pass_place()
            self._act()
            result = operation(*arguments, **more)
            if opens:
                self._opened.add(result)
            return result

        return run

    def _close(self, operation: Callable[[int], None]) -> Callable[[int], None]:
        def run(descriptor: int) -> None:
            operation(descriptor)
            self._opened.discard(descriptor)

        return run
