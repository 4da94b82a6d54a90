"""A stand-in for OpenRouter: real prices, usage, latencies and faults, on loopback."""
