-- Claim shards of a lane for one run each, up to a number of lines: first what silent workers had begun, then by turns.
-- KEYS  1 lane (sorted set: reference -> score)  2 leases (reference -> lease end, ms)  3 runs (reference -> run id)
--       4 flows  5 flow facts  6 projects  7 turns  8 parked  9 weights of projects
-- ARGV  1 run id  2 lease (ms)  3 room: how many lines the caller can take  4.. batches to leave out: with any, at most
--       one shard is claimed
-- Returns of each shard claimed: reference, the score it had, project, priority, tag of its project's turn (0 when it
-- had its turn before). At least one when there is room at all: a shard larger than the room is better begun late than
-- never.
--
-- The project with the least tag has its turn, and in it the batch with the least tag (`lanes.py` says how they move).
local lane, leases, runs, flows, flow_facts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local projects, turns, parked, weights = KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local run, lease, room, left_out = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), #ARGV - 3
local SLOT, LATER = 1048576, 1e12 -- places of a batch; from where on a score is a time
local SPAN, SPANS = 549755813888, 16384 -- tags within a project; projects: together all that a double counts exactly
local CHUNK = 100 -- so that no call keeps others waiting
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claimed, without, facts = {}, {}, {}
local known, clock = {}, nil -- projects, and the virtual time of the lane, as far as this call changed it
for i = 4, #ARGV do without[ARGV[i]] = true end

local function batch_of(reference) return string.match(reference, '^[^.]+') end

local function facts_of(batch) -- slot, stride, priority, project
  facts[batch] = facts[batch] or redis.call('HGET', flow_facts, batch) or ''
  return string.match(facts[batch], '^(%d+)|(%d+)|(%a+)|(.*)$')
end

local function project_of(name)
  if not known[name] then
    local number, own = string.match(redis.call('HGET', turns, ':' .. name) or '', '^(%d+)|(%d+)$')
    if not number then return nil end
    local weight = tonumber(redis.call('HGET', weights, name) or 1) or 1
    known[name] = { base = number * SPAN, clock = tonumber(own), weight = weight > 0 and weight or 1 }
  end
  return known[name]
end

local function new_project(name)
  local number, base
  for _ = 1, SPANS do
    number = redis.call('HINCRBY', turns, 'projects', 1) % SPANS
    base = number * SPAN
    if #redis.call('ZRANGEBYSCORE', flows, base, base + SPAN - 1, 'LIMIT', 0, 1) == 0 then break end
  end
  redis.call('HSET', turns, ':' .. name, number .. '|0')
  return project_of(name)
end

local function enter(batch)
  redis.call('ZREM', parked, batch)
  local slot, _, _, name = facts_of(batch)
  if not slot or redis.call('ZSCORE', flows, batch) then return end
  local project = project_of(name) or new_project(name)
  redis.call('ZADD', flows, project.base + project.clock, batch)
  if not redis.call('ZSCORE', projects, name) then
    redis.call('ZADD', projects, clock or redis.call('HGET', turns, 'clock') or 0, name)
  end
end

local function come_due() -- shards given back for later, and batches; returns whether there may be more
  local due = redis.call('ZRANGEBYSCORE', lane, LATER, now, 'LIMIT', 0, CHUNK)
  for _, reference in ipairs(due) do
    local batch = batch_of(reference)
    local slot = tonumber((facts_of(batch))) or 0
    local number = math.min(tonumber(string.match(reference, '%.(%d+)%.')) or 0, SLOT - 1)
    redis.call('ZADD', lane, slot * SLOT + number, reference)
    if not redis.call('ZSCORE', flows, batch) then redis.call('ZADD', parked, 'NX', 0, batch) end
  end
  local back = redis.call('ZRANGEBYSCORE', parked, '-inf', now, 'LIMIT', 0, CHUNK)
  for _, batch in ipairs(back) do enter(batch) end
  return #due == CHUNK or #back == CHUNK
end

