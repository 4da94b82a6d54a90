"""Bodies of requests: never larger than allowed, never slower than allowed."""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import Request

from batchmill.service import problems
from batchmill.service.numbers import whole_number

_LEAST_RATE = 500  # bytes a second after the first silence: slower ones only hold a connection


async def parts_of(request: Request, most: int, silence: float) -> AsyncIterator[bytes]:
    """Yield a body as it comes. Raises ApiError: over `most` bytes 413, after `silence` seconds without a byte 408."""
    said = whole_number(request.headers.get("content-length"))
    if said is not None and said > most:
        raise problems.too_large(f"The body may have {most:,} bytes at most, not {said:,}.")
    size, waited = 0, 0.0
    parts = request.stream().__aiter__()
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(silence):
                part = await anext(parts)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise problems.ApiError(408, f"The body did not come on for {silence:g} seconds.") from None
        size, waited = size + len(part), waited + time.monotonic() - began
        if waited - silence > size / _LEAST_RATE:
            raise problems.ApiError(408, f"The body came at less than {_LEAST_RATE} bytes a second.")
        if size > most:
            raise problems.too_large(f"The body may have {most:,} bytes at most.")
        yield part


async def read_body(request: Request, most: int, silence: float) -> bytes:
    """Return a whole body. Raises as `parts_of`."""
    return b"".join([part async for part in parts_of(request, most, silence)])
