"""The file that an event names, if any: all versions of Cowrie, and names that attackers choose."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.errors import CowrieProcessorError, InvalidShasum
from cowrieprocessor.events import EVENT_NAMES, FILE_DOWNLOAD, FILE_DOWNLOAD_FAILED, FILE_UPLOAD
from cowrieprocessor.interpret.file_events import (
    MAX_FILENAME_CHARS,
    MAX_URL_CHARS,
    ORIGINS,
    SKIPPED_EMPTY_SHASUM,
    SKIPPED_NO_SHASUM,
    FileSighting,
    file_sighting,
    reason_without_file,
    smallest,
)
from cowrieprocessor.loader.file_processor import process_file_download_event
from cowrieprocessor.sanitize import defang, restore

SHA256 = "a8460f446be540410004b1a8db4083773fa46f7fe76fa84219c93daa1669f8f2"
SESSION = "00c0ffee0001"
INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def download(**fields: Any) -> dict[str, Any]:
    """Return a download event with these fields; None leaves a field away."""
    event = {"eventid": FILE_DOWNLOAD, "shasum": SHA256, "timestamp": "2026-11-21T23:48:27.110758Z", **fields}
    return {key: value for key, value in event.items() if value is not None}


def upload(**fields: Any) -> dict[str, Any]:
    """Return an upload event with these fields."""
    return download(eventid=FILE_UPLOAD, **fields)


def sighting(event: dict[str, Any]) -> FileSighting:
    """Return the file that an event names."""
    found = file_sighting(event, SESSION)
    assert found is not None
    return found


def name_and_url(event: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return the file name and the URL of an event's file."""
    found = sighting(event)
    return found.filename, found.download_url


# --- what each producer writes ---


def test_wget_and_curl() -> None:
    """A file that wget or curl fetched has the URL, and the name at the end of its path."""
    assert sighting(download(url="http://198.51.100.7/x/bins.sh", outfile=f"var/{SHA256}")) == FileSighting(
        session_id=SESSION,
        sha256=SHA256,
        filename="bins.sh",
        download_url="http://198.51.100.7/x/bins.sh",
        origin="download",
        first_seen="2026-11-21 23:48:27.110758",
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"url": "ftp://198.51.100.7/a", "destfile": "b.sh"}, ("b.sh", "ftp://198.51.100.7/a")),
        ({"url": "tftp://198.51.100.7:69/a.sh"}, ("a.sh", "tftp://198.51.100.7:69/a.sh")),
        ({"destfile": "/root/.ssh/authorized_keys"}, ("/root/.ssh/authorized_keys", None)),
        ({"destfile": ""}, (None, None)),
        ({"url": "/root/x", "destfile": "/root/x"}, ("/root/x", None)),
        ({"url": "/dev/null"}, ("null", None)),
        ({"url": "/tmp/http://198.51.100.7/x"}, ("x", None)),
        ({"url": "stdin", "destfile": ""}, (None, None)),
        ({"url": "stdin"}, (None, None)),
        ({}, (None, None)),
        ({"url": "http://198.51.100.7"}, (None, "http://198.51.100.7")),
        ({"url": "http://198.51.100.7/"}, (None, "http://198.51.100.7/")),
        ({"url": "http://198.51.100.7/a/"}, (None, "http://198.51.100.7/a/")),
        ({"url": "198.51.100.7/a"}, ("a", "198.51.100.7/a")),
        ({"url": "http://[2001:db8::1]:80/a"}, ("a", "http://[2001:db8::1]:80/a")),
        ({"url": "http://198.51.100.7/a?b=/c#d"}, ("a", "http://198.51.100.7/a?b=/c#d")),
        ({"url": "http://198.51.100.7/%61%2Fb%20c"}, ("a/b c", "http://198.51.100.7/%61%2Fb%20c")),
        ({"url": "http://198.51.100.7/a", "filename": "f"}, ("f", "http://198.51.100.7/a")),
        ({"url": "http://198.51.100.7/a", "filename": "f", "destfile": "d"}, ("d", "http://198.51.100.7/a")),
        ({"url": ["x"], "filename": 5, "destfile": {"a": 1}}, (None, None)),
        ({"url": "", "filename": "", "destfile": ""}, (None, None)),
    ],
)
def test_names_and_urls_of_downloads(fields: dict[str, Any], expected: tuple[str | None, str | None]) -> None:
    """A name comes from destfile, filename or the URL, in this order; a path or `stdin` in `url` is not a URL."""
    assert name_and_url(download(**fields)) == expected


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"filename": "redtail.x86_64", "outfile": f"var/lib/{SHA256}"}, "redtail.x86_64"),
        ({"filename": "a", "url": "/root/a", "destfile": "/root/a"}, "/root/a"),
        ({"filename": "a", "url": "/root/a"}, "a"),
        ({"url": "/root/sshd"}, "sshd"),
    ],
)
def test_uploads_are_files_without_a_url(fields: dict[str, Any], name: str) -> None:
    """A file sent by SFTP or SCP is an upload; the `url` of SCP is a path in the fake file system, not a URL."""
    found = sighting(upload(**fields))

    assert (found.filename, found.download_url, found.origin) == (name, None, "upload")


