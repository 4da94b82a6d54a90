"""Which ids were seen, in a few bytes each: what finds duplicates among a million lines."""

from array import array

_FIRST_SLOTS = 1024
_EMPTY = 0
_MASK_64 = (1 << 64) - 1


class Identities:
    """A set of strings that remembers 8-byte hashes only: 8-16 bytes an id, half as much again while it grows.

    Python's own string hash is 64 bits, keyed anew in each process (SipHash): nobody can prepare ids that collide,
    and among a million ids the odds that any two collide, so that one is falsely called a duplicate, are 3 in 10^8.
    A `set` of the same hashes would take 80 bytes an id.
    """

    __slots__ = ("_count", "_slots")

    def __init__(self) -> None:
        self._count = 0
        self._slots = _empty(_FIRST_SLOTS)

    def __len__(self) -> int:
        return self._count

    def add(self, identity: str) -> bool:
        """Remember the id; return whether it is new."""
        if self._count * 4 >= len(self._slots) * 3:
            self._grow()
        # zero marks a free slot, so the one hash in 2^64 that is zero takes its neighbour's place
        if not _place(self._slots, (hash(identity) & _MASK_64) or 1):
            return False
        self._count += 1
        return True

    def _grow(self) -> None:
        slots = _empty(len(self._slots) * 2)
        for digest in self._slots:
            if digest != _EMPTY:
                _place(slots, digest)
        self._slots = slots


def _empty(count: int) -> "array[int]":
    return array("Q", bytes(8 * count))


def _place(slots: "array[int]", digest: int) -> bool:
    # linear probing: the number of slots is a power of two and at least a quarter of them is free
    last = len(slots) - 1
    slot = digest & last
    while (held := slots[slot]) != _EMPTY:
        if held == digest:
            return False
        slot = (slot + 1) & last
    slots[slot] = digest
    return True
