"""The root of batchmill's exceptions.

    BatchmillError
    ├── ConfigError          the operator's settings can't be used            (exit code 2)
    ├── InputError           the lines handed over can't be used              (exit code 2; producer)
    ├── StoreError           Redis can't be reached or must not be used       (exit code 2; store)
    └── UpstreamRefusedError the upstream refuses the account                 (exit code 4; openrouter)

Failures of single lines are values, not exceptions: see `openrouter/outcomes.py`.
"""


class BatchmillError(Exception):
    """Whatever a person must hear about: one line that says what, where and what to do next."""


class ConfigError(BatchmillError):
    """The settings can't be used; the message names the source and the key."""
