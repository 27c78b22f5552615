"""`cowrieprocessor load`: load Cowrie's logs into the database."""

from __future__ import annotations

from pathlib import Path

import click

from cowrieprocessor.cli.load_text import load_document, load_messages, load_summary
from cowrieprocessor.cli.shared.common import database_name, db_option, json_option, notify, print_json, report_waiting
from cowrieprocessor.cli.shared.stopping import interrupt_on_sigterm

EXIT_FILES_FAILED = 3


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@db_option
@click.option("--batch-size", type=click.IntRange(1), metavar="N", help="Events per transaction. Default: 10000.")
@json_option
def load(paths: tuple[Path, ...], db: str | None, batch_size: int | None, as_json: bool) -> None:
    """Load Cowrie's JSON logs: files, or all logs in folders.

    \b
      cowrieprocessor load /home/cowrie/cowrie/var/log/cowrie
      cowrieprocessor load cowrie.json cowrie.json.2026-01-31.gz --db honeypots.sqlite

    A log may be plain or compressed (gzip, bzip2, xz, zstd), and hold an event per line, pretty-printed events or a
    JSON array; the format is detected. Loading again is a no-op, even if the log was renamed, copied or compressed;
    from a log that has grown only the new part is loaded. Lines that are no events are kept as dead letters.

    Ends with 0; with 3 if a file could not be read to its end (the others are loaded; a truncated archive with nothing
    new is only a note), 4 if the database refused, 5 if its schema has another version.
    """
    from cowrieprocessor.cli.shared.progress import LoadProgressLine
    from cowrieprocessor.db.engine import dispose, get_engine
    from cowrieprocessor.loader.bulk import BulkLoader
    from cowrieprocessor.settings import load_settings

    settings = load_settings(overrides={"batch_size": batch_size})
    name = database_name(db)
    engine = get_engine(name, on_wait=report_waiting)
    interrupt_on_sigterm()
    try:
        with LoadProgressLine() as line:
            result = BulkLoader(engine, settings=settings, on_progress=line.update).load(paths)
    finally:
        dispose(engine)
    for message in load_messages(result):
        notify(message)
    if as_json:
        print_json(load_document(result))
    else:
        for text in load_summary(result):
            click.echo(text)
    if result.failed_total:
        raise click.exceptions.Exit(EXIT_FILES_FAILED)
