-- Say of a batch that its output files are in storage; it need not be looked at any more.
-- KEYS  1 batch (hash)  2 to_finalize (sorted set)  3 finalizing (string)
-- ARGV  1 batch id
-- Returns 1 when it was said, 0 when the batch is gone.
local batch, waiting, lease = KEYS[1], KEYS[2], KEYS[3]
redis.call('ZREM', waiting, ARGV[1])
redis.call('DEL', lease)
if redis.call('HEXISTS', batch, 'state') == 0 then return 0 end
redis.call('HSETNX', batch, 'files_at', redis.call('TIME')[1])
return 1