def test_credentials_are_kept_and_masked_where_shown() -> None:
    """The stored URL keeps user and password, which are evidence; they are masked for display."""
    url = "ftp://user:secret@198.51.100.7/x.sh"

    assert sighting(download(url=url)).download_url == url
    assert defang(url) == "fxp://***@198[.]51[.]100[.]7/x.sh"


# --- what names no file ---


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (download(shasum="", outfile=""), SKIPPED_EMPTY_SHASUM),
        (upload(shasum=""), SKIPPED_EMPTY_SHASUM),
        (download(shasum=None, realm="scp", input="scp -t /tmp"), SKIPPED_NO_SHASUM),
        (download(shasum=None, url="http://198.51.100.7/x", outfile="var/x"), SKIPPED_NO_SHASUM),
        ({**download(), "shasum": None}, SKIPPED_NO_SHASUM),
        ({"eventid": FILE_DOWNLOAD_FAILED, "url": "http://198.51.100.7/x"}, SKIPPED_NO_SHASUM),
        ({"eventid": FILE_DOWNLOAD_FAILED, "shasum": ""}, SKIPPED_EMPTY_SHASUM),
    ],
)
def test_file_events_without_a_hash_name_no_file(event: dict[str, Any], reason: str) -> None:
    """A 0-byte download, the scp bug and a failed download name no file: no error, counted under their reason."""
    assert file_sighting(event, SESSION) is None
    assert process_file_download_event(event, SESSION) is None
    assert reason_without_file(event) == reason


@pytest.mark.parametrize("name", [*sorted(set(EVENT_NAMES) - set(ORIGINS)), "cowrie.teapot", "", None, 5, ["a"], {}])
@pytest.mark.parametrize("shasum", [SHA256, "not a hash", 5])
def test_other_events_name_no_file(name: object, shasum: object) -> None:
    """No other event names a file, whatever its shasum: that of cowrie.log.closed is of a keystroke log."""
    assert file_sighting({"eventid": name, "shasum": shasum, "url": "http://198.51.100.7/x"}, SESSION) is None


def test_the_two_events_that_name_files_are_known() -> None:
    """Only file_download and file_upload name files."""
    assert ORIGINS == {"cowrie.session.file_download": "download", "cowrie.session.file_upload": "upload"}


# --- hashes ---


@pytest.mark.parametrize("shasum", [SHA256, SHA256.upper(), SHA256.title()])
def test_hash_is_lower_case(shasum: str) -> None:
    """A hash in any case is the same file."""
    assert sighting(download(shasum=shasum)).sha256 == SHA256


@pytest.mark.parametrize(
    "shasum",
    [
        SHA256[:-1],
        SHA256 + "0",
        SHA256[:-1] + "g",
        f" {SHA256[:-1]}",
        f"{SHA256}\n",
        f"{SHA256[:-1]}\n",
        "d41d8cd98f00b204e9800998ecf8427e",
        " ",
        "\0",
        "\ud800",
        "０" * 64,
        "../../etc/passwd",
        5,
        True,
        [],
        [SHA256],
        {SHA256: 1},
    ],
)
@pytest.mark.parametrize("kind", [download, upload])
def test_what_is_no_sha256_is_refused(shasum: object, kind: Any) -> None:
    """A shasum that is present but is not 64 hexadecimal characters is an error that names the session."""
    with pytest.raises(InvalidShasum, match=f"of session '{SESSION}' is not 64 hexadecimal characters") as caught:
        file_sighting(kind(shasum=shasum), SESSION)

    assert isinstance(caught.value, CowrieProcessorError | ValueError)
    assert not INVISIBLE.search(str(caught.value))
    assert len(str(caught.value)) < 500


