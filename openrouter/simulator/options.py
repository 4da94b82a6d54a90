"""What a simulator is told, as one frozen value."""

from typing import Annotated

import msgspec

from batchmill.openrouter.simulator.account import KeyLimit
from batchmill.openrouter.simulator.faults import NO_FAULTS, Faults, Share

Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class SimulatorOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the simulated upstream behaves; the defaults are an upstream that answers at once and never fails.

    `latency` is a whole call's time, see `parse_latency`, and `latencies` those of the models that match a pattern
    such as `openai/*`, the first match. `rpm` caps requests per minute for all models that match a pattern, together:
    `{"*": 600}`. `free_rpm` and `free_daily` are the platform's caps on `:free` models, account wide (None: no cap).
    `key_limit`: what the key itself may spend. `generation_delay`: seconds until `GET /generation` knows a call.
    `cached_share`: how many of the long prompts are billed as cache hits. `spill_rate`: how many calls are served by
    a dearer endpoint than the catalogue's, where the request's `max_price` allows it. `early_headers`: a whole
    answer's headers are sent when the call begins, and blanks until its body is there, as OpenRouter keeps slow
    connections alive. `record` keeps a record of every call.
    """

    seed: int = 0
    latency: str = "0"
    latencies: dict[str, str] = {}
    faults: Faults = NO_FAULTS
    rpm: dict[str, Count] = {}
    free_rpm: Count | None = 20
    free_daily: Count | None = 1000
    max_in_flight: Count | None = None
    mean_output_tokens: Count = 150
    credits_usd: Count = 1_000_000
    key_limit: KeyLimit | None = None
    generation_delay: Seconds = 0.0
    cached_share: Share = 0.0
    spill_rate: Share = 0.0
    early_headers: bool = False
    record: bool = False
    allow_remote: bool = False
