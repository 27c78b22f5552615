"""The last known states of all followed files, by file key."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import replace

from cowrieprocessor.db.ingest.followed_files import SeenFile
from cowrieprocessor.loader.follow.file_state import FileState, content_key, signature_of
from cowrieprocessor.loader.follow.gap_detector import GapDetector
from cowrieprocessor.loader.follow.tail_reader import Outcome, file_id_of
from cowrieprocessor.loader.log_loading import FINISHED_AFTER_S
from cowrieprocessor.loader.reading.log_names import is_live_name
from cowrieprocessor.sanitize import inert


class KnownFiles:
    """Keeps the last known state of each followed file.

    Args:
        host: the host whose files they are, as `followed_files` records it.
        gap_detector: is restored together with the states, and forgets those of other hosts that are adopted.
    """

    def __init__(self, host: str, gap_detector: GapDetector) -> None:
        self._host = host
        self._gap_detector = gap_detector
        self._states: dict[str, FileState] = {}
        self._by_content: dict[tuple[str, int, int], FileState] = {}
        self._of_other_hosts: dict[tuple[str, int, int], SeenFile] = {}

    def restore(self, stored: Collection[SeenFile]) -> None:
        """Take the states that the database has, of this host and of others."""
        own = {seen.file_key: seen for seen in stored if seen.host == self._host}
        self._of_other_hosts = {content_key(seen): seen for seen in stored if seen.host != self._host and seen.log}
        self._gap_detector.restore(own)
        self._states = {file_key: FileState(Outcome(seen)) for file_key, seen in own.items()}

    def expect_end(self, logs: Collection[tuple[str, int]]) -> None:
        """Have the files of some logs, which end within a value, read again when they are finished."""
        for state in self._states.values():
            if state.seen.log in logs and not is_live_name(state.seen.path):
                finished_at = state.seen.signature[1] / 1e9 + FINISHED_AFTER_S
                state.outcome = replace(state.outcome, finished_at=finished_at)

    def next_finished_at(self) -> float | None:
        """Return when the first of the files with a torn end is finished, Unix seconds; None if there are none."""
        times = (state.outcome.finished_at for state in self._states.values())
        return min((at for at in times if at is not None), default=None)

    def get(self, file_key: str) -> FileState | None:
        """Return the state of a file, None if it is not known."""
        return self._states.get(file_key)

    def put(self, file_key: str, state: FileState) -> None:
        """Replace the state of a file."""
        self._states[file_key] = state

    def retain(self, file_keys: Collection[str]) -> None:
        """Forget all files but these."""
        for file_key in self._states.keys() - file_keys:
            del self._states[file_key]

    def index_contents(self) -> None:
        """Index the current states by content, so that files that are renamed from now on are recognized."""
        self._by_content = {content_key(state.seen): state for state in self._states.values()}

    def reading_order(self, present: Mapping[str, tuple[str, os.stat_result]]) -> list[str]:
        """Return file keys in the order to read them: live logs first, then known files, then others.

        Args:
            present: path and status by file key.
        """
        known_inodes = {state.seen.inode for state in self._states.values()}

        def rank(file_key: str) -> int:
            path, status = present[file_key]
            if is_live_name(path):
                return 0
            return 1 if file_key in self._states or str(status.st_ino) in known_inodes else 2

        return sorted(present, key=rank)

    def to_store(self) -> dict[str, SeenFile]:
        """Return all states for the database, by file key."""
        return {file_key: state.to_store() for file_key, state in self._states.items()}

    def changed_at(self) -> dict[str, float | None]:
        """Return when each file changed last, by its path, in Unix seconds; None for one that changes right now."""
        return {
            state.seen.path: None if state.seen.signature == (0, 0, 0) else max(state.seen.signature[1:]) / 1e9
            for state in self._states.values()
        }

    def was_read(self, file_key: str, file_id: tuple[int, int]) -> bool:
        """Return whether the file with this device and inode was read to its end under this key."""
        state = self._states.get(file_key)
        if state is None or state.error is not None or state.seen.signature == (0, 0, 0):
            return False
        return (state.seen.device, state.seen.inode) == (str(file_id[0]), str(file_id[1]))

    def find(self, file_key: str, path: str, status: os.stat_result) -> FileState | None:
        """Return the state of a file, also if it was known under another name or to another host."""
        state = self._states.get(file_key)
        if state is None or state.seen.inode != str(status.st_ino):
            return self._adopt(file_key, path, status) or state
        return state

    def unread(self, file_key: str, path: str, status: os.stat_result, before: FileState | None) -> SeenFile:
        """Return what is known of a file that cannot be read: what was seen of it before, or only that it exists."""
        is_known = before is not None and before.seen.inode == str(status.st_ino)
        seen = before.seen if before is not None and is_known else self._new(file_key, path, status)
        return replace(seen, signature=signature_of(status))

    def _adopt(self, file_key: str, path: str, status: os.stat_result) -> FileState | None:
        """Return the state of a file that only has another name now, or that another host has read.

        A file with a torn end is read again once it is rotated.
        """
        content = (str(status.st_ino), status.st_size, status.st_mtime_ns)
        renamed = self._by_content.get(content)
        foreign = self._of_other_hosts.get(content)
        if renamed is not None and renamed.seen.log and renamed.is_settled:
            seen = renamed.seen
        elif foreign is not None and foreign.path == inert(path):
            seen = foreign
            self._gap_detector.forget_foreign(foreign)
        else:
            return None
        adopted = replace(
            self._new(file_key, path, status),
            signature=signature_of(status),
            log=seen.log,
            bytes_seen=seen.bytes_seen,
            head_digest=None,
        )
        self._states[file_key] = FileState(Outcome(adopted))
        return self._states[file_key]

    def _new(self, file_key: str, path: str, status: os.stat_result) -> SeenFile:
        return SeenFile(file_key, inert(path), *file_id_of(status), host=self._host)
