-- Prelude of gate.lua and settle.lua: token buckets whose levels are whole numbers, 1/60000 of a request or token, so
-- that a rate a minute fills them by `rate` a millisecond.
--
-- What a line did not use of its tokens comes back as if it had never been reserved. That may not lift the bucket
-- above what it would hold had it been so: where it was full meanwhile, refill was lost, and stays lost. So a bucket
-- remembers the peaks of its level: { stamp, level } says that the level had grown to that before the reservations
-- under the stamp were made. What is returned of older reservations is cut by the peak. A peak that a later one
-- reaches tells nothing any more, so levels fall from peak to peak.
local UNIT, GRAIN = 60000, 32

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

-- The peaks that a bucket remembers: the newest in `stamp` and `peak`, the higher ones before it in `peaks`, if any.
local function read_peaks(text, stamp, level)
  local peaks = {}
  for earlier, higher in string.gmatch(text or '', '(%d+):(%d+);') do
    peaks[#peaks + 1] = { tonumber(earlier), tonumber(higher) }
  end
  if stamp then peaks[#peaks + 1] = { tonumber(stamp), tonumber(level) } end
  return peaks
end

-- Note a peak that is later than all others. One that is hardly lower than the last is taken for as high, which cuts a
-- little more than it must, and keeps them few.
local function note_peak(peaks, stamp, level, full)
  while #peaks > 0 and peaks[#peaks][2] <= level do peaks[#peaks] = nil end
  local last = peaks[#peaks]
  if last and (last[2] - level) * GRAIN < full then
    last[1] = stamp
  else
    peaks[#peaks + 1] = { stamp, level }
  end
end

local function put_peaks(changes, peaks)
  local newest, parts = table.remove(peaks), {}
  if not newest then return end
  for i, peak in ipairs(peaks) do parts[i] = string.format('%.0f:%.0f;', peak[1], peak[2]) end
  put(changes, 'stamp', newest[1])
  put(changes, 'peak', newest[2])
  put(changes, 'peaks', table.concat(parts))
end
