-- Settle holds of one owner that were taken under the same rules: what was held becomes what was spent, once.
-- KEYS  1 books  2 holds of the owner  3 model  4 suspects  5 closed  then a window of each budget, then each limit,
--       then usage and the two roll-ups (see usage.lua) of each day that is named
-- ARGV  1 number of this call, which grows, a space, its place among the calls of that number  2 budgets
--       3 limits (counts)  4 model's name
--       5 breaker: length of its window (ms)  6 fewest calls  7 share of failures (thousandths)  8 share of slow calls
--       (thousandths, '' = none)  9 first open time (ms)  10 longest  11 probes  12 a number from 0 to 1, for jitter
--       13 days of the roll-ups (since 1970, with spaces between)  14 chunk of usage records ('' = none)  15 how many
--       they are  16 how many changes of today's roll-ups go with them
--       then of each limit: tokens a minute, their capacity ('' = none)
--       then of each change: 1 (by group) or 2 (by batch), field, by how much (eight sums)
--       then of each hold: id, bound, cost ('' = unknown: it becomes suspect), tokens used ('' = unknown), outcome
--       (s = answered, f = the provider failed, n = says nothing about the provider), slow ('1' or ''), generation id,
--       its story, see usage.lua ('' = there is none, or it is in the chunk)
-- Returns { 1, 1 when the breaker was tripped by this, now (ms) }; { 0 } when this call was booked before;
-- { -1, 1 or 0, days ... } when nothing was done yet: repeat it with the roll-ups of these days (the first is today),
-- and on 1 without a chunk, each hold with its story: one is not held any more, so that its record is a correction.
--
-- Where a hold is:     held ──settle──► spent       what is over the bound goes to `debt`, and is a breach
--                       │ └─ unknown ─► suspect ──settle, late──► spent
--                       └─ owner gone ─► suspect ──closed by operator or lookup──► closed ──settle, late──► debt
-- An actual cost that finds no hold anywhere is booked all the same, as debt: its room may be used by others.
local HOUR = 3600000 -- ms
local WIDE = 1024 -- lines in the air: a share or window that has grown so far binds nobody any more
local books, holds, model, suspects, closed = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local call, place = string.match(ARGV[1], '^(%d+) (%d+)$')
local budget_count, limit_count = tonumber(ARGV[2]), tonumber(ARGV[3])
call, place = tonumber(call), 'settled' .. place
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if call <= tonumber(redis.call('HGET', holds, place) or 0) then return { 0 } end

-- before anything is touched: which roll-ups this needs
local change_count, usage, rollups = tonumber(ARGV[16]), KEYS[6 + budget_count + limit_count], {}
local today, named = day_of(now), 0
for day in string.gmatch(ARGV[13], '%d+') do
  named = named + 1
  local first = 5 + budget_count + limit_count + 2 * named
  rollups[tonumber(day)] = { KEYS[first], KEYS[first + 1] }
end
local at, ids = 17 + 2 * limit_count + 3 * change_count, {}
for i = at, #ARGV, 8 do ids[#ids + 1] = ARGV[i] end
local held = redis.call('HMGET', holds, unpack(ids))
local needed, strange = { -1, 0, today }, not rollups[today]
local function told_before(id) -- a suspect's entry, or what is known of one that was closed
  local entry = redis.call('HGET', suspects, id)
  if entry then return cjson.decode(entry), nil end
  local spent, debt, memory = string.match(redis.call('HGET', closed, id) or '', '^(%d+):(%d+)\n?(.*)$')
  if not spent then return nil, nil end
  local known = memory ~= '' and cjson.decode(memory) or {}
  known.spent, known.debt = tonumber(spent), tonumber(debt)
  return nil, known
