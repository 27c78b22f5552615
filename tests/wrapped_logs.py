"""Cowrie's lines in every wrapper that is read: what other programs make of a log."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

Lines = list[str]

DOCKER_SPLIT = 16 << 10
"""Docker splits a line that is longer, in bytes."""


def json_lines(documents: Iterable[object]) -> bytes:
    """Return documents as a line each."""
    return "".join(json.dumps(document) + "\n" for document in documents).encode()


def docker(lines: Lines, *, split: int = DOCKER_SPLIT) -> bytes:
    """Return what docker's json-file driver writes."""
    records = []
    for line in lines:
        text = line + "\n"
        for start in range(0, len(text), split):
            records.append({"log": text[start : start + split], "stream": "stdout", "time": "2026-03-08T11:00:00.1Z"})
    return json_lines(records)


def cri(lines: Lines, *, split: int = DOCKER_SPLIT) -> bytes:
    """Return what a container runtime under Kubernetes writes."""
    records = []
    for line in lines:
        parts = [line[start : start + split] for start in range(0, len(line), split)]
        tags = ["P"] * (len(parts) - 1) + ["F"]
        records += [
            f"2026-03-08T11:00:00.123456789Z stdout {tag} {part}\n" for tag, part in zip(tags, parts, strict=True)
        ]
    return "".join(records).encode()


def journald(lines: Lines) -> bytes:
    """Return what `journalctl -o json` prints, every third message as an array of bytes."""
    base = {"__CURSOR": "s=1;i=2", "__REALTIME_TIMESTAMP": "1772967600000000", "_PID": "812", "PRIORITY": "6"}
    messages: list[Any] = [list(line.encode()) if number % 3 == 2 else line for number, line in enumerate(lines)]
    return json_lines(base | {"MESSAGE": message} for message in messages)


def added_by_logstash(line: str) -> dict[str, Any]:
    """Return an event with what T-Pot's Logstash adds and renames."""
    event = json.loads(line)
    for name in ("ip", "port"):
        if f"dst_{name}" in event:
            event[f"dest_{name}"] = event.pop(f"dst_{name}")
    added = {"@timestamp": event["timestamp"], "@version": "1", "host": "pot", "path": "/data/cowrie/log/cowrie.json"}
    added |= {"geoip": {"country": "X"}, "ip_rep": "known attacker", "t-pot_ip_ext": "192.0.2.1", "tags": ["_x"]}
    return {"type": "Cowrie"} | added | event  # an event's own `type` is not overwritten


def added_by_filebeat(line: str) -> dict[str, Any]:
    """Return an event with what Filebeat adds with `json.keys_under_root`."""
    event = json.loads(line)
    added = {
        "@timestamp": event["timestamp"],
        "@metadata": {"beat": "filebeat", "type": "_doc", "version": "8.11.0"},
        "agent": {"type": "filebeat", "version": "8.11.0"},
        "ecs": {"version": "8.0.0"},
        "host": {"name": "pot"},
        "log": {"offset": 0, "file": {"path": "/var/log/cowrie.json"}},
        "input": {"type": "log"},
    }
    return added | event


def loki_streams(lines: Lines) -> list[dict[str, Any]]:
    """Return two streams with the lines in their order."""
    half = len(lines) // 2
    parts = lines[:half], lines[half:]
    return [
        {"stream": {"job": "cowrie", "part": str(number)}, "values": [["1772967600000000000", line] for line in part]}
        for number, part in enumerate(parts)
    ]


def cloudwatch_events(lines: Lines) -> list[dict[str, Any]]:
    """Return the events of CloudWatch."""
    return [{"timestamp": 1772967600000, "message": line, "ingestionTime": 1772967600001} for line in lines]


def prefixed(prefix: str) -> Callable[[Lines], bytes]:
    """Return a function that puts a text before each line."""
    return lambda lines: "".join(f"{prefix}{line}\n" for line in lines).encode()


def bulk(lines: Lines) -> bytes:
    """Return the body of a `_bulk` request."""
    return "".join(f'{{"index": {{"_index": "cowrie"}}}}\n{line}\n' for line in lines).encode()


