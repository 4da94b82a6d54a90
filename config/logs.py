"""Logs: structlog to standard error, JSON where no person watches; other libraries only when something is wrong."""

import logging
import sys
from typing import TextIO

import structlog

from batchmill.config.settings import LogSettings


def set_up(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Configure structlog for this process; `stream` is where it writes instead of standard error."""
    stream = stream or sys.stderr
    level = getattr(logging, settings.level.upper())
    console = settings.format == "console" or (settings.format == "auto" and stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(stream),
    )
    logging.basicConfig(level=max(level, logging.WARNING), stream=stream)
    logging.getLogger("arq").setLevel(logging.ERROR)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what a client sends wrongly is told to the client
