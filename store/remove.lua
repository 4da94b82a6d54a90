-- Remove a batch that is over (which it stays for ever), the keys given along included.
-- KEYS  1 batch (hash)  2 batches (sorted set)  3 live (set)  4 content (string)  5 index of all projects  6 index of its
--       project  7 batches whose files are to be written (sorted set)  8.. more keys of the batch
-- ARGV  1 batch id  2 its name in the index of all
-- Returns 1, or 0 when it was gone already.
local batch, batches, live, content = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('GET', content) == ARGV[1] then redis.call('DEL', content) end
for i = 8, #KEYS do redis.call('UNLINK', KEYS[i]) end
redis.call('ZREM', batches, ARGV[1])
redis.call('SREM', live, ARGV[1])
redis.call('ZREM', KEYS[5], ARGV[2])
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('ZREM', KEYS[7], ARGV[1])
return redis.call('UNLINK', batch)