WRAPPED: dict[str, tuple[str, Callable[[Lines], bytes]]] = {
    "docker": ("docker json-file", docker),
    "docker, split": ("docker json-file", lambda lines: docker(lines, split=50)),
    "docker, stripped": (
        "docker json-file",
        lambda lines: json_lines(
            {"log": text, "stream": "stdout", "time": "x"} for line in lines for text in ("[-] some text", line)
        ),
    ),
    "cri": ("CRI", cri),
    "cri, split": ("CRI", lambda lines: cri(lines, split=50)),
    "journald": ("journald", journald),
    "syslog": ("syslog", prefixed("Mar  8 11:00:00 pot cowrie[812]: ")),
    "syslog, priority": ("syslog", prefixed("<14>Mar  8 11:00:00 pot cowrie: ")),
    "syslog, rsyslog": ("syslog", prefixed("2026-03-08T11:00:00.123456+01:00 pot cowrie[812]: ")),
    "syslog, RFC 5424": ("syslog", prefixed('<14>1 2026-03-08T11:00:00.1Z pot cowrie 812 - [x@1 y="z"] ')),
    "syslog, counted": ("syslog", prefixed("312 <14>1 2026-03-08T11:00:00.1Z pot cowrie - - - ")),
    "syslog, cee": ("syslog", prefixed("Mar 18 11:00:00 pot cowrie[812]: @cee: ")),
    "journalctl": ("syslog", prefixed("Mar 08 11:00:00 pot cowrie[812]: ")),
    "compose": ("docker compose", prefixed("cowrie-1  | ")),
    "compose, colours": ("docker compose", prefixed("\x1b[36mcowrie-1  | \x1b[0m")),
    "docker logs -t": ("lines with a time", prefixed("2026-03-08T11:00:00.123456789Z ")),
    "logcli": ("lines with a time", prefixed('2026-03-08T11:00:00Z {job="cowrie"} ')),
    "aws logs tail": ("lines with a time", prefixed("2026-03-08T11:00:00.123000+00:00 pot/stream ")),
    "multilog": ("lines with a time", prefixed("@4000000050e2c2f80d8b1a2c ")),
    "kubectl": ("lines with a prefix", prefixed("[pod/cowrie-0/cowrie] ")),
    "loki, lines": (
        "Loki",
        lambda lines: json_lines(
            {"labels": {"a": "b"}, "line": line, "timestamp": "2026-03-08T11:00:00Z"} for line in lines
        ),
    ),
    "loki, push": ("Loki", lambda lines: json.dumps({"streams": loki_streams(lines)}).encode() + b"\n"),
    "loki, query": (
        "Loki",
        lambda lines: (
            json.dumps(
                {"status": "success", "data": {"resultType": "streams", "result": loki_streams(lines), "stats": {}}},
                indent=1,
            ).encode()
            + b"\n"
        ),
    ),
    "loki, stream": ("Loki", lambda lines: json_lines(loki_streams(lines))),
    "cloudwatch": ("CloudWatch", lambda lines: json_lines(cloudwatch_events(lines))),
    "cloudwatch, answer": (
        "CloudWatch",
        lambda lines: json.dumps({"events": cloudwatch_events(lines), "nextToken": "x"}, indent=4).encode() + b"\n",
    ),
    "cloudwatch, subscription": (
        "CloudWatch",
        lambda lines: json_lines(
            {
                "messageType": "DATA_MESSAGE",
                "owner": "1",
                "logEvents": [
                    {"id": "1", "timestamp": 1772967600000, "message": line} for line in lines[start : start + 3]
                ],
            }
            for start in range(0, len(lines), 3)
        ),
    ),
    "splunk hec": (
        "Splunk HEC",
        lambda lines: "".join(
            f'{{"time": 1772967600.1, "host": "pot", "sourcetype": "cowrie", "event": {line}}}\n' for line in lines
        ).encode(),
    ),
    "splunk hec, text": ("Splunk HEC", lambda lines: json_lines({"time": 1.5, "event": line} for line in lines)),
    "bulk": ("Elasticsearch _bulk", bulk),
    "source": (
        "Elasticsearch _source",
        lambda lines: json_lines({"_index": "x", "_id": "1", "_source": added_by_logstash(line)} for line in lines),
    ),
    "source, search": (
        "Elasticsearch _source",
        lambda lines: (
            json.dumps(
                {
                    "took": 1,
                    "hits": {
                        "hits": [{"_index": "x", "_id": "1", "_source": added_by_filebeat(line)} for line in lines]
                    },
                },
                indent=2,
            ).encode()
            + b"\n"
        ),
    ),
    "source, text": (
        "Elasticsearch _source",
        lambda lines: json_lines(
            {"_index": "x", "_id": "1", "_source": {"@timestamp": "2026-03-08T11:00:00Z", "message": line}}
            for line in lines
        ),
    ),
    "source, original": (
        "Elasticsearch _source",
        lambda lines: json_lines(
            {"_id": "1", "_source": added_by_logstash(line) | {"eventid": "x", "event": {"original": line}}}
            for line in lines
        ),
    ),
    "filebeat": ("Filebeat or Logstash", lambda lines: json_lines(map(added_by_filebeat, lines))),
    "filebeat, text": (
        "Filebeat or Logstash",
        lambda lines: json_lines(
            {"@timestamp": "x", "@metadata": {"beat": "filebeat"}, "message": line, "input": {"type": "log"}}
            for line in lines
        ),
    ),
    "filebeat, target": (
        "Filebeat or Logstash",
        lambda lines: json_lines(
            {"@timestamp": "x", "@metadata": {"beat": "filebeat"}, "json": json.loads(line)} for line in lines
        ),
    ),
    "logstash": ("Filebeat or Logstash", lambda lines: json_lines(map(added_by_logstash, lines))),
    "fluent bit": ("field log", lambda lines: json_lines({"date": 1772967600.1, "log": line} for line in lines)),
    "gcp": ("field textPayload", lambda lines: json_lines({"insertId": "1", "textPayload": line} for line in lines)),
}
"""By a name for tests: the name of the wrapper, and a function that wraps the lines of a log."""
