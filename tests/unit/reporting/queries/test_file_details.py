"""One file, found by its hash, with every name and URL."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from cowrieprocessor.db.engine import read_transaction, write_transaction
from cowrieprocessor.errors import ConfigurationError, NotFound
from cowrieprocessor.loader.rows.file_mentions import NAME, URL
from cowrieprocessor.reporting.queries.file_details import Sightings, file_details, find_hash
from cowrieprocessor.reporting.queries.file_mentions import Mention
from tests.unit.reporting.scene import add_file, add_hash, add_mention, add_session, at, sha


def test_a_file_is_found_by_any_of_its_hashes(engine: Engine) -> None:
    """A whole SHA-256, its beginning in any case, an MD5 and a SHA-1 all lead to the file."""
    sha256 = "ab" * 32
    with write_transaction(engine) as connection:
        add_hash(connection, sha256, at(1), md5="0" * 31 + "1", sha1="0" * 39 + "2")
        add_hash(connection, "ac" * 32, at(1), md5="f" * 32)
    with read_transaction(engine) as connection:
        for text in (sha256, sha256.upper(), " ababab ", "ab" * 16, "ab" * 20, "0" * 31 + "1", "0" * 39 + "2"):
            assert sha256 == find_hash(connection, text)


@pytest.mark.parametrize("text", ["", "abcde", "xyzxyz", "a" * 65, "٠٠٠٠٠٠", "abcdef%"])
def test_an_invalid_hash_is_refused(engine: Engine, text: str) -> None:
    """A text that is too short, too long or not hexadecimal is an error that says what is expected."""
    with read_transaction(engine) as connection, pytest.raises(ConfigurationError, match="first 6 or more"):
        find_hash(connection, text)


def test_an_unknown_or_ambiguous_hash_is_not_found(engine: Engine) -> None:
    """An unknown hash names the list, an ambiguous beginning names the candidates."""
    with write_transaction(engine) as connection:
        for number in range(8):
            add_hash(connection, "abcdef" + f"{number:058x}", at(1))
    with read_transaction(engine) as connection:
        with pytest.raises(NotFound, match="files list"):
            find_hash(connection, "ffffff")
        with pytest.raises(NotFound, match=r"abcdef0+0, .*, \.\.\.; give more"):
            find_hash(connection, "abcdef")
        with pytest.raises(NotFound, match=sha(9)):
            file_details(connection, sha(9))


def test_every_name_and_url_is_listed(engine: Engine) -> None:
    """All names and URLs of all sessions are listed, with sessions and dates, also beyond those that are read."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(1), at(3), session_count=3, reputation=80, reputation_reasons=["old", "bad"])
        for name, hours, sensor, address in (
            ("a", 1, "lab", "10.0.0.1"),
            ("b", 2, "lab", "10.0.0.2"),
            ("c", 3, "hq", "10.0.0.2"),
        ):
            add_session(connection, name, at(hours), sensor=sensor, src_ip=address)
        add_file(connection, "a", sha(1), at(1), filename="/tmp/one", download_url="http://u/1")
        add_mention(connection, "a", sha(1), NAME, "/tmp/two", at(1), at(1.5))
        add_mention(connection, "a", sha(1), URL, "http://u/2", at(1.25), at(1.5))
        add_file(connection, "b", sha(1), at(2), filename="/tmp/one")
        add_mention(connection, "b", sha(1), NAME, "/tmp/two", at(2))
        add_file(connection, "c", sha(1), at(3), origin="upload")
        add_file(connection, "artifact:box", sha(1), at(4), origin="artifact")
        add_file(connection, "a", sha(2), at(1), filename="/tmp/other", download_url="http://u/3")
        add_mention(connection, "a", "", URL, "http://u/failed", at(1))
    with read_transaction(engine) as connection:
        details = file_details(connection, sha(1))
        first_only = file_details(connection, sha(1), max_values=1)
        latest = file_details(connection, sha(1), max_sightings=2)
    one, two = Mention("/tmp/one", 2, at(1), at(2)), Mention("/tmp/two", 2, at(1), at(2))
    assert {one, two} == set(details.names)
    assert (Mention("http://u/2", 1, at(1.25), at(1.5)), Mention("http://u/1", 1, at(1), at(1))) == details.urls
    assert (Sightings("download", 2), Sightings("artifact", 1), Sightings("upload", 1)) == details.origins
    assert (Sightings("lab", 2), Sightings("box", 1), Sightings("hq", 1)) == details.sensors
    assert (details.addresses, details.sightings_read) == (2, 3)
    assert (details.reputation, details.reputation_reasons) == (80, ("old", "bad"))
    assert (
        len(first_only.names),
        first_only.names_total,
        first_only.urls,
        first_only.urls_total,
    ) == (1, 2, details.urls[:1], 2)
    assert (latest.names, latest.urls) == (details.names, details.urls)
    assert (Sightings("artifact", 1), Sightings("upload", 1)) == latest.origins


def test_a_file_in_very_many_sessions_is_counted_over_the_latest(engine: Engine) -> None:
    """A hash whose row claims very many sessions is read in order of time, with the same result."""
    with write_transaction(engine) as connection:
        add_hash(connection, sha(1), at(1), session_count=1_000_000)
        for number in range(30):
            add_session(connection, f"s{number:02}", at(number))
            add_file(connection, f"s{number:02}", sha(1), at(number), filename=f"n{number:02}")
            add_file(connection, f"s{number:02}", sha(2), at(number), filename="other")
    with read_transaction(engine) as connection:
        details = file_details(connection, sha(1), max_sightings=3)
    assert details.sensors == (Sightings("lab", 3),)
    assert [name.value for name in details.names] == [f"n{number:02}" for number in reversed(range(30))]
