"""URLs as settings hold them: which are any good, by what name an upstream goes, and how one is shown."""

from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalized_url(url: str) -> str:
    """Return the URL without user info, default port, query and closing slash, so that one upstream has one name."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = "" if parts.port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


def is_openrouter(url: str) -> bool:
    """Whether the URL is one of OpenRouter's own hosts; `eu.` and `us.` route within a region."""
    host = urlsplit(url).hostname or ""
    return host == "openrouter.ai" or host.endswith(".openrouter.ai")


def is_url(url: str, schemes: tuple[str, ...]) -> bool:
    """Whether a URL names a server by one of the schemes; a socket's path for unix."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number, or too large
    except ValueError:
        return False
    place = parts.path if parts.scheme == "unix" else parts.hostname
    return parts.scheme in schemes and bool(place)


def masked(text: str) -> str:
    """Return the repr of a text; of a URL only what can hold no password."""
    scheme, separator, _ = text.partition("://")
    if not separator:
        return repr(text)
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return repr(f"{scheme}://***")
    user, at, place = parts.netloc.rpartition("@")
    return repr(f"{scheme}://{'***@' if user or at else ''}{place}{parts.path}{'?***' if parts.query else ''}")
