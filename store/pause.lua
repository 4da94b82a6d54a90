-- Pause a scope because the upstream refused, and let less of the model into the air. The refusals of one volley are
-- one pause: they may lengthen it, but neither begin another nor cut again. A provider that is overloaded is only sent
-- less, once in a while: nothing is paused.
-- KEYS  1 pauses  2 model
-- ARGV  1 scope ('' = pause nothing, only cut)  2 ms that the upstream told ('' = none: longer each time in a row)  3 why
--       4 '1' when the model's share in the air is to be cut
-- Returns { ms that the pause lasts from now, 1 when it begins with this }.
local pauses, model = KEYS[1], KEYS[2]
local scope, told, why, cut = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local FIRST, LONGEST, CUT, CUT_EVERY = 1000, 60000, 0.7, 5000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function touch() -- what an operator tripped stays until an operator resets it
  if redis.call('HGET', model, 'tripped') ~= 'operator' then redis.call('EXPIRE', model, 172800) end
end

local function cut_share()
  local facts = redis.call('HMGET', model, 'share', 'in_air')
  local reached = tonumber(facts[2] or 0) + 1 -- the refused line is still among those in the air, or just was
  local share = math.max(1, math.min(tonumber(facts[1] or reached), reached) * CUT)
  redis.call('HSET', model, 'share', share, 'cut_at', now)
end

if scope == '' then
  local cut_at = tonumber(redis.call('HGET', model, 'cut_at') or 0)
  local due = now - cut_at >= CUT_EVERY or cut_at > now
  if due then
    cut_share()
    touch()
  end
  return { 0, due and 1 or 0 }
end
local ends = tonumber(string.match(redis.call('HGET', pauses, scope) or '', '^(-?%d+)|') or 0)
if ends > now then
  if told and now + told > ends then
    ends = now + told
    redis.call('HSET', pauses, scope, string.format('%.0f|%s', ends, why))
  end
  return { ends - now, 0 }
end
local streak = tonumber(redis.call('HGET', model, 'streak') or 0)
local wait = told or math.min(LONGEST, FIRST * 2 ^ math.min(streak, 10))
redis.call('HSET', pauses, scope, string.format('%.0f|%s', now + wait, why))
redis.call('HSET', model, 'streak', streak + 1)
if cut then cut_share() end
touch()
return { wait, 1 }
