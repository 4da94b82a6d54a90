"""Takes batches in that were created over HTTP: fetch the input, look at every line, and let the batch go, or fail it.

Any number of gateways do this at once; each intake is held by one, under a lease. See `store.intakes` for the states.
"""

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from batchmill.config.urls import printable_error
from batchmill.producer import ending, intake
from batchmill.producer.conditions import PricesUnknownError, pricer_for, wish_of_batch
from batchmill.producer.errors import InputError
from batchmill.producer.intake import BadLinesError
from batchmill.producer.lines import Conditions, InputOptions
from batchmill.service.compat.faults import CANT_FIND, faults_of, too_large
from batchmill.service.context import Service
from batchmill.storage.blobs import MissingBlobError, StorageError
from batchmill.store import batches, files, intakes
from batchmill.store.clock import now_ms
from batchmill.store.errors import StoreError
from batchmill.store.files import FileRecord
from batchmill.store.intakes import Asked, Fault, Holder, Intake, IntakeState

log = structlog.get_logger()

_AT_ONCE = 4
_LOOK_EVERY = 0.1  # seconds
_TRY_AGAIN_MS = 2000
_MOST_TRIES = 10  # of what fails in a way that nobody foresaw; outages don't count
