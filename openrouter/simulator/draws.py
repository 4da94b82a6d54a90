"""Chance that repeats itself: every draw is a function of the seed and of what is drawn for, never of the hour."""

import base64
import hashlib

_BITS = 64
_SLOT = 8  # bytes of one draw
_DIGEST = 64


class Draws:
    """Eight independent draws for one occasion; the same seed and occasion give the same draws."""

    __slots__ = ("_digest",)

    def __init__(self, seed: int, *occasion: bytes) -> None:
        key = (seed % 2**_BITS).to_bytes(_SLOT, "big")
        self._digest = hashlib.blake2b(b"\0".join(occasion), key=key, digest_size=_DIGEST).digest()

    def fraction(self, slot: int) -> float:
        """Return the draw in this slot (0 to 7) as a number in [0, 1)."""
        return (int.from_bytes(self._digest[slot * _SLOT : (slot + 1) * _SLOT], "big") >> 11) / 2**53

    def name(self, length: int) -> str:
        """Return letters and digits, as ids are made of."""
        return base64.b64encode(self._digest, b"Xx")[:length].decode("ascii")
