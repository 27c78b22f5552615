"""Which logs a v3 database was filled from, and how: the habits that belong to whole logs.

Three sensors write a log a day. `alpha` was followed by v3's delta load: one path, a generation a day, a cursor.
`bravo` was bulk loaded from rotated logs, now and then twice, or under two names. `charlie` writes its times with an
offset, and its logs were loaded without inodes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

DAY_S = 86_400
START_S = 1_704_067_200  # 2024-01-01
SENSORS = ("alpha", "bravo", "charlie")
CHARLIE_SHIFT_S = 7200
DAYS_FOR_ALL_HABITS = 5


@dataclass(slots=True)
class Source:
    """One log and how v3 took it in.

    Attributes:
        path: the log, as `raw_events.source` has it.
        inode: None where v3 was not told.
        generation: how often the path had been another log before.
        sensor: whose log it is.
        shift_s: how far its clock is from UTC.
        ingest_id: the load.
        ingest_at_s: when it was loaded, in seconds since 1970.
        delta: followed, with a cursor; what was suspect went into the dead letters too.
        pretty: the log is pretty-printed, so that the numbers of its lines have gaps.
        torn: its last line is unfinished.
        copy: the name under which the same log was loaded again.
        copy_inode: of that.
        stored_again: loaded again under the same name, and stored again, because there was no inode.
        counted_again: loaded again under the same name, and only counted again.
    """

    path: str
    inode: str | None
    generation: int
    sensor: str
    shift_s: int
    ingest_id: str
    ingest_at_s: int
    delta: bool = False
    pretty: bool = False
    torn: bool = False
    copy: str | None = None
    copy_inode: str | None = None
    stored_again: bool = False
    counted_again: bool = False

    @property
    def times_stored(self) -> int:
        """How many rows each of its events has."""
        return 1 + (self.copy is not None) + self.stored_again

    @property
    def times_counted(self) -> int:
        """How often v3 counted each of its events."""
        return self.times_stored + self.counted_again

    @property
    def last_name(self) -> str:
        """The name under which it was loaded last, the only one that v3 kept in `source_files`."""
        return self.copy or self.path

    def ingest_at(self, later_s: int = 0) -> str:
        """Return when its rows were written, as v3 wrote it."""
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.ingest_at_s + later_s))


def source_of(sensor: str, day: int, *, from_v1: bool) -> Source:
    """Return a sensor's log of a day, counted from 0.

    Args:
        sensor: one of `SENSORS`.
        day: 0 is the first.
        from_v1: the database's constraint forbids a second generation under one path, and rows stored twice.
    """
    number = SENSORS.index(sensor) + day * len(SENSORS)
    folder = f"/logs/{sensor}"
    dated = f"{folder}/cowrie.json.{time.strftime('%Y-%m-%d', time.gmtime(START_S + day * DAY_S))}"
    inode = str(2_100_000 + number * 7)
    source = Source(dated, inode, 0, sensor, 0, f"{number:032x}", START_S + (day + 1) * DAY_S + 600)
    if sensor == "alpha":
        source.delta = True
        if not from_v1:
            source.path, source.generation = f"{folder}/cowrie.json", day
    elif sensor == "bravo":
        habit = day % DAYS_FOR_ALL_HABITS
        source.counted_again = habit == 1
        source.copy = f"{dated}.gz" if habit == 2 else None
        source.pretty = habit == 3
        source.torn = habit == 4
    else:
        habit = day % 4
        source.shift_s = CHARLIE_SHIFT_S
        source.inode = None if habit in (0, 1) else inode
        source.stored_again = habit == 0 and not from_v1
        source.counted_again = habit == 2
        source.copy = f"{folder}/cowrie.json.1" if habit == 3 and (day == 3 or not from_v1) else None
        source.generation = 0
    source.copy_inode = f"9{inode}" if source.copy else None
    return source
