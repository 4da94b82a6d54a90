-- Queue an unfinished shard that is neither queued nor leased.
-- KEYS  1 open shards of the batch (hash)  2 lane  3 leases  4 arq job
-- ARGV  1 reference  2 score  3 job (bytes)  4 time to live of the job (s)
-- Returns 1 when it was queued.
local open, lane, leases, job = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local reference, score, body, ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if redis.call('HEXISTS', open, reference) == 0 then return 0 end
if redis.call('ZSCORE', lane, reference) or redis.call('ZSCORE', leases, reference) then return 0 end
redis.call('SET', job, body, 'EX', ttl)
redis.call('ZADD', lane, score, reference)
return 1
