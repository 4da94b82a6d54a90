"""Who asks: API keys, what they may do, and sessions of the dashboard."""
