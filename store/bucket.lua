-- Prelude of gate.lua and settle.lua: token buckets whose levels are whole numbers, 1/60000 of a request or token, so
-- that a rate a minute fills them by `rate` a millisecond.
--
-- What a line did not use of its tokens comes back as if it had never been reserved. That may not lift the bucket
-- above what it would hold had it been so: where it was full meanwhile, refill was lost, and stays lost. So a bucket
-- remembers the peaks of its level for a while, in slots of time, and a return is cut by every peak that it passes.
local UNIT, SLOT_MS, SLOTS = 60000, 4000, 64
local peak_names = {}
for place = 0, SLOTS - 1 do peak_names[place + 1] = 'p' .. place end

local function whole(number) return string.format('%.0f', number) end

local function put(changes, field, value)
  changes[#changes + 1] = field
  changes[#changes + 1] = value
end

-- The level at `now`; a bucket that was never touched is full. A clock that went back refills nothing.
local function refilled(level, at, now, rate, capacity)
  if not level then return capacity * UNIT end
  return math.min(capacity * UNIT, tonumber(level) + math.max(0, now - at) * rate)
end

-- Note that the level has grown to `level` since slot `last`; returns the slot that is now.
local function note_peaks(key, changes, last, now, level)
  local slot = math.floor(now / SLOT_MS)
  last = math.max(tonumber(last) or slot, slot - SLOTS + 1)
  slot = math.max(slot, last)
  local before = tonumber(redis.call('HGET', key, 'p' .. last % SLOTS)) or level
  put(changes, 'p' .. last % SLOTS, whole(math.max(before, level)))
  for passed = last + 1, slot do put(changes, 'p' .. passed % SLOTS, whole(level)) end
  put(changes, 'slot', slot)
  return slot
end
