"""The key from the system's keyring: when it is asked, and what is said when it can't help."""

import sys
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring
from keyring.errors import KeyringLocked

from batchmill.config.errors import ConfigError
from batchmill.config.settings import Secret, Settings, load

KEY = "sk-or-v1-in-the-ring"


class Ring(KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # the library types not all of itself
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False
        self.asked = 0

    def get_password(self, service: str, username: str) -> str | None:
        self.asked += 1
        if self.locked:
            raise KeyringLocked(f"locked, and {KEY} is in it")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


@pytest.fixture
def ring() -> Iterator[Ring]:
    before = keyring.get_keyring()
    ring = Ring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "batchmill.toml"
    file.write_text('[upstream]\nkeyring_service = "openrouter"\nkeyring_user = "ann"\n')
    return file


def refusal(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert caught.value.__cause__ is None
    assert KEY not in str(caught.value)
    return str(caught.value)


def test_the_keyring_has_the_key(ring: Ring, file: Path) -> None:
    ring.set_password("openrouter", "ann", f" {KEY}\n")
    settings = load(file, {})
    assert settings.api_key == Secret(KEY)
    assert settings.key_source == ("keyring", "openrouter/ann")
    assert KEY not in repr(settings)


def test_it_is_asked_last_and_only_if_it_is_named(ring: Ring, file: Path, tmp_path: Path) -> None:
    ring.set_password("openrouter", "ann", KEY)
    key_file = tmp_path / "key"
    key_file.write_text("sk-file")

    def key_of(settings: Settings) -> tuple[str, str] | None:
        return settings.key_source

    by_file = {"BATCHMILL_API_KEY_FILE": str(key_file)}
    assert key_of(load(file, by_file | {"OPENROUTER_API_KEY": "sk-env"})) == ("environment", "OPENROUTER_API_KEY")
    assert key_of(load(file, by_file)) == ("file", f"{key_file} (BATCHMILL_API_KEY_FILE)")
    assert key_of(load(environ={})) is None
    assert key_of(load(file, {}, simulate=True)) is None
    assert ring.asked == 0


def test_a_ring_without_the_key_says_how_to_put_it_there(ring: Ring, file: Path) -> None:
    message = "the system's keyring has no key for openrouter/ann; put it there: keyring set openrouter ann"
    assert refusal(file) == message
    ring.set_password("openrouter", "ann", " ")
    assert refusal(file) == message


def test_a_ring_that_holds_more_than_a_key(ring: Ring, file: Path) -> None:
    ring.set_password("openrouter", "ann", f"my key: {KEY}")
    assert refusal(file).startswith("the keyring's entry openrouter/ann holds more than a key")


def test_a_ring_that_is_locked_or_not_there(ring: Ring, file: Path) -> None:
    ring.locked = True
    words = "the system's keyring can't be asked (KeyringLocked); set OPENROUTER_API_KEY or BATCHMILL_API_KEY_FILE"
    assert refusal(file).startswith(words)
    keyring.set_keyring(NoKeyring())  # type: ignore[no-untyped-call]  # as above
    assert "can't be asked (NoKeyringError)" in refusal(file)


def test_without_the_library_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "pip install 'batchmill[keyring]'" in refusal(file)
