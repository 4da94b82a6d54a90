-- End a run of a shard: the shard is done, or goes back to its place. A run that lost its lease changes nothing.
-- KEYS  1 lane  2 leases  3 runs  4 flows  5 flow facts  6 projects  7 turns  8 parked  9 weights of projects
--       10 arq job  11 arq tries  12 shard payload  13 open shards of the batch
-- ARGV  1 reference  2 run id  3 'done', 'give_back' or 'let_go'  4 delay (ms) before it may be claimed again
-- Returns 1, or 0 when the shard belongs to another run (or to none).
--
-- A shard that goes back gives its turn back, too: it is counted when it is claimed again.
local lane, leases, runs, flows, flow_facts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local projects, turns, parked, weights = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local reference, run, ending, delay = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local SLOT, SPAN = 1048576, 549755813888 -- as in claim.lua
local batch, number, lines = string.match(reference, '^([^.]+)%.(%d+)%.(%d+)$')
if redis.call('HGET', runs, reference) ~= run then return 0 end
redis.call('ZREM', leases, reference)
redis.call('ZREM', lane, reference) -- where it is when it was taken back from a silent worker that was us
redis.call('HDEL', runs, reference)
local facts = redis.call('HGET', flow_facts, batch) or ''
local slot, stride, _, project = string.match(facts, '^(%d+)|(%d+)|(%a+)|(.*)$')

local function give_turn_back()
  local start, tag = redis.call('ZSCORE', flows, batch), redis.call('ZSCORE', projects, project)
  local at, clock = string.match(redis.call('HGET', turns, ':' .. project) or '', '^(%d+)|(%d+)$')
  if start and at then
    redis.call('ZADD', flows, math.max(at * SPAN + clock, start - lines * stride), batch)
  end
  if tag then
    local weight = tonumber(redis.call('HGET', weights, project) or 1) or 1
    if weight <= 0 then weight = 1 end
    clock = tonumber(redis.call('HGET', turns, 'clock') or 0)
    redis.call('ZADD', projects, math.max(clock, tag - lines / weight), project)
  end
end

if ending ~= 'done' and slot then give_turn_back() end
if ending == 'give_back' and slot then
  redis.call('DEL', KEYS[11])
  if delay > 0 then
    local time = redis.call('TIME')
    redis.call('ZADD', lane, time[1] * 1000 + math.floor(time[2] / 1000) + delay, reference)
    return 1
  end
  redis.call('ZADD', lane, slot * SLOT + math.min(number, SLOT - 1), reference)
  if not redis.call('ZSCORE', flows, batch) then redis.call('ZADD', parked, 'NX', 0, batch) end
  return 1
end
if ending == 'done' then
  redis.call('DEL', KEYS[10], KEYS[11], KEYS[12])
  redis.call('HDEL', KEYS[13], reference)
end
-- else nobody knows its turn any more: maintenance queues it anew
if redis.call('HINCRBY', flow_facts, batch .. '#', -1) > 0 then return 1 end
local first = (slot or 0) * SLOT
if slot and #redis.call('ZRANGEBYSCORE', lane, first, first + SLOT - 1, 'LIMIT', 0, 1) > 0 then return 1 end
redis.call('HDEL', flow_facts, batch, batch .. '#')
redis.call('ZREM', flows, batch)
redis.call('ZREM', parked, batch)
if redis.call('EXISTS', flow_facts) == 0 then redis.call('DEL', projects, turns) end
return 1
