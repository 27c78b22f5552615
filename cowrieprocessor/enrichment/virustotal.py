"""The VirusTotal provider under its public path; it is defined in `enrichment/providers/virustotal.py`."""

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
