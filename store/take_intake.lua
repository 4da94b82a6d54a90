-- Take an intake whose turn it is, or go on holding it.
-- KEYS  1 intakes (sorted set)  2 intake (hash)
-- ARGV  1 batch id  2 run  3 lease (ms)
-- Returns 1 when the run holds it now; 0 when another one does, or nothing is to be done any more.
local intakes, intake = KEYS[1], KEYS[2]
local batch_id, run, lease = ARGV[1], ARGV[2], ARGV[3]
local due = redis.call('ZSCORE', intakes, batch_id)
if not due then return 0 end
local state = redis.call('HGET', intake, 'state')
if not state or state == 'failed' or state == 'cancelled' or state == 'expired' then
  redis.call('ZREM', intakes, batch_id)
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local mine = redis.call('HGET', intake, 'run') == run
if not mine and tonumber(due) > now then return 0 end
redis.call('ZADD', intakes, now + lease, batch_id)
if not mine then
  redis.call('HSET', intake, 'run', run)
  redis.call('HINCRBY', intake, 'tries', 1)
end
return 1
