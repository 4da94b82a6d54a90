-- Begin to stage a batch under an id that an earlier try may have used: from here on that one can't write any more.
-- KEYS  1 batch (hash)  2 open shards (hash)  3 done (bitmap)  4 results (stream)  5 live lines (hash)
-- ARGV  1 token of the try  2 staging time (s)
-- Returns the references of shards that the earlier try left, to be discarded; 0 when the batch was let go.
local batch, open = KEYS[1], KEYS[2]
if redis.call('HEXISTS', batch, 'state') == 1 then return 0 end
local left = redis.call('HKEYS', open)
for i = 1, 5 do redis.call('UNLINK', KEYS[i]) end
redis.call('HSET', batch, 'staging', ARGV[1])
redis.call('EXPIRE', batch, ARGV[2])
return left
