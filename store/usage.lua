-- Prelude of the scripts that book money: the ledger. What is told of a call is its story, JSON: `record` (a record of
-- usage, JSON in a string), `group` and `batch` (its fields in the roll-ups of a day), `counts` (the first six sums),
-- `source`. A day has two roll-ups, by group and by batch: { key, key }; they change together. A field of one is eight
-- sums with spaces between: requests, answered, prompt, cached, completion and reasoning tokens, cost, suspect.
local DAY_MS, TEN_YEARS = 86400000, 315360000 -- ms, s
local COST, SUSPECT = 7, 8

local function exact(number) return string.format('%.0f', number) end

local function day_of(at) return math.floor(at / DAY_MS) end

local function write_usage(stream, books, at, count, ...)
  redis.call('HINCRBY', books, 'records', count)
  local done = redis.pcall('XADD', stream, exact(at) .. '-*', 'at', exact(at), 'n', count, ...)
  if type(done) == 'table' and done.err then -- the clock went back: the entry's own `at` is right all the same
    redis.call('XADD', stream, '*', 'at', exact(at), 'n', count, ...)
  end
end

local function keep(rollups)
  for _, rollup in ipairs(rollups) do
    if redis.call('PTTL', rollup) == -1 then redis.call('EXPIRE', rollup, TEN_YEARS) end
  end
end

local function sums_of(text)
  local sums = {}
  for number in string.gmatch(text, '%S+') do sums[#sums + 1] = tonumber(number) end
  return sums
end

local function add(rollup, field, more)
  if not field then return end -- a story of an older version; its money must be booked all the same
  local sums = sums_of(redis.call('HGET', rollup, field) or '0 0 0 0 0 0 0 0')
  for i = 1, 8 do sums[i] = exact(sums[i] + more[i]) end
  redis.call('HSET', rollup, field, table.concat(sums, ' '))
end

-- One call more in the roll-ups, or (sign -1) one less; `kind` of its money is COST or SUSPECT.
local function roll(rollups, story, kind, amount, sign)
  local sums = { 0, 0, 0, 0, 0, 0, 0, 0 }
  for i, count in ipairs(story.counts) do sums[i] = sign * count end
  sums[kind] = sign * amount
  add(rollups[1], story.group, sums)
  add(rollups[2], story.batch, sums)
end

-- A call that is in no record yet, with its money.
local function tell(stream, books, rollups, at, story, kind, amount, source)
  roll(rollups, story, kind, amount, 1)
  keep(rollups)
  write_usage(stream, books, at, 1, 'b', story.record, 'c', exact(amount), 's', source)
end

-- A call that was told before, in the roll-ups of its day, with other money; `new`, if any, is what is told of it now.
local function correct(stream, books, rollups, at, old, old_kind, old_amount, new, kind, amount, source)
  local told = new or old
  roll(rollups, old, old_kind, old_amount, -1)
  roll(rollups, told, kind, amount, 1)
  keep(rollups)
  write_usage(stream, books, at, 1, 'b', told.record, 'c', exact(amount), 's', source)
end
