-- Take one unfinished shard for one run, unless a run has it: from its lane, from between two steps where it was lost,
-- or from a run whose lease is over.
-- KEYS  1 lane  2 leases  3 runs  4 flow facts  5 open shards of the batch (hash)
-- ARGV  1 reference  2 run id  3 lease (ms)
-- Returns 1 when it is ours (also when it was before: the call may be repeated), else 0.
local lane, leases, runs, flow_facts, open = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local reference, run, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
if redis.call('HEXISTS', open, reference) == 0 then return 0 end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held_until = tonumber(redis.call('ZSCORE', leases, reference))
if held_until and held_until > now and redis.call('HGET', runs, reference) ~= run then return 0 end
if redis.call('ZREM', lane, reference) == 0 and not held_until then
  redis.call('HINCRBY', flow_facts, string.match(reference, '^[^.]+') .. '#', 1)
end
redis.call('ZADD', leases, now + lease, reference)
redis.call('HSET', runs, reference, run)
return 1
