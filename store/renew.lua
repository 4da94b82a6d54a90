-- Renew the leases of one worker's runs in one lane, and take back what silent workers hold.
-- KEYS  1 lane  2 leases  3 runs  4 flow facts  5 parked  6 pulse (hash: beat, grace)
-- ARGV  1 lease (ms)  2.. reference, run id, reference, run id ...
-- Returns the references that the caller has lost, then '', then the references taken back from silent workers.
--
-- When no heartbeat of any worker came for half a lease, it was the server that was away (or there was no fleet),
-- not the holders: nothing is taken from anybody until the holders had half a lease to come back.
local lane, leases, runs, flow_facts, parked, pulse = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local SLOT = 1048576 -- places of a batch; the first ones of all are for what was begun
local lease = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lost = {}
for i = 2, #ARGV, 2 do
  local reference, run = ARGV[i], ARGV[i + 1]
  if redis.call('HGET', runs, reference) == run then
    redis.call('ZREM', lane, reference) -- if it was taken back, nobody has begun it yet: it is still ours
    redis.call('ZADD', leases, now + lease, reference)
  else
    lost[#lost + 1] = reference
  end
end
local beat = tonumber(redis.call('HGET', pulse, 'beat') or 0)
local grace = tonumber(redis.call('HGET', pulse, 'grace') or 0)
-- what lies far ahead was written before the clock was set back
if grace > now + lease then grace = 0 end
for _, reference in ipairs(redis.call('ZRANGEBYSCORE', leases, now + 10 * lease, '+inf')) do
  redis.call('ZADD', leases, now + lease, reference)
end
if math.abs(now - beat) > lease / 2 then
  grace = now + lease / 2
  redis.call('HSET', pulse, 'grace', grace)
end
redis.call('HSET', pulse, 'beat', now)
redis.call('PEXPIRE', pulse, 86400000)
lost[#lost + 1] = ''
if now < grace then return lost end

local function place_of(reference) -- before all others, unless its batch is parked
  local batch, number = string.match(reference, '^([^.]+)%.(%d+)%.')
  local slot = 0
  if tonumber(redis.call('ZSCORE', parked, batch) or 0) > now then
    slot = string.match(redis.call('HGET', flow_facts, batch) or '0', '^%d+')
  end
  return slot * SLOT + math.min(number, SLOT - 1)
end

for _, reference in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 1000)) do
  redis.call('ZREM', leases, reference) -- `runs` still names the holder, who may come back before the next claim
  redis.call('ZADD', lane, place_of(reference), reference)
  lost[#lost + 1] = reference
end
return lost
