-- Prelude of gate.lua and settle.lua: token buckets whose levels are whole numbers, 1/60000 of a request or token, so
-- that a rate a minute fills them by `rate` a millisecond.
--
-- What a line did not use of its tokens comes back as if it had never been reserved. That may not lift the bucket
-- above what it would hold had it been so: where it was full meanwhile, refill was lost, and stays lost. So a bucket
-- remembers the peaks of its level for a while, in slots of time, and a return is cut by every peak that it passes.
local UNIT, SLOT_MS, SLOTS = 60000, 4000, 64

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

-- Note that the level has grown to `level` since slot `last`, whose peak was `peak`. The peak of the slot that is now
-- stands in `peak`, those of the slots before in `p0` to `p63`. Returns the slot and its peak.
local function note_peaks(changes, last, peak, now, level)
  local slot = math.floor(now / SLOT_MS)
  last = tonumber(last) or slot
  if last >= slot then -- also for a clock that went back
    peak = math.max(tonumber(peak) or level, level)
    slot = last
  else
    put(changes, 'p' .. last % SLOTS, math.max(tonumber(peak) or level, level))
    for passed = math.max(last + 1, slot - SLOTS + 1), slot - 1 do put(changes, 'p' .. passed % SLOTS, level) end
    peak = level
  end
  put(changes, 'slot', slot)
  put(changes, 'peak', peak)
  return slot, peak
end
