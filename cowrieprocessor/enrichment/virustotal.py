"""The VirusTotal source under the path that users import; it lives in `enrichment/providers`."""

from __future__ import annotations

from cowrieprocessor.enrichment.providers.virustotal import (
    MAX_UPLOAD_BYTES,
    PUBLIC_LIMITS,
    SMALL_UPLOAD_BYTES,
    UploadAddress,
    Uploaded,
    VirusTotal,
)

__all__ = ["MAX_UPLOAD_BYTES", "PUBLIC_LIMITS", "SMALL_UPLOAD_BYTES", "UploadAddress", "Uploaded", "VirusTotal"]
