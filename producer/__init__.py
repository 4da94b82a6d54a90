"""The asking side: lines in, batches, results out.

async with Producer.connect() as producer:
    batch = await producer.submit("prompts.jsonl")
    async for result in batch.results(follow=True):
        print(result.custom_id, result.content)
"""

from batchmill.producer.batch import Batch
from batchmill.producer.errors import InputError
from batchmill.producer.live import Ended, Gap, Restarted, Started, Text
from batchmill.producer.producer import Producer

__all__ = ["Batch", "Ended", "Gap", "InputError", "Producer", "Restarted", "Started", "Text"]
