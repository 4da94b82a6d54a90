"""Whether a request comes from this machine, and whether a browser sent it on behalf of another site."""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.requests import Request

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""

_HOST = re.compile(r"[A-Za-z0-9._-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")
_PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


def is_local(request: Request) -> bool:
    """Whether somebody on this machine asks us by a name of this machine.

    By another name, it is a page of somebody else's that a browser was told lives here (DNS rebinding); and what a
    proxy hands on may come from anywhere. One that adds no header shows by its HTTP/1.0, as nginx does by default:
    that asks by our own address, too.
    """
    client = request.client
    if client is None or request.scope.get("http_version") == "1.0":
        return False
    if any(name in request.headers for name in _PROXIED):
        return False
    return is_loopback(client.host) and is_loopback(host_of(request))


def host_of(request: Request) -> str:
    """Return the name by which we are asked, without the port; empty when there is none that can be meant."""
    return host_in(request.headers.get("host", ""))


def host_in(header: str) -> str:
    """Return the host that a Host header names, without the port; empty for one that is not sound."""
    if not _HOST.fullmatch(header):
        return ""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address, is this machine and reached by nobody else."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def is_own(request: Request) -> bool:
    """Whether no browser says that another site caused the request. Programs say nothing of the kind."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower() != ""
    except ValueError:
        return False


def is_https(request: Request) -> bool:
    """Whether the browser speaks TLS, to us or to the proxy before us."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").lower() == "https"
