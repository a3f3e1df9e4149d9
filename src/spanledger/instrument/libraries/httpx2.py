"""httpx2: what its clients send; its shape is that of httpx."""

from __future__ import annotations

from spanledger.instrument.libraries._httpx_like import library

LIBRARY = library("httpx2", "httpx2>=2,<3")
