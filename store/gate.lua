-- The gate: which of some lines of one model may be sent now. All or nothing for each line, over its breaker, every
-- limit and every budget; a line that is refused takes nothing. What is admitted is held until it is settled.
-- KEYS  1 books  2 holds of the owner  3 owners  4 model  5 pauses  then a window of each budget, then each limit
-- ARGV  1 owner  2 lease (ms)  3 version of the policy  4 epoch that the owner has seen
--       5 place of this ask in its call  6 number of the call  7 number of the rules  8 the rules' keys, for whoever
--       must settle when the owner is gone  9 probes  10 scopes  11 budgets  12 limits (counts)
--       then the scopes whose pauses count
--       then of each budget: limit ('' = field `limit` of its hash), first ms, end ms ('' = never)
--       then of each limit: requests a minute, their capacity, tokens a minute, their capacity, requests a day, most
--       in the air ('' = none)
--       then of each line: hold id, bound (nano-dollars), tokens at most
-- Returns { lines looked at from the front, why it ended there, which scope, budget or limit (from 1; of a breaker: 1
-- when an operator tripped it), ms to wait
-- (-1 = nobody knows), now (ms), then the places (from 1) of lines before that which no budget has room for }.
-- why: '' all looked at | alarm | policy | window | pause | breaker | share | limit | budget (all that were left)
-- Repeated with the same numbers, it says the same again and does nothing. A call that arrives after one with a higher
-- number was repeated long ago, on another connection: it holds nothing, for nobody waits for its answer.
local books, holds, owners, model, pauses = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DAY, HOUR, KEPT = 86400000, 3600000, 3456000000 -- ms; late bookings may come for forty days
local owner, lease, version, seen_epoch = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local place, call, rules, rules_text = 'ask' .. ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local probes, scope_count, budget_count, limit_count =
  tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local owned = redis.call('HMGET', holds, place, 'rules' .. rules, 'called')
