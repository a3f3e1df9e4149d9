"""How one place can be written: hosts, paths and methods of HTTP requests, and what each may be taken for.

Rules: pure; names are compared, never looked up. Clients, proxies and servers read the same spelling in different ways,
so a spelling has *readings*: all that somebody may take it for. What cannot be read has none and is None, which a
restricting rule takes for what it names, and a permitting one does not.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import unicodedata
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

HOST_CHARACTERS_MAX: Final = 253
# Somebody on the way may decode once more than was meant; a path that is still encoded after that hides something.
DECODINGS_MAX: Final = 3
DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

Readings = frozenset[str] | None

_PLAIN_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_DOTS: Final = str.maketrans(dict.fromkeys("\u3002\uff0e\uff61", "."))
# What somebody takes for the end of the host, or leaves out.
_NOT_IN_AUTHORITY: Final = re.compile(r"[\x00-\x20\x7f\\]")
_NOT_IN_HOST: Final = re.compile(r"[\x00-\x20\x7f\\/?#@:\[\]<>^|%]")
_PLAIN_PATH: Final = re.compile(r"(/[\w~!$&'()*+,=:@-][\w.~!$&'()*+,=:@-]*)+/?|/", re.ASCII)
_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")


def split_url(url: str) -> tuple[str, str, int | None, str] | None:
    """Take a URL apart.

    Returns:
        Scheme, host as written and without a user, port, path with its query; None where that cannot be told.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.netloc.rpartition("@")[2], parts.port
    except ValueError:
        return None
    if _NOT_IN_AUTHORITY.search(parts.netloc) or not host:
        return None
    host = host[: host.rfind("]") + 1] if host.startswith("[") else host.partition(":")[0]
    scheme = parts.scheme.lower()
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return scheme, host, port if port is not None else DEFAULT_PORTS.get(scheme), path


@functools.lru_cache(maxsize=1024)
def hosts(host: str) -> Readings:
    """Return what a host may be taken for: in lower case, as ASCII, without a dot at its end, addresses as such."""
    plain = host.lower().rstrip(".")
    if _PLAIN_HOST.fullmatch(plain) and not plain[-1].isdigit() and "0x" not in plain:
        return frozenset({plain}) if len(plain) <= HOST_CHARACTERS_MAX else None
    try:
        return _addresses(host) or _names(unquote_to_bytes(host).decode())
    except (ValueError, UnicodeError):
        return None


def paths(path: str) -> Readings:
    """Return what the path of a target may be taken for; the query is no part of it.

    It is decoded, by some more than once; backslashes may separate, dots go up or not, and parameters of segments be
    left out.
    """
    path = path.partition("?")[0].partition("#")[0] or "/"
    if _PLAIN_PATH.fullmatch(path):
        return frozenset({path})
    found: set[str] = set()
    for _ in range(DECODINGS_MAX + 1):
        try:
            decoded = unquote_to_bytes(path).decode()
        except UnicodeError:
            return None  # no text, or too long a form of one
        if "\0" in decoded:
            return None
        found |= _walked(decoded)
        if decoded == path:
            return frozenset(found)
        path = decoded
    return None


def methods(method: str, overrides: tuple[str, ...] = ()) -> frozenset[str]:
    """Return what a method may be taken for, where headers name another."""
    return frozenset(said.strip().upper() for said in (method, *overrides))


def _walked(path: str) -> set[str]:
    slashed = path.replace("\\", "/")
    bare = re.sub(r";[^/]*", "", slashed)
    return {reading for text in (slashed, bare) for reading in (_joined(text, up=False), _joined(text, up=True))}


def _joined(path: str, *, up: bool) -> str:
    segments: list[str] = []
    pieces = path.split("/")
    for piece in pieces:
        if piece == ".." and up:
            segments = segments[:-1]
        elif piece not in ("", ".") and (piece != ".." or not up):
            segments.append(piece)
    ends = "/" if pieces[-1] in ("", ".", "..") and segments else ""
    return "/" + "/".join(segments) + ends


def _addresses(host: str) -> Readings:
    """Read an IP address in any of its forms; None where it is none."""
    text = unquote_to_bytes(host.strip().strip("[]")).decode().partition("%")[0].rstrip(".").lower()
    if ":" in text:
        address = ipaddress.IPv6Address(text)
        inner = address.ipv4_mapped or address.sixtofour
        return frozenset({str(address)} | ({str(inner)} if inner else set()))
    numbers = unicodedata.normalize("NFKC", text.translate(_DOTS)).split(".")
    if not all(_NUMBER.fullmatch(number) for number in numbers):
        return None
    # As the C library does: octal and hexadecimal numbers, the last of which fills what is left.
    values = [int(n, 16 if n.startswith("0x") else 8 if n.startswith("0") else 10) if n != "0x" else 0 for n in numbers]
    *first, last = values
    if len(values) > 4 or any(value > 255 for value in first):  # noqa: PLR2004 - bytes of an address
        raise ValueError("no address")
    packed = sum(value << (8 * (3 - place)) for place, value in enumerate(first)) + last
    return frozenset({str(ipaddress.IPv4Address(packed))})


def _names(host: str) -> Readings:
    """Read a name in Unicode: clients encode by the rules of 2003 or of 2008."""
    text = unicodedata.normalize("NFKC", host).translate(_DOTS).lower().rstrip(".")
    # Before it is made plain, and after: what one client takes for a letter is the end of a host for another.
    if not text or _NOT_IN_HOST.search(text) or _NOT_IN_HOST.search(host):
        return None
    by_2003 = text.encode("idna").decode().lower()
    by_2008 = ".".join(map(_label, text.split(".")))
    found = frozenset(name for name in (by_2003, by_2008) if len(name) <= HOST_CHARACTERS_MAX)
    return found or None


def _label(label: str) -> str:
    return label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
