"""Schedules of tasks in the settings."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from cowrieprocessor.errors import ConfigurationError
from cowrieprocessor.settings import load_settings
from cowrieprocessor.settings.schedule import OFF, Schedule, schedule


@pytest.mark.parametrize(
    ("given", "expected", "text"),
    [
        ("15min", Schedule(every_s=900.0), "15min"),
        ("15m", Schedule(every_s=900.0), "15min"),
        ("90s", Schedule(every_s=90.0), "90s"),
        (3600, Schedule(every_s=3600.0), "1h"),
        ("2d", Schedule(every_s=172800.0), "2d"),
        ("1.5h", Schedule(every_s=5400.0), "90min"),
        ("03:15", Schedule(at=dt.time(3, 15)), "03:15"),
        (dt.time(3, 15), Schedule(at=dt.time(3, 15)), "03:15"),
        (" 23:59 ", Schedule(at=dt.time(23, 59)), "23:59"),
        ("off", OFF, "off"),
        ("OFF", OFF, "off"),
        (False, OFF, "off"),
    ],
)
def test_a_schedule_is_an_interval_a_time_of_day_or_off(given: object, expected: Schedule, text: str) -> None:
    """And is written as it can be given again."""
    assert (schedule(given), str(expected), schedule(text)) == (expected, text, expected)


@pytest.mark.parametrize("given", ["0", "0s", "0.5s", "24:00", "3:15", "soon", "", True, None, dt.time(3, 15, 1), [1]])
def test_anything_else_is_refused(given: object) -> None:
    """With what is expected; an interval of nothing would never let it rest."""
    with pytest.raises(ValueError, match=r"a duration of at least 1s .*, a time of day \(UTC\) such as 03:15, or off"):
        schedule(given)


def test_a_table_and_a_variable_say_the_same(tmp_path: Path) -> None:
    """The variable takes the place of the whole table."""
    path = tmp_path / "sensors.toml"
    path.write_text('[work]\nenrichment = "6h"\nderived-facts = "off"\nnightly = 03:15:00\n', encoding="utf-8")
    hours, nightly = Schedule(every_s=21600.0), Schedule(at=dt.time(3, 15))
    expected = (("derived-facts", OFF), ("enrichment", hours), ("nightly", nightly))
    words = "enrichment=6h, derived-facts=off ,nightly=03:15"

    assert load_settings(environ={}, toml_path=path).work == expected
    assert load_settings(environ={"COWRIEPROC_WORK": words}).work == expected
    assert load_settings(environ={"COWRIEPROC_WORK": "enrichment=6h"}, toml_path=path).work == (("enrichment", hours),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[work]\nenrichment = "soon"\n', r"\[work\] is .*; expected for enrichment a duration"),
        ('[work]\nEnrichment = "1h"\n', r"\[work\] is .*; expected the name of each task once"),
        ('[wrok]\nenrichment = "1h"\n', "unknown table 'wrok'; did you mean 'work'"),
        ("work = 5\n", r"`work` is not a table; write \[work\] above its settings"),
        ('[global]\nwork = "enrichment=2h"\n[work]\nenrichment = "1h"\n', "set different values; keep one of them"),
    ],
)
def test_a_mistake_in_the_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    """With the file and the table, and what is expected."""
    path = tmp_path / "sensors.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_settings(environ={}, toml_path=path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("words", ["enrichment", "enrichment=", "=1h", "a=1h,a=2h", ",", "enrichment=1h;b=2h"])
def test_a_mistake_in_the_variable_is_refused(words: str) -> None:
    """With the variable, what it is and what is expected."""
    with pytest.raises(ConfigurationError, match=r"COWRIEPROC_WORK is .*; expected "):
        load_settings(environ={"COWRIEPROC_WORK": words})
