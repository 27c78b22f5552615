"""The logs from which a v3 database was loaded, and how: the peculiarities of whole logs.

Three sensors write a log a day. `alpha` was followed by v3's delta load: one path, a generation a day, a cursor.
`bravo` was bulk loaded from rotated logs, some of them twice, or under two names. `charlie` writes times with an
offset, and its logs were loaded without inodes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

DAY_S = 86_400
START_S = 1_704_067_200  # 2024-01-01
SENSORS = ("alpha", "bravo", "charlie")
CHARLIE_SHIFT_S = 7200
DAYS_PER_CYCLE = 5
"""After this many days every peculiarity has occurred."""

CHARLIE_DAYS_PER_CYCLE = 4


@dataclass(slots=True)
class Source:
    """A log, and how v3 loaded it.

    Attributes:
        path: the value of `raw_events.source`.
        inode: None if v3 did not store one.
        generation: how many other logs had this path before.
        sensor: the sensor that wrote it.
        shift_s: offset of the sensor's clock from UTC.
        ingest_id: the identifier of the load.
        ingest_at_s: when it was loaded, in seconds since 1970.
        delta: it was followed, with a cursor; suspicious events also became dead letters.
        pretty: it is pretty-printed, so that the line numbers of events have gaps.
        torn: its last line is incomplete.
        copy: the path under which the same log was loaded again.
        copy_inode: the inode of the copy.
        stored_again: it was loaded again under the same path, and stored again because there was no inode.
        counted_again: it was loaded again under the same path, and only counted again.
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
        """The number of rows of each of its events."""
        return 1 + (self.copy is not None) + self.stored_again

    @property
    def times_counted(self) -> int:
        """How often v3 counted each of its events."""
        return self.times_stored + self.counted_again

    @property
    def last_name(self) -> str:
        """The path of the last load, the only one that v3 kept in `source_files`."""
        return self.copy or self.path

    def ingest_at(self, later_s: int = 0) -> str:
        """Return the time at which its rows were written, in v3's format.

        Args:
            later_s: seconds after the beginning of the load.
        """
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.ingest_at_s + later_s))


def source_of(sensor: str, day: int, *, from_v1: bool) -> Source:
    """Return a sensor's log of a day.

    Args:
        sensor: one of `SENSORS`.
        day: the number of the day; 0 is the first.
        from_v1: the database's constraint forbids a second generation of a path, and rows stored twice.
    """
    number = SENSORS.index(sensor) + day * len(SENSORS)
    path = f"{_folder(sensor)}/cowrie.json.{time.strftime('%Y-%m-%d', time.gmtime(START_S + day * DAY_S))}"
    inode = str(2_100_000 + number * 7)
    source = Source(path, inode, 0, sensor, 0, f"{number:032x}", START_S + (day + 1) * DAY_S + 600)
    if sensor == "alpha":
        _follow(source, day, from_v1=from_v1)
    elif sensor == "bravo":
        _bulk_load(source, day)
    else:
        _load_without_inodes(source, day, from_v1=from_v1)
    source.copy_inode = f"9{inode}" if source.copy else None
    return source


def _folder(sensor: str) -> str:
    return f"/logs/{sensor}"


def _follow(source: Source, day: int, *, from_v1: bool) -> None:
    """Apply the peculiarities of `alpha`."""
    source.delta = True
    if not from_v1:
        source.path, source.generation = f"{_folder(source.sensor)}/cowrie.json", day


def _bulk_load(source: Source, day: int) -> None:
    """Apply the peculiarities of `bravo`, another one each day."""
    day_of_cycle = day % DAYS_PER_CYCLE
    source.counted_again = day_of_cycle == 1
    source.copy = f"{source.path}.gz" if day_of_cycle == 2 else None
    source.pretty = day_of_cycle == 3
    source.torn = day_of_cycle == 4


def _load_without_inodes(source: Source, day: int, *, from_v1: bool) -> None:
    """Apply the peculiarities of `charlie`."""
    day_of_cycle = day % CHARLIE_DAYS_PER_CYCLE
    source.shift_s = CHARLIE_SHIFT_S
    if day_of_cycle in (0, 1):
        source.inode = None
    source.stored_again = day_of_cycle == 0 and not from_v1
    source.counted_again = day_of_cycle == 2
    if day_of_cycle == 3 and (day == 3 or not from_v1):
        source.copy = f"{_folder(source.sensor)}/cowrie.json.1"
