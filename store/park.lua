-- Have nothing of a batch claimed in one lane for a while.
-- KEYS  1 lane  2 flows  3 flow facts  4 parked (sorted set: batch id -> wake time, ms)
-- ARGV  1 batch id  2 how long (ms)
-- Returns 1, or 0 when nothing of the batch waits or runs in the lane.
local lane, flows, flow_facts, parked = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local batch, wait = ARGV[1], tonumber(ARGV[2])
local SLOT = 1048576 -- places of a batch
local slot = tonumber(string.match(redis.call('HGET', flow_facts, batch) or '', '^%d+'))
if not slot then return 0 end
local time = redis.call('TIME')
redis.call('ZREM', flows, batch)
redis.call('ZADD', parked, time[1] * 1000 + math.floor(time[2] / 1000) + wait, batch)
-- what silent workers had begun waits like the rest
for _, reference in ipairs(redis.call('ZRANGEBYSCORE', lane, '-inf', SLOT - 1)) do
  local owner, number = string.match(reference, '^([^.]+)%.(%d+)%.')
  if owner == batch then redis.call('ZADD', lane, slot * SLOT + math.min(number, SLOT - 1), reference) end
end
return 1