if owned[1] and string.sub(owned[1], 1, #call + 1) == call .. ' ' then
  local reply = {}
  for word in string.gmatch(string.sub(owned[1], #call + 2), '[^ ]+') do reply[#reply + 1] = tonumber(word) or word end
  if reply[2] == '-' then reply[2] = '' end
  return reply
end
local function told(reply) -- what is kept of it, should the call be repeated
  return call .. ' ' .. reply[1] .. ' ' .. (reply[2] == '' and '-' or reply[2]) .. ' ' .. table.concat(reply, ' ', 3)
end
if tonumber(owned[3] or 0) > tonumber(call) then return { 0, '', 0, 0, now } end

local function nothing(reply)
  redis.call('HSET', holds, 'called', call, place, told(reply))
  if not owned[3] then redis.call('EXPIRE', holds, 86400) end -- of an owner that never held anything
  return reply
end

local function refuse(why, which, wait) return nothing({ 0, why, which, wait, now }) end

local known = redis.call('HMGET', books, 'version', 'epoch', 'alarm')
if known[3] or tonumber(known[2] or 0) < seen_epoch then return refuse('alarm', 0, -1) end
if (known[1] or '0') ~= version then return refuse('policy', 0, 0) end

local at = 13 + scope_count
for i, pause in ipairs(redis.call('HMGET', pauses, unpack(ARGV, 13, at - 1))) do
  if pause then
    local till = tonumber(string.match(pause, '^(-?%d+)|'))
    if till == -1 or till > now then return refuse('pause', i, till == -1 and -1 or till - now) end
  end
end

-- the breaker, and how many lines of the model may be in the air
local facts = redis.call('HMGET', model, 'state', 'until', 'in_air', 'window', 'share', 'probing', 'hour')
local state, opens = facts[1] or 'closed', tonumber(facts[2] or 0)
local in_air, probing, places = tonumber(facts[3] or 0), tonumber(facts[6] or 0), nil
if state == 'open' then
  if opens == -1 or now < opens then
    return refuse('breaker', opens == -1 and 1 or 0, opens == -1 and -1 or opens - now)
  end
  state = 'half' -- probes that are still in the air from the last time count as well
  redis.call('HSET', model, 'state', state, 'good', 0)
end
local narrow = 'breaker'
if state == 'half' then
  places = probes - probing
elseif facts[4] then
  places = math.floor(tonumber(facts[4])) - in_air
end
if facts[5] then
  local share = math.max(1, math.floor(tonumber(facts[5]))) - in_air
  if not places or share < places then places, narrow = share, 'share' end
end
if places and places <= 0 then return refuse(narrow, 0, -1) end

-- the room in the tightest budget
local room, tightest, window_end = nil, 0, nil
local function of(index) return KEYS[5 + index] end
for i = 1, budget_count do
  local first, ends = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if now < first or (ends and now >= ends) then return refuse('window', i, 0) end
  local sums = redis.call('HMGET', of(i), 'spent', 'held', 'suspect', 'debt', 'limit')
  local left = tonumber(ARGV[at] ~= '' and ARGV[at] or sums[5] or 0)
  for j = 1, 4 do left = left - tonumber(sums[j] or 0) end
  if not room or left < room then room, tightest, window_end = left, i, ends end
  at = at + 3
end

-- the buckets as they are now; what is reserved has a stamp that is later than all that were
local limits, stamp = {}, now
for i = 1, limit_count do
  local key = of(budget_count + i)
  local told = redis.call('HMGET', key, 'requests', 'tokens', 'at', 'day', 'day_count', 'in_air', 'stamp', 'peak',
    'peaks')
  local limit = {
    key = key, rate = tonumber(ARGV[at]), token_rate = tonumber(ARGV[at + 2]), a_day = tonumber(ARGV[at + 4]),
    most = tonumber(ARGV[at + 5]), touched = tonumber(told[3] or now), today = math.floor(now / DAY),
    in_air = tonumber(told[6] or 0), stamp = told[7], last_peak = told[8],
    peaks = told[9], new = not told[3],
  }
  limit.count = tonumber(told[4]) == limit.today and tonumber(told[5]) or 0
  if limit.rate then limit.requests = refilled(told[1], limit.touched, now, limit.rate, tonumber(ARGV[at + 1])) end
  if limit.token_rate then
    limit.full = tonumber(ARGV[at + 3]) * UNIT
    limit.tokens = refilled(told[2], limit.touched, now, limit.token_rate, tonumber(ARGV[at + 3]))
    limit.peak = limit.tokens
    stamp = math.max(stamp, tonumber(told[7] or 0) + 1)
  end
  limits[i] = limit
  at = at + 6
end

-- Whether a line of so many tokens fits a limit now; if not, the ms until it may (-1 = nobody knows).
local function wait_for(limit, tokens)
  if limit.a_day and limit.count >= limit.a_day then return (limit.today + 1) * DAY - now end
  if limit.most and limit.in_air >= limit.most then return -1 end
  local wait
  if limit.rate and limit.requests < UNIT then wait = math.ceil((UNIT - limit.requests) / limit.rate) end
  if limit.token_rate then -- a line dearer than the whole bucket passes when the bucket is full
    local needed = math.min(tokens * UNIT, limit.full)
    if limit.tokens < needed then
      wait = math.max(wait or 0, math.ceil((needed - limit.tokens) / limit.token_rate))
    end
  end
  return wait
end

local looked, why, which, wait = 0, '', 0, 0
local skipped, admitted, held, fresh = {}, 0, 0, {}
local taken = ':' .. stamp .. (state == 'half' and ':p' or ':')
for i = at, #ARGV, 3 do
  local bound, tokens = tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2])
  if places and admitted >= places then why, wait = narrow, -1 break end
  if room and bound > room - held then
    skipped[#skipped + 1] = looked + 1
  else
    for j = 1, limit_count do
      wait = wait_for(limits[j], tokens)
      if wait then why, which = 'limit', j break end
    end
    if why ~= '' then break end
    wait = 0
    for j = 1, limit_count do
      local limit = limits[j]
      limit.count, limit.in_air = limit.count + 1, limit.in_air + 1
      if limit.rate then limit.requests = limit.requests - UNIT end
      if limit.token_rate then limit.tokens = limit.tokens - tokens * UNIT end
    end
    admitted, held = admitted + 1, held + bound
    put(fresh, ARGV[i], rules .. ':' .. ARGV[i + 1] .. ':' .. ARGV[i + 2] .. taken)
  end
  looked = looked + 1
end
if why == '' and #skipped > 0 then
  why, which, wait = 'budget', tightest, window_end and window_end - now or -1
end
local reply = { looked, why, which, wait, now }
for _, skip in ipairs(skipped) do reply[#reply + 1] = skip end
if admitted == 0 then return nothing(reply) end

put(fresh, 'called', call)
put(fresh, place, told(reply))
if not owned[2] then put(fresh, 'rules' .. rules, rules_text) end
for i = 1, #fresh, 4000 do redis.call('HSET', holds, unpack(fresh, i, math.min(i + 3999, #fresh))) end
local leased = tonumber(redis.call('ZSCORE', owners, owner) or 0)
if leased < now + lease / 2 then -- else the heartbeat sees to it
  redis.call('ZADD', owners, now + lease, owner)
  if leased == 0 then redis.call('PERSIST', holds) end -- new, or back: what is held stays until settled or abandoned
end
redis.call('HINCRBY', model, 'in_air', admitted)
if state == 'half' then redis.call('HINCRBY', model, 'probing', admitted) end
local hour = math.floor(now / HOUR)
if tonumber(facts[7]) ~= hour then -- seldom: what is in use must not expire
  redis.call('HSET', model, 'hour', hour)
  redis.call('EXPIRE', model, 172800)
end
for i = 1, budget_count do
  local ends = tonumber(ARGV[12 + scope_count + 3 * i])
  if redis.call('HINCRBY', of(i), 'held', whole(held)) == held then
    if ends then
      redis.call('PEXPIREAT', of(i), whole(ends + KEPT))
    elseif ARGV[10 + scope_count + 3 * i] ~= '' then
      redis.call('PERSIST', of(i)) -- a late booking may have begun it
    end
  end
end
for _, limit in ipairs(limits) do
  local changes = {}
  put(changes, 'at', math.max(now, limit.touched))
  put(changes, 'in_air', limit.in_air)
  if limit.a_day then
    put(changes, 'day', limit.today)
    put(changes, 'day_count', limit.count)
  end
  if limit.rate then put(changes, 'requests', limit.requests) end
  if limit.token_rate then
    put(changes, 'tokens', limit.tokens)
    if (limit.peaks or '') == '' and tonumber(limit.last_peak or 0) <= limit.peak then -- mostly, and much cheaper
      put(changes, 'stamp', stamp)
      put(changes, 'peak', limit.peak)
    else
      local peaks = read_peaks(limit.peaks, limit.stamp, limit.last_peak)
      note_peak(peaks, stamp, limit.peak, limit.full)
      put_peaks(changes, peaks)
    end
  end
  redis.call('HSET', limit.key, unpack(changes))
  if limit.new or hour ~= math.floor(limit.touched / HOUR) then
    redis.call('EXPIRE', limit.key, 172800)
  end
end
return reply