def test_deeply_nested_shasum_is_refused() -> None:
    """A shasum that is nested deeper than Python can print is refused like any other."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidShasum, match="it is a list"):
        file_sighting(download(shasum=deep), SESSION)


# --- times ---


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        ("2026-11-22T05:18:27.110758+05:30", "2026-11-21 23:48:27.110758"),
        (1795304907, "2026-11-21 23:48:27.000000"),
        ("yesterday", None),
        ("0001-01-01T00:00:00+0100", None),
        (None, None),
        (["2026"], None),
    ],
)
def test_time_is_the_events(timestamp: object, moment: str | None) -> None:
    """A file is first seen when its event says, in UTC; an event without a readable time gives none, and no error."""
    assert sighting(download(timestamp=timestamp)).first_seen == moment


# --- attackers' text ---

HOSTILE = st.text(
    st.characters(codec=None) | st.sampled_from("\0\x1b\r\n\t\\/\x7f\x9b\u202e\u200b\ufeff\ud800\udfff😀éx%?#:"),
    min_size=1,
    max_size=300,
)


@given(HOSTILE, HOSTILE)
def test_hostile_names_are_inert_and_reversible(name: str, path: str) -> None:
    """Control, invisible and lone-surrogate characters are escaped, fit every database, and can be restored."""
    url = f"http://198.51.100.7/{path}"
    found_name, found_url = name_and_url(download(destfile=name, url=url))
    assert found_name is not None
    assert found_url is not None

    for text, original, limit in ((found_name, name, MAX_FILENAME_CHARS), (found_url, url, MAX_URL_CHARS)):
        assert not INVISIBLE.search(text)
        assert text.encode("utf-8")
        assert len(text) <= limit
        if not text.endswith("…"):
            assert restore(text) == original


@given(HOSTILE)
def test_hostile_urls_are_no_error(url: str) -> None:
    """For any URL that an attacker chooses, the file is found and what is stored of it is inert."""
    name, link = name_and_url(download(url=url))

    assert not INVISIBLE.search((name or "") + (link or ""))


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("a\0b", r"a\x00b"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("txt.\u202egpj.exe", r"txt.\u202egpj.exe"),
        ("a\r\nb", r"a\x0d\x0ab"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("C:\\x", r"C:\\x"),
        ("naïve 😀", "naïve 😀"),
    ],
)
def test_known_tricks_are_stored_as_escapes(name: str, stored: str) -> None:
    """NUL, ESC, line breaks, right-to-left overrides, lone surrogates and backslashes are stored as escapes."""
    assert sighting(download(destfile=name)).filename == stored
    assert restore(stored) == name


@pytest.mark.parametrize("character", ["x", "é", "😀", "\0", "\\", "\u202e", "\U000e0041"])
def test_long_names_and_urls_are_cut(character: str) -> None:
    """Names are cut to 512 characters and URLs to 1024, never in the middle of an escape, and the cut shows."""
    found = sighting(download(destfile=character * 5000, url="http://198.51.100.7/" + character * 5000))
    assert found.filename is not None
    assert found.download_url is not None

    for text, limit in ((found.filename, 512), (found.download_url, 1024)):
        assert limit - len(r"\U000e0041") <= len(text) <= limit
        assert text.endswith("…")
        assert set(restore(text[:-1]).removeprefix("http://198.51.100.7/")) == {character}


@pytest.mark.parametrize(("length", "cut"), [(512, False), (513, True)])
def test_name_is_cut_only_if_it_is_too_long(length: int, cut: bool) -> None:
    """A name of exactly the maximum length is not cut."""
    name = "x" * length
    stored = sighting(download(destfile=name)).filename

    assert stored == ("x" * 511 + "…" if cut else name)


# --- the public function ---


def test_plain_dictionary_of_an_event() -> None:
    """process_file_download_event returns the documented keys; no Cowrie event has a size."""
    event = download(shasum=SHA256.upper(), url="http://198.51.100.7/x.sh")

    assert process_file_download_event(event, SESSION) == {
        "session_id": SESSION,
        "shasum": SHA256,
        "filename": "x.sh",
        "file_size": None,
        "download_url": "http://198.51.100.7/x.sh",
        "first_seen": dt.datetime(2026, 11, 21, 23, 48, 27, 110758, tzinfo=dt.UTC),
    }


def test_plain_dictionary_of_an_event_without_a_time() -> None:
    """An event without a readable time gives the file without a time."""
    found = process_file_download_event(download(timestamp="yesterday"), SESSION)

    assert found is not None
    assert found["first_seen"] is None


def test_plain_dictionary_of_an_invalid_hash() -> None:
    """process_file_download_event refuses a shasum that is not a hash, too."""
    with pytest.raises(InvalidShasum):
        process_file_download_event(download(shasum="x"), SESSION)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(None, None, None), ("b", None, "b"), (None, "b", "b"), ("b", "a", "a"), ("B", "a", "B"), ("é", "z", "z")],
)
def test_smallest_is_the_same_either_way(one: str | None, other: str | None, expected: str | None) -> None:
    """Of two observations the smaller in binary order wins, in any order; None is larger than any text."""
    assert smallest(one, other) == smallest(other, one) == expected


# --- real events ---


def test_every_shape_that_was_ever_seen(corpus: Path) -> None:
    """All 58 shapes of file events in 482,000 real lines are read without an error: 37 name a file, 21 do not."""
    shapes = [json.loads(line) for line in (corpus / "file-event-shapes.jsonl").read_text().splitlines()]
    found = [file_sighting(shape, shape["session"]) for shape in shapes]

    assert len(shapes) == 58
    for shape, file in zip(shapes, found, strict=True):
        assert (file is not None) == (shape["eventid"] != FILE_DOWNLOAD_FAILED and len(shape.get("shasum", "")) == 64)
        if file is not None:
            assert (file.sha256, file.origin) == (shape["shasum"], ORIGINS[shape["eventid"]])
            assert file.first_seen is not None
            assert process_file_download_event(shape, shape["session"])
    assert Counter(file.origin if file else None for file in found) == {"upload": 22, "download": 15, None: 21}
    assert Counter(
        (shape["eventid"], reason_without_file(shape)) for shape, file in zip(shapes, found, strict=True) if not file
    ) == {(FILE_DOWNLOAD, SKIPPED_NO_SHASUM): 16, (FILE_DOWNLOAD_FAILED, SKIPPED_NO_SHASUM): 5}


def test_names_and_urls_of_real_downloads(corpus: Path) -> None:
    """The names and URLs of the downloads among the real shapes are those that a person would give."""
    shapes = [json.loads(line) for line in (corpus / "file-event-shapes.jsonl").read_text().splitlines()]
    for shape in shapes:
        if "destfile" in shape:
            shape["destfile"] = re.sub(r"_\d+_\d+_\d+_\d+_w", "_w", shape["destfile"])  # somebody's address
    found = [file_sighting(shape, shape["session"]) for shape in shapes]

    assert [(file.filename, file.download_url) for file in found if file and file.origin == "download"] == [
        ("/hxample.txt", None),
        (None, "http://22b8a7.example"),
        (None, "https://1d5920.example"),
        (None, None),
        ("/tftp1.sh", "tftp://198.18.0.105/tftp1.sh"),
        ("ftp1.sh", "ftp://294de3.example:anonymous@198.18.0.105/ftp1.sh"),
        ("/root/.ssh/authorized_keys", None),
        ("shr", "http://198.18.0.114/shr"),
        (None, None),
        ("n2", "http://198.18.0.117/n2"),
        ("x86", "http://198.18.0.119/ssh/new/x86"),
        ("var/lib/cowrie/downloads/20200121131433_aa80bf3fb7ad_0_http___w_txt", "http://198.18.0.121/w.txt"),
        ("/root/ygljglkjgfg1", "http://198.18.0.121/w.txt"),
        ("null", None),
        ("beetleftp.sh", "ftp://198.18.0.129/beetleftp.sh"),
    ]
    assert {(file.filename is None, file.download_url) for file in found if file and file.origin == "upload"} == {
        (False, None)
    }


@pytest.mark.parametrize(
    ("log", "files", "pairs", "hashes", "without"),
    [
        ("cowrie-3.1.4/cowrie.json", 120, 106, 17, {}),
        ("cowrie-2.2/cowrie.json.2021-03-09", 83, 65, 2, {SKIPPED_EMPTY_SHASUM: 18}),
        ("cowrie-2.9/cowrie.json", 0, 0, 0, {}),
    ],
)
def test_real_logs(corpus: Path, log: str, files: int, pairs: int, hashes: int, without: dict[str, int]) -> None:
    """Real logs give as many files as their description says, and every other file event is counted by reason."""
    events = [json.loads(line) for line in (corpus / log).read_text().splitlines()]
    named = [event for event in events if event["eventid"] in ORIGINS]
    found = [one for event in named if (one := file_sighting(event, event["session"]))]

    assert len(found) == files
    assert len({(file.session_id, file.sha256) for file in found}) == pairs
    assert len({file.sha256 for file in found}) == hashes
    nameless = [event for event in named if not file_sighting(event, event["session"])]
    assert Counter(map(reason_without_file, nameless)) == without
