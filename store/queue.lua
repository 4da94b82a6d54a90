-- Queue those of some shards, all of one batch and model, that are unfinished and neither queued nor leased.
-- KEYS  1 open shards of the batch (hash)  2 lane  3 leases  4.. arq job of each shard
-- ARGV  1 time to live of a job (s)  2.. reference, job (bytes) of each shard
-- Returns the references that were queued. Safe to repeat, and for two at once: what somebody queued, claimed or
-- finished in between is left alone.
local open, lane, leases = KEYS[1], KEYS[2], KEYS[3]
local ttl = ARGV[1]
local time = redis.call('TIME')
local place = time[1] * 1000 + math.floor(time[2] / 1000) - 1e12 -- thirty years ago: in order, and due on any clock
local queued = {}
for i = 4, #KEYS do
  local reference, job = ARGV[2 * i - 6], ARGV[2 * i - 5]
  if redis.call('HEXISTS', open, reference) == 1
    and not redis.call('ZSCORE', lane, reference)
    and not redis.call('ZSCORE', leases, reference)
  then
    redis.call('SET', KEYS[i], job, 'EX', ttl)
    redis.call('ZADD', lane, place, reference)
    queued[#queued + 1] = reference
  end
end
return queued
