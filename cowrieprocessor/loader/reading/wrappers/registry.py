"""The wrappers there are, and the one that an object shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cowrieprocessor.loader.reading.wrappers.base import Wrapper
from cowrieprocessor.loader.reading.wrappers.containers import (
    FIELD_PREFIX,
    DockerJsonFile,
    Field,
    Journald,
    field_wrapper,
)
from cowrieprocessor.loader.reading.wrappers.elastic import ElasticsearchBulk, ElasticsearchSource, Shipper
from cowrieprocessor.loader.reading.wrappers.services import CloudWatch, Loki, SplunkHec
from cowrieprocessor.loader.reading.wrappers.text_lines import ANY_PREFIX, TEXT_WRAPPERS

_SHIPPER = Shipper()
OBJECT_WRAPPERS: tuple[Wrapper, ...] = (
    DockerJsonFile(),
    Journald(),
    ElasticsearchSource(),
    ElasticsearchBulk(),
    _SHIPPER,
    SplunkHec(),
    Loki(),
    CloudWatch(),
)
"""The wrappers whose values are JSON objects."""

_BY_NAME = {wrapper.name: wrapper for wrapper in (*OBJECT_WRAPPERS, *TEXT_WRAPPERS, ANY_PREFIX)}


def wrapper_named(name: str) -> Wrapper:
    """Return the wrapper with a name that `Wrapper.name` gave."""
    if name.startswith(FIELD_PREFIX):
        return Field(name.removeprefix(FIELD_PREFIX))
    return _BY_NAME[name]


def object_wrapper(fields: Mapping[str, Any]) -> Wrapper | None:
    """Return the wrapper that an object shows, None if it shows none, as an event does that Cowrie wrote."""
    if "eventid" in fields:
        return _SHIPPER if _SHIPPER.is_frame(fields) else None
    return next((wrapper for wrapper in OBJECT_WRAPPERS if wrapper.is_frame(fields)), None) or field_wrapper(fields)
