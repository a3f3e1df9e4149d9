"""httpx: what its clients send; their transports, also those of a program's own, are below."""

from __future__ import annotations

from spanledger.instrument.libraries._httpx_like import library

LIBRARY = library("httpx", "httpx>=0.27,<1")
