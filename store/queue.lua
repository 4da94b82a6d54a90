-- Queue those of some shards, all of one batch and model, that are unfinished and neither queued nor leased.
-- KEYS  1 open shards of the batch (hash)  2 lane  3 leases  4 flows  5 flow facts  6 turns  7 parked
--       8.. arq job of each shard
-- ARGV  1 time to live of a job (s)  2 batch id  3 stride: how far a line moves the batch's tag  4 priority  5 project
--       6.. reference, job (bytes) of each shard
-- Returns the references that were queued. Safe to repeat, and for two at once: what somebody queued, claimed or
-- finished in between is left alone. Whatever of the batch waits has its place and its flow after this.
local open, lane, leases, flows, flow_facts, turns, parked =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local ttl, batch, stride, priority, project = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local SLOT, SLOTS, LATER = 1048576, 524288, 1e12 -- places of a batch; batches; from where on a score is a time
local slot = tonumber(string.match(redis.call('HGET', flow_facts, batch) or '', '^%d+'))

local function place_of(reference)
  while not slot do
    slot = redis.call('HINCRBY', turns, 'slots', 1) % SLOTS -- 0 is for what silent workers had begun
    local taken = redis.call('ZRANGEBYSCORE', lane, slot * SLOT, (slot + 1) * SLOT - 1, 'LIMIT', 0, 1)
    if slot == 0 or #taken > 0 then
      slot = nil
    else
      redis.call('HSET', flow_facts, batch, table.concat({ slot, stride, priority, project }, '|'))
    end
  end
  return slot * SLOT + math.min(tonumber(string.match(reference, '%.(%d+)%.')), SLOT - 1)
end

local queued, waits = {}, false
for i = 8, #KEYS do
  local reference, job = ARGV[2 * i - 10], ARGV[2 * i - 9]
  if redis.call('HEXISTS', open, reference) == 1 then
    local score = tonumber(redis.call('ZSCORE', lane, reference))
    if score and score >= SLOT and score < LATER and score ~= place_of(reference) then
      redis.call('ZADD', lane, place_of(reference), reference) -- where no turn would come to it
    elseif not score and not redis.call('ZSCORE', leases, reference) then
      redis.call('SET', KEYS[i], job, 'EX', ttl)
      redis.call('ZADD', lane, place_of(reference), reference)
      redis.call('HINCRBY', flow_facts, batch .. '#', 1)
      queued[#queued + 1] = reference
      score = place_of(reference)
    end
    waits = waits or (score and score < LATER)
  end
end
if waits and not redis.call('ZSCORE', flows, batch) then redis.call('ZADD', parked, 'NX', 0, batch) end
return queued
