-- Pause a scope because the upstream refused, and let less of the model into the air. The refusals of one volley are
-- one pause: they may lengthen it, but neither begin another nor cut again.
-- KEYS  1 pauses  2 model
-- ARGV  1 scope  2 ms that the upstream told ('' = none: longer each time in a row)  3 why
--       4 '1' when the model's share in the air is to be cut
-- Returns { ms that the pause lasts from now, 1 when it begins with this }.
local pauses, model = KEYS[1], KEYS[2]
local scope, told, why, cut = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'
local FIRST, LONGEST, CUT = 1000, 60000, 0.7
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
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
if cut then
  local facts = redis.call('HMGET', model, 'share', 'in_air')
  local reached = tonumber(facts[2] or 0) + 1 -- the refused line is still among those in the air, or just was
  redis.call('HSET', model, 'share', math.max(1, math.min(tonumber(facts[1] or reached), reached) * CUT))
end
redis.call('EXPIRE', model, 172800)
return { wait, 1 }