end
for i = 1, #ids do
  if not held[i] then
    local suspected, known = told_before(ids[i])
    local told = suspected or known
    if ARGV[14] ~= '' then needed[2], strange = 1, true end
    if told and told.story then
      needed[#needed + 1] = day_of(told.at)
      if not rollups[day_of(told.at)] then strange = true end
    end
  end
end
if strange then return needed end

if redis.call('HSET', holds, place, call) == 1 and redis.call('HLEN', holds) == 1 then
  redis.call('EXPIRE', holds, 86400) -- the owner was forgotten long ago
end

local function less(key, field, by)
  if redis.call('HINCRBY', key, field, -by) < 0 then redis.call('HDEL', key, field) end -- it had expired meanwhile
end

local sums = { spent = 0, held = 0, suspect = 0, debt = 0 }
local breaches, late, landed, probed, good, bad, slow = 0, 0, 0, 0, 0, 0, 0
local probes_good, probes_bad = 0, 0
local gone, returned, stamps = {}, {}, {} -- tokens that were not used, by the stamp under which they were reserved

local function book(cost, reserved)
  local within = math.min(cost, reserved)
  sums.spent = sums.spent + within
  sums.debt = sums.debt + cost - within
end

local function new_story(text) return text ~= '' and cjson.decode(text) or nil end

local function known_story(known) return known.story and cjson.decode(known.story) or nil end

-- A call that costs what is known now; `old` is the story of what was told before, if it was.
local function settle_story(text, cost, known, kind, amount)
  local old, new = known and known_story(known), new_story(text)
  if old then
    correct(usage, books, rollups[day_of(known.at)], now, old, kind, amount, new, COST, cost, 'reconciled')
  elseif new then
    tell(usage, books, rollups[today], now, new, COST, cost, new.source)
  end
end

local function suspect(id, amount, generation, text)
  if text ~= '' then tell(usage, books, rollups[today], now, new_story(text), SUSPECT, amount, 'suspect') end
  if amount == 0 then return end
  local windows = {}
  for i = 1, budget_count do windows[i] = KEYS[5 + i] end
  local batch, index = string.match(id, '^([^.]*)%.(%d+)')
  sums.suspect = sums.suspect + amount
  redis.call('HSET', suspects, id, cjson.encode({
    amount = whole(amount), batch = batch or '', index = tonumber(index or 0), model = ARGV[4],
    generation = generation, at = now, budgets = windows, story = text ~= '' and text or nil,
  }))
end

-- More is known of a suspect, but not its cost: one that nobody could look up may be looked up from now on.
local function name_suspect(id, known, generation, text)
  local old, amount = known_story(known), tonumber(known.amount)
  if old and text ~= '' then
    local new = new_story(text)
    correct(usage, books, rollups[day_of(known.at)], now, old, SUSPECT, amount, new, SUSPECT, amount, 'suspect')
    known.story = text
  elseif known.generation ~= '' or generation == '' then
    return
  end
  if known.generation == '' then known.generation = generation end
  redis.call('HSET', suspects, id, cjson.encode(known))
end

local function settle_hold(id, hold, used, outcome)
  local bound, tokens, stamp, probe = string.match(hold, '^%d+:(%d+):(%d+):(%d+):(p?)$')
  bound, stamp = tonumber(bound), tonumber(stamp)
  landed = landed + 1
  gone[#gone + 1] = id
  gone[#gone + 1] = 'g' .. id
  sums.held = sums.held - bound
  if probe == 'p' then
    probed = probed + 1
    if outcome == 's' then probes_good = probes_good + 1 elseif outcome == 'f' then probes_bad = probes_bad + 1 end
  end
  if used ~= '' then
    if not returned[stamp] then stamps[#stamps + 1] = stamp end
    returned[stamp] = (returned[stamp] or 0) + tonumber(tokens) - tonumber(used)
  end
  return bound
end

for i = at, #ARGV, 8 do
  local id, cost, outcome, generation, story =
    ARGV[i], tonumber(ARGV[i + 2]), ARGV[i + 4], ARGV[i + 6], ARGV[i + 7]
  local hold, suspected, known = held[(i - at) / 8 + 1], nil, nil
  if not hold then suspected, known = told_before(id) end
  if hold then
    local bound = settle_hold(id, hold, ARGV[i + 3], outcome)
    if cost then
      book(cost, bound)
      settle_story(story, cost)
      if cost > bound then breaches = breaches + 1 end
    else
      suspect(id, bound, generation, story)
    end
  elseif cost then
    late = late + 1
    if suspected then
      local amount = tonumber(suspected.amount)
      sums.suspect = sums.suspect - amount
      book(cost, amount)
      settle_story(story, cost, suspected, SUSPECT, amount)
      redis.call('HDEL', suspects, id)
    else
      local spent, debt = known and known.spent or 0, known and known.debt or 0
      local more = cost - spent - debt
      local from_debt = math.max(more, -debt)
      sums.debt = sums.debt + from_debt
      sums.spent = sums.spent + more - from_debt
      settle_story(story, cost, known, COST, spent + debt)
      redis.call('HDEL', closed, id)
    end
  elseif suspected then
    name_suspect(id, suspected, generation, story)
  elseif not known then
    late = late + 1
    suspect(id, tonumber(ARGV[i + 1]), generation, story)
  end
  if outcome == 's' then good = good + 1 elseif outcome == 'f' then bad = bad + 1 end
  if ARGV[i + 5] == '1' then slow = slow + 1 end
end

if ARGV[14] ~= '' then
  write_usage(usage, books, now, ARGV[15], 'm', ARGV[14])
  for i = at - 3 * change_count, at - 1, 3 do
    add(rollups[today][tonumber(ARGV[i])], ARGV[i + 1], sums_of(ARGV[i + 2]))
  end
  keep(rollups[today])
end
table.sort(stamps)
if #gone > 0 then redis.call('HDEL', holds, unpack(gone)) end
for i = 1, budget_count do
  local gone_window = late > 0 and redis.call('EXISTS', KEYS[5 + i]) == 0 -- expired, or the books were emptied
  for field, sum in pairs(sums) do
    if sum ~= 0 and not (gone_window and sum < 0) then redis.call('HINCRBY', KEYS[5 + i], field, whole(sum)) end
  end
  if gone_window then redis.call('EXPIRE', KEYS[5 + i], 3456000) end
end
if breaches > 0 then redis.call('HINCRBY', books, 'bound_breaches', breaches) end
if late > 0 then redis.call('HINCRBY', books, 'late', late) end

-- Give tokens back to a bucket: `above` is by how much the level would have been higher, carried over every peak since.
local function give_back(key, rate, capacity)
  local full, told = capacity * UNIT, redis.call('HMGET', key, 'tokens', 'at', 'stamp', 'peak', 'peaks')
  if not told[1] then return end
  local touched, peaks, changes, above, over, i = tonumber(told[2]), {}, {}, 0, 0, 1
  local level = refilled(told[1], touched, now, rate, capacity)
  local function carry(before)
    while stamps[i] and stamps[i] < before do
      local unused = returned[stamps[i]] * UNIT
      if unused < 0 then over = over - unused else above = above + unused end
      i = i + 1
    end
  end
  for _, peak in ipairs(read_peaks(told[5], told[3], told[4])) do
    carry(peak[1])
    above = math.max(0, math.min(above, full - peak[2]))
    note_peak(peaks, peak[1], peak[2] + above, full)
  end
  carry(math.huge)
  level = level + math.max(0, math.min(above, full - level)) - over
  put(changes, 'tokens', level)
  put(changes, 'at', math.max(now, touched))
  put_peaks(changes, peaks)
  redis.call('HSET', key, unpack(changes))
  if math.floor(touched / HOUR) ~= math.floor(now / HOUR) then redis.call('EXPIRE', key, 172800) end
end

for i = 1, limit_count do
  local key, rate, capacity = KEYS[5 + budget_count + i], tonumber(ARGV[15 + 2 * i]), tonumber(ARGV[16 + 2 * i])
  if landed > 0 then less(key, 'in_air', landed) end
  if rate and #stamps > 0 then give_back(key, rate, capacity) end
end
if landed > 0 then less(model, 'in_air', landed) end
if probed > 0 then less(model, 'probing', probed) end
if good + bad == 0 then return { 1, 0, now } end

-- the adaptive share grows by one for each round of successes
local facts = redis.call('HMGET', model, 'state', 'trips', 'window', 'share', 'slots', 'good', 'streak',
  'hour')
local state, trips, window, share = facts[1] or 'closed', tonumber(facts[2] or 0), tonumber(facts[3]), tonumber(facts[4])
if not facts[8] then -- the model's facts had expired
  redis.call('HSET', model, 'hour', 0)
  redis.call('EXPIRE', model, 172800)
end
if facts[7] and good > 0 then redis.call('HDEL', model, 'streak') end
if share and good > 0 then
  share = share + good / share
  if share > WIDE then redis.call('HDEL', model, 'share') else redis.call('HSET', model, 'share', share) end
end
if state == 'open' then return { 1, 0, now } end

-- the breaker: outcomes in six parts of its window while it is closed, those of its probes while it is half open
local function trip()
  local pause = math.min(tonumber(ARGV[10]), tonumber(ARGV[9]) * 2 ^ math.min(trips, 20))
  pause = math.floor(pause * (0.8 + 0.4 * tonumber(ARGV[12])))
  redis.call('HSET', model, 'state', 'open', 'until', whole(now + pause), 'trips', trips + 1, 'tripped', 'failures')
  redis.call('HDEL', model, 'slots', 'window', 'good')
  return { 1, 1, now }
end

if state == 'half' then
  if probes_bad > 0 then return trip() end
  local passed = tonumber(facts[6] or 0) + probes_good
  if passed < tonumber(ARGV[11]) then
    redis.call('HSET', model, 'good', passed)
  else
    redis.call('HSET', model, 'state', 'closed', 'window', 2 * passed)
    redis.call('HDEL', model, 'good', 'slots', 'until', 'tripped')
  end
  return { 1, 0, now }
end

local part = math.max(1, math.floor(tonumber(ARGV[5]) / 6))
local this = math.floor(now / part)
local kept, answered, calls, failures, slows = {}, good, good + bad, bad, slow
for slot, ok, fail, late_ones in string.gmatch(facts[5] or '', '(%d+),(%d+),(%d+),(%d+);') do
  slot, ok, fail, late_ones = tonumber(slot), tonumber(ok), tonumber(fail), tonumber(late_ones)
  if slot > this - 6 and slot <= this then
    calls, failures, slows = calls + ok + fail, failures + fail, slows + late_ones
    if slot == this then
      good, bad, slow = good + ok, bad + fail, slow + late_ones
    else
      kept[#kept + 1] = slot .. ',' .. ok .. ',' .. fail .. ',' .. late_ones .. ';'
    end
  end
end
local slow_share = tonumber(ARGV[8])
if calls >= tonumber(ARGV[6])
  and (failures * 1000 >= calls * tonumber(ARGV[7]) or (slow_share and slows * 1000 >= calls * slow_share))
then
  return trip()
end
kept[#kept + 1] = this .. ',' .. good .. ',' .. bad .. ',' .. slow .. ';'
redis.call('HSET', model, 'slots', table.concat(kept))
if window then
  window = window + answered
  if window > WIDE then
    redis.call('HDEL', model, 'window', 'trips')
  else
    redis.call('HSET', model, 'window', window)
  end
end
return { 1, 0, now }
