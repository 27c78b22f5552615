"""`cowrieprocessor load`: load Cowrie's logs into the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowrieprocessor.cli.load_text import load_document, load_messages, load_summary
from cowrieprocessor.cli.shared.common import (
    database_name,
    db_option,
    json_option,
    notify,
    print_json,
    print_text,
    report_waiting,
)
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cowrieprocessor.settings import Sensor

EXIT_FILES_FAILED = 3


@click.command()
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--sensor", metavar="NAME", help="The sensor of all these logs, whatever they or sensors.toml say.")
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Events per transaction. Default: 10000.")
@json_option
def load(paths: tuple[Path, ...], db: str | None, sensor: str | None, batch_size: int | None, as_json: bool) -> None:
    """Load Cowrie's JSON logs: files, or all logs in folders; without a PATH those of every [[sensor]].

    \b
      cowrieprocessor load /home/cowrie/cowrie/var/log/cowrie
      cowrieprocessor load cowrie.json cowrie.json.2026-01-31.gz --db honeypots.sqlite

    A log may be plain or compressed (gzip, bzip2, xz, zstd), and hold an event per line, pretty-printed events or a
    JSON array; the format is detected. Loading again is a no-op, even if the log was renamed, copied or compressed;
    from a log that has grown only the new part is loaded. Lines that are no events are kept as dead letters.

    Logs under the logpath of a [[sensor]] in sensors.toml are of the sensor with that name; --sensor gives another
    one. The name stays with the log.

    Ends with 0; with 3 if a file could not be read to its end (the others are loaded; a truncated archive with nothing
    new is only a note) or if there is text in the files but not one event of Cowrie, 4 if the database refused, 5 if
    its schema has another version.
    """
    from cowrieprocessor.cli.shared.progress import LoadProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.jobs.loading.load import load as run
    from cowrieprocessor.loader.bulk import NO_EVENT
    from cowrieprocessor.settings import load_sensors, load_settings
    from cowrieprocessor.settings.sensor_paths import SensorPaths
    from cowrieprocessor.settings.sensors import require_name

    if sensor is not None:
        require_name(sensor, "--sensor")
    settings = load_settings(overrides={"batch_size": batch_size})
    sensors = load_sensors()
    logs = paths or configured_logs(sensors)
    name = database_name(db)
    engine = get_engine(name, on_wait=report_waiting)
    interrupt_on_sigterm()
    try:
        with LoadProgressLine() as line:
            paths_of_sensors = SensorPaths(sensors, name=sensor)
            result = run(engine, logs, settings=settings, sensors=paths_of_sensors, on_progress=line.update)
    finally:
        dispose(engine)
    for message in load_messages(result):
        notify(message)
    if as_json:
        print_json(load_document(result))
    else:
        for text in load_summary(result, db):
            print_text(f"{text}\n")
    if result.holds_no_event:
        notify(f"error: {NO_EVENT}")
    if result.failed_total or result.holds_no_event:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)


def configured_logs(sensors: Iterable[Sensor]) -> tuple[Path, ...]:
    """Return the logs of the configured sensors that exist, rotated ones included.

    Raises:
        ConfigurationError: no sensor is configured; the message shows how to configure one.
        InputNotFound: there are no logs at any of the paths.
    """
    from cowrieprocessor.errors import InputNotFound
    from cowrieprocessor.loader.reading.discovery import existing_logs
    from cowrieprocessor.settings import no_sensors

    paths = [sensor.logpath for sensor in sensors]
    if not paths:
        raise no_sensors("logpath")
    logs = tuple(existing_logs(paths))
    if not logs:
        raise InputNotFound(f"no logs at the logpath of any [[sensor]]: {', '.join(map(str, paths))}; correct them")
    return logs
