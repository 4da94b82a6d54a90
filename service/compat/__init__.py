"""What OpenAI's clients call: files, batches, models, chat completions."""
