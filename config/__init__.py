"""What an operator decides: typed settings, read once, handed down."""

from batchmill.config.errors import BatchmillError, ConfigError
from batchmill.config.settings import Secret, Settings, load

__all__ = ["BatchmillError", "ConfigError", "Secret", "Settings", "load"]
