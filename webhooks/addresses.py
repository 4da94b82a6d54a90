"""Which addresses a user may have us call: none inside our own network, for we would call it in their place (SSRF).

A name is looked up when a message is sent, and what was looked at is what is called, so that a name can't point
elsewhere in between (DNS rebinding).
"""

import asyncio
import ipaddress
import socket
from urllib.parse import urlsplit

import httpx

from batchmill.config.errors import BatchmillError
from batchmill.config.urls import is_url

_LONGEST = 2048
_LOOK_UP = 10.0  # seconds for a name
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: reaches the IPv4 address in its last four bytes

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class AddressError(BatchmillError):
    """A URL can't be called, or must not be; the message says why, without the URL."""


def check_url(url: str, *, private: bool) -> None:
    """Raise AddressError for what no webhook can be; a name is looked up only when it is called.

    `private` allows addresses of our own network, too.
    """
    if len(url) > _LONGEST or not url.isascii() or not is_url(url, ("http", "https")):
        raise AddressError("a webhook is an http or https URL of up to 2048 characters")
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise AddressError("a webhook's URL holds no user or password; its messages are signed instead")
    host = parts.hostname or ""
    if private:
        return
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        raise AddressError("a webhook can't be an address of the service's own network")
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return
    if not is_public(found):
        raise AddressError("a webhook can't be an address of the service's own network")


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _TRANSLATED:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


async def request_to(client: httpx.AsyncClient, url: str, body: bytes, *, private: bool) -> httpx.Request:
    """Return a POST to a URL, bound to an address that may be called. Raises AddressError."""
    check_url(url, private=private)
    request = client.build_request("POST", url, content=body)
    if private:
        return request
    host = request.url.host
    address = await _public_address(host, request.url.port or (443 if request.url.scheme == "https" else 80))
    request.extensions = {**request.extensions, "sni_hostname": host}  # the certificate is the name's
    request.url = request.url.copy_with(host=address)  # the Host header is made already
    return request


async def _public_address(host: str, port: int) -> str:
    try:
        async with asyncio.timeout(_LOOK_UP):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError("the webhook's host can't be found") from error
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(is_public(ipaddress.ip_address(address)) for address in addresses):
        raise AddressError("the webhook's host is in the service's own network")
    return addresses[0]
