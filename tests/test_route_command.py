"""`batchmill route`: where a line would go, as a person asks it. Everything is rehearsed: the catalogue is packaged."""

MINI, HAIKU = "openai/gpt-4o-mini", "anthropic/claude-haiku-4.5"
LINE = {
    "model": MINI,
    "fallback_models": [HAIKU, "openai/gpt-3.5-turbo-instruct"],
    "messages": [{"role": "user", "content": "What is a token bucket?"}],
    "max_tokens": 300,
    "tools": [{"type": "function", "function": {"name": "look_up"}}],
}
