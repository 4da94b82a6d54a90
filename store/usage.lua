-- Prelude of the scripts that book money: the ledger. What is told of a call is its story, JSON: `record` (a record of
-- usage, JSON in a string), `group` (the beginning of its fields in a roll-up), `counts` (letter -> number), `source`.
-- A roll-up's letters: r requests, a answered, p prompt, k cached, c completion, t reasoning tokens, $ cost, ? suspect.
local DAY_MS, TEN_YEARS = 86400000, 315360000 -- ms, s

local function exact(number) return string.format('%.0f', number) end

local function day_of(at) return math.floor(at / DAY_MS) end

local function write_usage(stream, books, at, count, ...)
  redis.call('HINCRBY', books, 'records', count)
  local done = redis.pcall('XADD', stream, exact(at) .. '-*', 'at', exact(at), 'n', count, ...)
  if type(done) == 'table' and done.err then -- the clock went back: the entry's own `at` is right all the same
    redis.call('XADD', stream, '*', 'at', exact(at), 'n', count, ...)
  end
end

local function keep_rollup(rollup)
  if redis.call('PTTL', rollup) == -1 then redis.call('EXPIRE', rollup, TEN_YEARS) end
end

local function roll(rollup, group, counts, sign)
  for letter, count in pairs(counts) do
    if count ~= 0 then redis.call('HINCRBY', rollup, group .. letter, exact(sign * count)) end
  end
end

-- A call that is in no record yet, with its money: letter and amount.
local function tell(stream, books, rollup, at, story, letter, amount, source)
  roll(rollup, story.group, story.counts, 1)
  roll(rollup, story.group, { [letter] = amount }, 1)
  keep_rollup(rollup)
  write_usage(stream, books, at, 1, 'b', story.record, 'c', exact(amount), 's', source)
end

-- A call that was told before, in the roll-up of its day, with other money; `new`, if any, is what is told of it now.
local function correct(stream, books, rollup, at, old, old_letter, old_amount, new, letter, amount, source)
  if new then
    roll(rollup, old.group, old.counts, -1)
    roll(rollup, new.group, new.counts, 1)
  end
  local told = new or old
  roll(rollup, old.group, { [old_letter] = old_amount }, -1)
  roll(rollup, told.group, { [letter] = amount }, 1)
  keep_rollup(rollup)
  write_usage(stream, books, at, 1, 'b', told.record, 'c', exact(amount), 's', source)
end

