"""`cowrieprocessor sensors`: the honeypots by name, and renaming one."""

from __future__ import annotations

import sys

import click

from cowrieprocessor.cli.shared.backfill_hint import print_hint, with_completeness
from cowrieprocessor.cli.shared.common import (
    confirm_or_exit,
    database_name,
    db_option,
    json_option,
    notify,
    print_json,
    print_text,
    read_connection,
    report_waiting,
    screen,
)
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm
from cowrieprocessor.errors import NotFound
from cowrieprocessor.sanitize import terminal_safe
from cowrieprocessor.wording import plural


@click.group()
def sensors() -> None:
    """The honeypots that the logs are of: their names, and what came from each.

    \b
    Example: cowrieprocessor sensors list
    """


@sensors.command("list")
@db_option
@json_option
def list_(db: str | None, as_json: bool) -> None:
    """List the sensors: who named them, their logs and sessions, and when they saw something first and last.

    A sensor is named by sensors.toml or `load --sensor` (`given`), by its logs, or by `files scan` alone. Each session
    counts for one sensor. Ends with 0.

    \b
    Example: cowrieprocessor sensors list --json
    """
    from cowrieprocessor.reporting.queries.backfill import SENSORS_JOB, completeness
    from cowrieprocessor.reporting.queries.sensor_list import list_sensors
    from cowrieprocessor.reporting.render.listings import sensors_text

    with read_connection(db) as connection:
        listed = list_sensors(connection)
        state = completeness(connection, [SENSORS_JOB])
    if as_json:
        print_json(with_completeness(listed, state))
    else:
        print_text(sensors_text(listed, screen()))
    if listed.sessions_to_rename:
        notify(
            f"note: {plural(listed.sessions_to_rename, 'session still has', 'sessions still have')} to be brought to a "
            "new name; the next `load` or `follow` does it"
        )
    print_hint(state)


@sensors.command()
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@db_option
@click.option("--merge", is_flag=True, help="There may be a sensor NEW already: the two become one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
def rename(old: str, new: str, db: str | None, merge: bool, yes: bool, as_json: bool) -> None:
    """Rename a sensor in everything derived: sessions, files, reports; the events stay as they came.

    The name is remembered: what says OLD, in logs loaded later or in sensors.toml, is of NEW. It runs alongside
    loaders, in short transactions; stopped, the same command goes on from there. It asks before it begins on a
    terminal, unless --yes is given, which --merge needs elsewhere.

    Ends with 0; with 1 if you said no or there is no sensor OLD, 2 if there is a sensor NEW already and --merge was
    not given, or --merge needs --yes, 4 if the database cannot be written, 5 if it has to be migrated first, 130 if it
    was interrupted.

    \b
    Example: cowrieprocessor sensors rename localhost pot-1
    """
    from cowrieprocessor.db.engine import describe, dispose, get_engine, read_transaction
    from cowrieprocessor.jobs.maintenance.rename_sensor import rename_sensor
    from cowrieprocessor.reporting.queries.backfill import SENSORS_JOB, not_yet
    from cowrieprocessor.settings.sensors import require_name

    require_name(new, "NEW")
    engine = get_engine(database_name(db), on_wait=report_waiting)
    interrupt_on_sigterm()
    try:
        if not yes and sys.stdin.isatty():
            notify(f"{describe(engine)}: the sensor {old} is called {new} from now on, wherever it is named")
        confirm_or_exit(yes=yes, destroys="two sensors that become one cannot be parted again" if merge else None)
        try:
            result = rename_sensor(engine, old, new, merge=merge)
        except NotFound as error:
            with read_transaction(engine) as connection:
                raise NotFound(f"{error}{not_yet(connection, [SENSORS_JOB])}") from error
    finally:
        dispose(engine)
    if as_json:
        print_json(result)
        return
    merged = ", one with the sensor that had this name" if result.merged else ""
    print_text(
        f"{terminal_safe(result.old)} is {terminal_safe(result.new)} now{merged}: "
        f"{plural(result.sessions, 'session')} looked at, {plural(result.captured_files, 'captured file')}\n"
    )
