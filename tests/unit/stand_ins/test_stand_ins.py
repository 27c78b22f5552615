"""The stand-ins do what other tests rely on."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.stand_ins import behaviours
from tests.stand_ins.clock import START, ManualClock
from tests.stand_ins.hashlookup import Hashlookup
from tests.stand_ins.malwarebazaar import AUTH_KEY, QUERY_STATUSES, MalwareBazaar
from tests.stand_ins.server import Answer, Behaviour, Received, StandIn
from tests.stand_ins.urlhaus import Urlhaus
from tests.stand_ins.virustotal import ERRORS, KEY, STATUS, USER, KeyLimits, VirusTotal, limited

SHA256 = "ab" * 32
OTHER = "cd" * 32
ADDRESS = "http://192.0.2.7/bot.arm7"
ASKING = {"x-apikey": KEY}
AUTHENTIC = {"Auth-Key": AUTH_KEY}


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still."""
    return ManualClock()


@pytest.fixture
def virustotal(clock: ManualClock) -> Iterator[VirusTotal]:
    """VirusTotal with the limits of a free key."""
    with VirusTotal(clock) as stand_in:
        yield stand_in


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(timeout=30) as made:
        yield made


def ask(client: httpx.Client, stand_in: VirusTotal, sha256: str = SHA256) -> int:
    """Ask for one file and return the status."""
    return client.get(f"{stand_in.url}/files/{sha256}", headers=ASKING).status_code


