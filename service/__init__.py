"""What listens: OpenAI's API for every model, our own API beside it, the dashboard, metrics."""
