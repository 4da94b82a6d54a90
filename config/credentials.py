"""Where the API key comes from: the environment, a file that holds nothing else, or the system's keyring.

The first that has one counts. A source that is named and can't be used is an error, never passed over in silence.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

import msgspec

from batchmill.config.errors import ConfigError
from batchmill.config.secret import Secret

KEY = "OPENROUTER_API_KEY"
KEY_FILE = "BATCHMILL_API_KEY_FILE"
_WEBHOOK_PREFIX = "whsec_"
_LEAST_SECRET_BYTES = 16
_ELSE = f"set {KEY} or {KEY_FILE} instead"


class Found(msgspec.Struct, frozen=True):
    """A key, and where it was: a kind of place, and which one."""

    key: Secret
    kind: str  # "environment", "file" or "keyring"
    where: str


def find_key(env: Mapping[str, str], service: str = "", user: str = "") -> Found | None:
    """Return the key; `service` and `user` name its entry in the system's keyring, no service: it is not asked.

    Raises ConfigError, whose message names the place and never what is in it.
    """
    if key := env.get(KEY, "").strip():
        return Found(_usable(key, KEY), "environment", KEY)
    if file := env.get(KEY_FILE):
        return Found(_usable(_read(file), f"{KEY_FILE}: {file}"), "file", f"{file} ({KEY_FILE})")
    if service:
        entry = f"{service}/{user}"
        return Found(_usable(_ask_keyring(service, user), f"the keyring's entry {entry}"), "keyring", entry)
    return None


def find_webhook_secret(env: Mapping[str, str], variable: str) -> Secret:
    """Return what a variable holds to sign webhooks with: base64, after Standard Webhooks with the prefix `whsec_`.

    The prefix is taken off. Raises ConfigError, whose message names the variable and never what is in it.
    """
    given = env.get(variable, "").strip()
    if not given:
        raise ConfigError(f"{variable} is not set here: put the webhook's secret (whsec_...) into it")
    secret = given.removeprefix(_WEBHOOK_PREFIX)
    secret += "=" * (-len(secret) % 4)
    try:
        usable = len(base64.b64decode(secret, validate=True)) >= _LEAST_SECRET_BYTES
    except (binascii.Error, ValueError):  # ValueError: letters that are not ASCII
        usable = False
    if not usable:
        raise ConfigError(
            f"{variable} holds no secret of a webhook: whsec_ and at least {_LEAST_SECRET_BYTES} random bytes in "
            "base64; e.g. from `echo whsec_$(openssl rand -base64 32)`"
        )
    return Secret(secret)


def _read(file: str) -> str:
    try:
        key = Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{KEY_FILE}: {file} can't be read ({error.strerror})") from error
    except UnicodeDecodeError:  # holds what is in the file, so it is not passed on
        raise ConfigError(f"{KEY_FILE}: {file} is no text; put the API key into it") from None
    if not key:
        raise ConfigError(f"{KEY_FILE}: {file} is empty; put the API key into it")
    return key


def _ask_keyring(service: str, user: str) -> str:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise ConfigError(
            f"upstream.keyring_service is '{service}', but the keyring library is not installed: "
            f"pip install 'batchmill[keyring]', or {_ELSE}"
        ) from None
    try:
        key = keyring.get_password(service, user)
    except (KeyringError, OSError, RuntimeError) as error:  # some backends pass on what their system says
        raise ConfigError(f"the system's keyring can't be asked ({type(error).__name__}); {_ELSE}") from None
    if not (key and key.strip()):
        raise ConfigError(
            f"the system's keyring has no key for {service}/{user}; put it there: keyring set {service} {user}"
        )
    return key.strip()


def _usable(key: str, source: str) -> Secret:
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError(f"{source} holds more than a key: blanks, line breaks or letters that no key has")
    return Secret(key)