def raw(stand_in: StandIn, sha256: str = SHA256) -> bytes:
    """Ask for one file over a plain socket and return the bytes until its end, up to a maximum."""
    port = int(stand_in.host.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        head = f"GET /api/v3/files/{sha256} HTTP/1.1\r\nHost: x\r\nx-apikey: {KEY}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        while len(received) < 1_000_000 and (data := connection.recv(65536)):
            received += data
        return received


def test_a_known_file_is_answered_under_its_sha256(virustotal: VirusTotal, client: httpx.Client) -> None:
    """A file is found by each of its hashes, and its id is always its SHA-256."""
    attributes = virustotal.add(SHA256, malicious=12, total=70)
    for name in ("md5", "sha1", "sha256"):
        answer = client.get(f"{virustotal.url}/files/{attributes[name]}", headers=ASKING).json()
        assert SHA256 == answer["data"]["id"]
        assert "file" == answer["data"]["type"]
        stats = answer["data"]["attributes"]["last_analysis_stats"]
        assert 12 == stats["malicious"]
        assert 70 == sum(stats[name] for name in ("malicious", "suspicious", "undetected", "harmless"))
    assert {SHA256: 3} == virustotal.asked()


def test_reports_agree_with_their_engine_rows() -> None:
    """The statistics of a report are the numbers of its engine rows."""
    from tests.stand_ins.virustotal import report

    attributes = report(SHA256, malicious=5, suspicious=2, total=60)
    categories = [row["category"] for row in attributes["last_analysis_results"].values()]
    for category in ("malicious", "suspicious", "undetected", "timeout", "type-unsupported"):
        assert attributes["last_analysis_stats"][category] == categories.count(category)


def test_a_file_without_analysis_has_no_statistics() -> None:
    """A file that was never analysed has neither date nor figures of an analysis."""
    from tests.stand_ins.virustotal import report

    attributes = report(SHA256, analysed_at=None)
    assert not {"last_analysis_date", "last_analysis_stats", "last_analysis_results"} & attributes.keys()


def test_a_key_is_needed(virustotal: VirusTotal, client: httpx.Client) -> None:
    """A missing and a wrong key have different errors, and neither counts against the right one."""
    for headers, code in (({}, "AuthenticationRequiredError"), ({"x-apikey": "wrong"}, "WrongCredentialsError")):
        answer = client.get(f"{virustotal.url}/files/{SHA256}", headers=headers)
        assert (401, code) == (answer.status_code, answer.json()["error"]["code"])
    assert 0 == virustotal.used(KEY, "day")
    assert 2 == len(virustotal.log)


def test_the_minute_limit_holds_in_any_minute(virustotal: VirusTotal, client: httpx.Client, clock: ManualClock) -> None:
    """Four requests around the turn of a minute allow no fifth until 60 s after the first."""
    clock.set(START.replace(second=58))
    assert [404] * 2 == [ask(client, virustotal) for _ in range(2)]
    clock.advance(4)
    assert [404] * 2 == [ask(client, virustotal) for _ in range(2)]
    assert [] == virustotal.violations
    clock.advance(55.9)
    assert 429 == ask(client, virustotal)
    assert [("minute", 5)] == [(violation.window, violation.count) for violation in virustotal.violations]
    clock.advance(64.1)
    assert 404 == ask(client, virustotal)
    assert 1 == len(virustotal.violations)


def test_every_path_costs(virustotal: VirusTotal, client: httpx.Client) -> None:
    """Unknown files, quotas and wrong addresses cost as much as reports."""
    virustotal.add(SHA256)
    for path in (f"files/{SHA256}", f"files/{OTHER}", f"users/{USER}/overall_quotas", "nowhere"):
        client.get(f"{virustotal.url}/{path}", headers=ASKING)
    assert (4, 4, 4) == tuple(virustotal.used(KEY, window) for window in ("hour", "day", "month"))
    assert 429 == ask(client, virustotal)


@pytest.mark.parametrize(("window", "limits"), [("day", KeyLimits(None, 3, None)), ("month", KeyLimits(None, None, 3))])
def test_days_and_months_end_in_utc(window: str, limits: KeyLimits, client: httpx.Client) -> None:
    """The last second of a day or month belongs to it, and midnight in UTC begins the next."""
    clock = ManualClock(dt.datetime(2026, 2, 28, 23, 59, 59, tzinfo=dt.UTC))
    with VirusTotal(clock, limits=limits) as virustotal:
        assert [404, 404, 404, 429] == [ask(client, virustotal) for _ in range(4)]
        assert [window] == [violation.window for violation in virustotal.violations]
        clock.advance(1)
        assert 404 == ask(client, virustotal)


@settings(max_examples=25)
@given(st.lists(st.sampled_from([0.0, 1.0, 14.9, 15.0, 20.0, 59.0, 60.0, 3600.0, 43200.0]), max_size=40))
def test_violations_are_those_of_an_independent_count(pauses: list[float]) -> None:
    """A request is a violation exactly if it exceeds the limit of its minute, day or month."""
    clock = ManualClock(dt.datetime(2026, 1, 30, 12, tzinfo=dt.UTC))
    virustotal = VirusTotal(clock, limits=KeyLimits(2, 5, 12))
    sent: list[dt.datetime] = []
    expected = []
    for pause in pauses:
        now = clock.advance(pause)
        sent.append(now)
        if sum(now - moment < dt.timedelta(seconds=60) for moment in sent) > 2:
            expected.append(("minute", now))
        if sum(moment.date() == now.date() for moment in sent) > 5:
            expected.append(("day", now))
        if sum((moment.year, moment.month) == (now.year, now.month) for moment in sent) > 12:
            expected.append(("month", now))
        virustotal.receive("GET", "/api/v3/files/x", ASKING, b"")
    assert expected == [(violation.window, violation.at) for violation in virustotal.violations]


def test_quotas_have_no_attributes_level(virustotal: VirusTotal, client: httpx.Client) -> None:
    """The quotas are directly below `data`, by user or key, and count the request that reads them."""

    def quotas(who: str) -> dict[str, Any]:
        answer = client.get(f"{virustotal.url}/users/{who}/overall_quotas", headers=ASKING).json()
        data = answer["data"]
        assert isinstance(data, dict)
        return data

    assert {"user": {"allowed": 500, "used": 1}} == quotas(USER)["api_requests_daily"]
    virustotal.quotas_as = "group"
    assert {"group": {"allowed": 240, "used": 2, "inherited_from": "a_group"}} == quotas(KEY)["api_requests_hourly"]
    virustotal.quotas_as = "none"
    assert {"user": {"allowed": None, "used": None}} == quotas(KEY)["api_requests_monthly"]


def test_quotas_of_others_are_forbidden(client: httpx.Client, clock: ManualClock) -> None:
    """A key reads only its own quotas."""
    with VirusTotal(clock, keys={KEY: KeyLimits(), "another": KeyLimits()}) as virustotal:
        assert 403 == client.get(f"{virustotal.url}/users/another/overall_quotas", headers=ASKING).status_code
        assert 404 == client.get(f"{virustotal.url}/users/nobody/overall_quotas", headers=ASKING).status_code


def test_uploads_arrive_as_they_were_sent(virustotal: VirusTotal, client: httpx.Client) -> None:
    """A file arrives byte for byte, at both addresses for uploads."""
    content = bytes(range(256)) + b"\r\n--x\r\n"
    sent = {"file": ("näme.bin", content)}
    assert "analysis" == client.post(f"{virustotal.url}/files", headers=ASKING, files=sent).json()["data"]["type"]
    address = client.get(f"{virustotal.url}/files/upload_url", headers=ASKING).json()["data"]
    assert 200 == client.post(address, headers=ASKING, files=sent).status_code
    assert [("näme.bin", content)] * 2 == virustotal.uploads
    assert 400 == client.post(f"{virustotal.url}/files", headers=ASKING, data={"file": "no file"}).status_code


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_each_error_of_the_table_can_be_had(code: str, virustotal: VirusTotal, client: httpx.Client) -> None:
    """Each documented error has its status and its body, once; then the file is answered."""
    virustotal.add(SHA256)
    virustotal.script(SHA256, [ERRORS[code]])
    answer = client.get(f"{virustotal.url}/files/{SHA256}", headers=ASKING)
    assert (STATUS[code], code) == (answer.status_code, answer.json()["error"]["code"])
    assert "retry-after" not in answer.headers
    assert 200 == ask(client, virustotal)


def test_a_limit_can_say_when_to_come_back(virustotal: VirusTotal, client: httpx.Client) -> None:
    """A 429 has a Retry-After if a test wants one, and is not itself a violation."""
    virustotal.fail_next(1, limited("120"))
    answer = client.get(f"{virustotal.url}/files/{SHA256}", headers=ASKING)
    assert (429, "120") == (answer.status_code, answer.headers["Retry-After"])
    assert [] == virustotal.violations


def test_an_outage_goes_before_scripts_and_limits_before_both(client: httpx.Client, clock: ManualClock) -> None:
    """An outage treats every request alike until it ends, and uses up no scripted behaviour."""
    with VirusTotal(clock, limits=KeyLimits(3, None, None)) as virustotal:
        virustotal.add(SHA256)
        virustotal.script(SHA256, [ERRORS["TransientError"]])
        virustotal.outage = behaviours.HTML_502
        assert 502 == ask(client, virustotal)
        virustotal.outage = None
        assert [503, 200, 429] == [ask(client, virustotal) for _ in range(3)]


WIRE = (
    (behaviours.HTML_502, b"HTTP/1.1 502 ", b"<html>"),
    (behaviours.HTML_404, b"HTTP/1.1 404 ", b"<html>"),
    (behaviours.EMPTY_204, b"HTTP/1.1 204 ", b"\r\n\r\n"),
    (behaviours.EMPTY_200, b"HTTP/1.1 200 ", b"Content-Length: 0\r\n\r\n"),
    (behaviours.CLOSED, b"", b""),
    (behaviours.NOT_HTTP, b"220 ", b""),
    (behaviours.HUGE, b"HTTP/1.1 200 ", f"Content-Length: {behaviours.HUGE_BYTES}"[:18].encode()),
    (behaviours.ENDLESS, b"HTTP/1.1 200 ", b"chunked"),
    (behaviours.MANY_HEADERS, b"HTTP/1.1 200 ", b"X-Filler"),
    (behaviours.GZIP_BOMB, b"HTTP/1.1 200 ", b"Content-Encoding: gzip"),
    (behaviours.redirect("http://192.0.2.1/"), b"HTTP/1.1 302 ", b"Location: http://192.0.2.1/"),
    (behaviours.ALL_NULL, b"HTTP/1.1 200 ", b'"sha256": null'),
    (behaviours.A_LIST, b"HTTP/1.1 200 ", b"[{"),
)


@pytest.mark.parametrize(("behaviour", "start", "inside"), WIRE, ids=[str(row[0]) for row in WIRE])
def test_bad_behaviours_are_on_the_wire(
    behaviour: Behaviour, start: bytes, inside: bytes, virustotal: VirusTotal
) -> None:
    """A plain socket sees of each behaviour what its name says."""
    virustotal.add(SHA256)
    virustotal.script(SHA256, [behaviour])
    received = raw(virustotal)
    assert received.startswith(start)
    assert inside in received


def test_answers_can_be_cut(virustotal: VirusTotal) -> None:
    """A truncated document announces its own length, a short one a longer length, and both have a head."""
    virustotal.add(SHA256)
    virustotal.script(SHA256, [behaviours.TRUNCATED, behaviours.SHORT])
    for difference in (0, 100):
        head, body = raw(virustotal).split(b"\r\n\r\n", 1)
        announced = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert difference == announced - len(body)
        with pytest.raises(json.JSONDecodeError) if difference == 0 else contextlib.nullcontext():
            json.loads(body)


@pytest.mark.parametrize("behaviour", [behaviours.RESET, behaviours.RESET_IN_BODY], ids=str)
def test_a_reset_is_a_reset(behaviour: Behaviour, virustotal: VirusTotal) -> None:
    """A connection that is reset does not end normally."""
    virustotal.add(SHA256)
    virustotal.script(SHA256, [behaviour])
    with pytest.raises(ConnectionResetError):
        raw(virustotal)


@pytest.mark.parametrize(
    "behaviour", [behaviours.HANG, behaviours.HANG_IN_BODY, behaviours.SLOW_DRIP, behaviours.DRIPPING_HEADERS], ids=str
)
def test_who_hangs_keeps_no_stand_in_from_ending(behaviour: Behaviour, clock: ManualClock) -> None:
    """A client that is still waiting when the stand-in ends sees the connection close."""
    with VirusTotal(clock) as virustotal:
        virustotal.add(SHA256)
        virustotal.script(SHA256, [behaviour])
        port = int(virustotal.host.rsplit(":", 1)[1])
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.sendall(f"GET /api/v3/files/{SHA256} HTTP/1.1\r\nHost: x\r\nx-apikey: {KEY}\r\n\r\n".encode())
        if behaviour is not behaviours.HANG:
            assert b"HTTP" == connection.recv(4)
    with connection, contextlib.suppress(ConnectionResetError):
        while connection.recv(65536):
            pass


def test_a_fault_of_the_stand_in_itself_is_no_secret() -> None:
    """An error inside a stand-in ends its `with` block in an error."""

    class Broken(StandIn):
        def answer(self, received: Received) -> Answer:
            raise KeyError(received.path)

    def use() -> None:
        with Broken() as broken, httpx.Client() as client, pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{broken.url}/x")

    with pytest.raises(AssertionError, match="the stand-in itself failed"):
        use()


def test_malwarebazaar_knows_files_by_each_hash(client: httpx.Client) -> None:
    """A known file is `ok` by each of its hashes, an unknown one is not found, both with status 200."""
    with MalwareBazaar() as bazaar:
        known = bazaar.add(SHA256, signature="Gafgyt")
        for value in (SHA256, SHA256.upper(), known["md5_hash"], known["sha1_hash"]):
            answer = client.post(bazaar.url, headers=AUTHENTIC, data={"query": "get_info", "hash": value}).json()
            assert ("ok", "Gafgyt") == (answer["query_status"], answer["data"][0]["signature"])
        for value, expected in ((OTHER, "hash_not_found"), ("xyz", "illegal_hash"), ("", "no_hash_provided")):
            answer = client.post(bazaar.url + "/", headers=AUTHENTIC, data={"query": "get_info", "hash": value})
            assert (200, {"query_status": expected}) == (answer.status_code, answer.json())
        assert 4 == bazaar.asked()[SHA256]


@pytest.mark.parametrize("service", [MalwareBazaar, Urlhaus])
def test_abuse_ch_wants_a_key_and_a_form(service: type[MalwareBazaar | Urlhaus], client: httpx.Client) -> None:
    """A wrong key is a 403 with a message in JSON; a GET and a JSON body are answered `http_post_expected`."""
    with service() as stand_in:
        refused = client.post(stand_in.url, headers={"Auth-Key": "wrong"}, data={"query": "get_info"})
        assert (403, {"query_status": "unknown_auth_key"}) == (refused.status_code, refused.json())
        expected = {"query_status": "http_post_expected"}
        assert expected == client.get(stand_in.url, headers=AUTHENTIC).json()
        assert expected == client.post(stand_in.url, headers=AUTHENTIC, json={"query": "get_info"}).json()


def test_abuse_ch_statuses_can_be_scripted(client: httpx.Client) -> None:
    """Each status of abuse.ch can be scripted once."""
    with MalwareBazaar() as bazaar:
        bazaar.add(SHA256)
        bazaar.script(SHA256, QUERY_STATUSES.values())
        form = {"query": "get_info", "hash": SHA256}
        for name in (*QUERY_STATUSES, "ok"):
            assert name == client.post(bazaar.url, headers=AUTHENTIC, data=form).json()["query_status"]


def test_urlhaus_knows_payloads_and_addresses(client: httpx.Client) -> None:
    """Payloads are found by both hashes, URLs as they are written; any other request has its status."""
    with Urlhaus() as urlhaus:
        known = urlhaus.add(SHA256, detected=None)
        urlhaus.add_address(ADDRESS, tags=("mozi",))

        def post(path: str, **form: str) -> Any:
            return client.post(f"{urlhaus.url}/{path}/", headers=AUTHENTIC, data=form).json()

        assert SHA256 == post("payload", sha256_hash=SHA256)["sha256_hash"]
        assert post("payload", md5_hash=known["md5_hash"])["virustotal"] is None
        assert "no_results" == post("payload", sha256_hash=OTHER)["query_status"]
        assert "invalid_sha256" == post("payload", sha256_hash="xyz")["query_status"]
        assert "invalid_md5" == post("payload", md5_hash="xyz")["query_status"]
        assert ["mozi"] == post("url", url=ADDRESS)["tags"]
        assert "no_results" == post("url", url=ADDRESS + "2")["query_status"]
        assert "invalid_url" == post("url", url="bot.arm7")["query_status"]
        assert 1 == urlhaus.asked()[ADDRESS]
        assert 2 == urlhaus.asked()[SHA256]


def test_hashlookup_answers_one_and_many(client: httpx.Client) -> None:
    """A single hash is found, unknown or malformed; of many, only the known ones are answered, without trust."""
    with Hashlookup() as hashlookup:
        known = hashlookup.add(SHA256)
        found = client.get(f"{hashlookup.url}/lookup/sha256/{SHA256}")
        assert (200, SHA256.upper(), 100) == (
            found.status_code,
            found.json()["SHA-256"],
            found.json()["hashlookup:trust"],
        )
        unknown = client.get(f"{hashlookup.url}/lookup/sha256/{OTHER}")
        assert (404, OTHER) == (unknown.status_code, unknown.json()["query"])
        assert 400 == client.get(f"{hashlookup.url}/lookup/md5/{SHA256}").status_code
        asked = [known["MD5"], "0" * 32]
        (only,) = client.post(f"{hashlookup.url}/bulk/md5", json={"hashes": asked}).json()
        assert SHA256.upper() == only["SHA-256"]
        assert "hashlookup:trust" not in only
        assert [[value.lower() for value in asked]] == hashlookup.bulk_hashes()
