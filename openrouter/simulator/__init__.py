"""A stand-in for OpenRouter on loopback: real prices, usage, latencies, faults, rate caps and streams."""

from batchmill.openrouter.simulator.account import KeyLimit
from batchmill.openrouter.simulator.books import CallRecord, Stats
from batchmill.openrouter.simulator.faults import FaultKind, Faults, ModelFaults
from batchmill.openrouter.simulator.latency import REALISTIC
from batchmill.openrouter.simulator.options import SimulatorOptions
from batchmill.openrouter.simulator.server import Simulator, serve

__all__ = [
    "REALISTIC",
    "CallRecord",
    "FaultKind",
    "Faults",
    "KeyLimit",
    "ModelFaults",
    "Simulator",
    "SimulatorOptions",
    "Stats",
    "serve",
]