local function take(reference, score, project, priority, tag)
  redis.call('ZREM', lane, reference)
  redis.call('ZADD', leases, now + lease, reference)
  redis.call('HSET', runs, reference, run)
  local last = #claimed
  claimed[last + 1], claimed[last + 2], claimed[last + 3] = reference, score, project or 'default'
  claimed[last + 4], claimed[last + 5] = priority or 'normal', string.format('%.17g', tag)
  local lines = tonumber(string.match(reference, '%.(%d+)$')) or 1
  room = left_out > 0 and 0 or room - lines
  return lines
end

local function take_begun()
  local most = left_out > 0 and CHUNK or 1
  local found = redis.call('ZRANGEBYSCORE', lane, '-inf', SLOT - 1, 'WITHSCORES', 'LIMIT', 0, most)
  for i = 1, #found, 2 do
    local batch = batch_of(found[i])
    if not without[batch] then
      local _, _, priority, project = facts_of(batch)
      take(found[i], found[i + 1], project, priority, 0)
      return true
    end
  end
  return false
end

-- Take shards of a batch until another one's turn comes: at `next_start` in its project, or at `next_tag` in another.
local function take_of(batch, start, next_start, name, tag, next_tag)
  local project, taken = known[name], false
  local slot, stride, priority = facts_of(batch)
  local first = (slot or 0) * SLOT
  repeat
    local head = slot and redis.call('ZRANGEBYSCORE', lane, first, first + SLOT - 1, 'WITHSCORES', 'LIMIT', 0, 1)
    if not head or #head == 0 then break end
    if left_out == 0 then -- else others were passed over, and what comes must not start behind them
      project.clock, project.served, clock = start - project.base, true, tag
    end
    local lines = take(head[1], head[2], name, priority, tag)
    start = math.min(start + lines * stride, project.base + SPAN - 1)
    tag = tag + lines / project.weight
    taken = true
  until room <= 0 or start >= next_start or tag >= next_tag
  if taken then
    redis.call('ZADD', flows, start, batch)
    redis.call('ZADD', projects, tag, name)
  else
    redis.call('ZREM', flows, batch) -- all is claimed; what is given back brings it back
  end
  return taken
end

local function flows_of(name)
  local project = project_of(name)
  if not project then return {} end
  local base = project.base
  return redis.call('ZRANGEBYSCORE', flows, base, base + SPAN - 1, 'WITHSCORES', 'LIMIT', 0, left_out + 2)
end

local function take_turn()
  local at = 0 -- of the projects, how many are passed over
  while true do
    local name, tag, _, next_tag = unpack(redis.call('ZRANGE', projects, at, at + 1, 'WITHSCORES'))
    if not name then return false end
    local found, first = flows_of(name), 1
    while without[found[first]] do first = first + 2 end
    if found[first] then
      local start, next_start = tonumber(found[first + 1]), tonumber(found[first + 3]) or math.huge
      next_tag = tonumber(next_tag) or math.huge
      if take_of(found[first], start, next_start, name, tonumber(tag), next_tag) then return true end
    elseif #found > 0 then
      at = at + 1
    else -- its tag has come up: nothing of it needs to be remembered any more
      redis.call('ZREM', projects, name)
      redis.call('HDEL', turns, ':' .. name)
      known[name] = nil
    end
  end
end

local function take_stray() -- a shard whose batch has no flow: that must not be, and must not matter
  local from = '-inf'
  for _ = 1, CHUNK do
    local head = redis.call('ZRANGEBYSCORE', lane, from, LATER - 1, 'WITHSCORES', 'LIMIT', 0, 1)
    if #head == 0 then return end
    local batch = batch_of(head[1])
    if not without[batch] and not redis.call('ZSCORE', parked, batch) then
      local _, _, priority, project = facts_of(batch)
      take(head[1], head[2], project, priority, 0)
      return
    end
    from = (math.floor(head[2] / SLOT) + 1) * SLOT
  end
end

if room <= 0 then return claimed end
local more = come_due()
while room > 0 and take_begun() do end
while room > 0 do
  if not take_turn() then
    if not more then break end
    more = come_due()
  end
end
if #claimed == 0 then take_stray() end
local changed = { 'clock', clock }
for name, project in pairs(known) do
  if project.served then
    changed[#changed + 1] = ':' .. name
    changed[#changed + 1] = project.base / SPAN .. '|' .. project.clock
  end
end
if clock then redis.call('HSET', turns, unpack(changed)) end
return claimed
