-- Take one unfinished shard for one run, unless a run has it: from its lane, or from between two steps where it was lost.
-- KEYS  1 lane  2 leases  3 runs  4 open shards of the batch (hash)
-- ARGV  1 reference  2 run id  3 lease (ms)
-- Returns 1 when it is ours (also when it was before: the call may be repeated), else 0.
local lane, leases, runs, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local reference, run, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('HEXISTS', open, reference) == 0 then return 0 end
if redis.call('ZSCORE', leases, reference) then return redis.call('HGET', runs, reference) == run and 1 or 0 end
local time = redis.call('TIME')
redis.call('ZREM', lane, reference)
redis.call('ZADD', leases, time[1] * 1000 + math.floor(time[2] / 1000) + lease, reference)
redis.call('HSET', runs, reference, run)
return 1
