-- Move holds of an owner that fell silent to the suspects: nobody knows what became of these calls, so their money
-- stays reserved until somebody does. What they took of rates stays taken; their places in the air are free again.
-- KEYS  1 owners  2 holds of the owner  3 model  4 suspects  then a window of each budget, then each limit, then books,
--       usage and the roll-ups of today (see usage.lua)
-- ARGV  1 owner  2 number of the rules  3 budgets  4 limits (counts)  5 model's name  6 today (days since 1970)
--       then of each hold: id, its story (see usage.lua)
-- Returns how many were moved; -1 when the owner lives, -2 when today is another day: then nothing is touched. Without
-- holds, it forgets the owner.
local owners, holds, model, suspects = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local books, usage, rollups = KEYS[#KEYS - 3], KEYS[#KEYS - 2], { KEYS[#KEYS - 1], KEYS[#KEYS] }
local owner, rules, budget_count, limit_count = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if tonumber(redis.call('ZSCORE', owners, owner) or 0) > now then return -1 end
if #ARGV < 7 then
  redis.call('ZREM', owners, owner)
  redis.call('EXPIRE', holds, 86400) -- for a late settlement: which calls were booked
  return 0
end
if day_of(now) ~= tonumber(ARGV[6]) then return -2 end
local windows, moved, amount, probed = {}, 0, 0, 0
for i = 1, budget_count do windows[i] = KEYS[4 + i] end
for i = 7, #ARGV, 2 do
  local id, story = ARGV[i], ARGV[i + 1]
  local hold = redis.call('HGET', holds, id)
  local own, bound, probe = string.match(hold or '', '^(%d+):(%d+):%d+:%d+:(p?)$')
  if own == rules then
    local batch, index = string.match(id, '^([^.]*)%.(%d+)')
    if bound ~= '0' then
      redis.call('HSET', suspects, id, cjson.encode({
        amount = bound, batch = batch or '', index = tonumber(index or 0), model = ARGV[5],
        generation = redis.call('HGET', holds, 'g' .. id) or '', at = now, budgets = windows, story = story,
      }))
      tell(usage, books, rollups, now, cjson.decode(story), SUSPECT, tonumber(bound), 'suspect')
    end
    redis.call('HDEL', holds, id, 'g' .. id)
    moved, amount = moved + 1, amount + tonumber(bound)
    if probe == 'p' then probed = probed + 1 end
  end
end
if moved == 0 then return 0 end
for i = 1, budget_count do
  if amount > 0 and redis.call('EXISTS', windows[i]) == 1 then -- books of long ago expire
    redis.call('HINCRBY', windows[i], 'held', string.format('%.0f', -amount))
    redis.call('HINCRBY', windows[i], 'suspect', string.format('%.0f', amount))
  end
end

local function less(key, field, by)
  if redis.call('HINCRBY', key, field, -by) < 0 then redis.call('HDEL', key, field) end -- it had expired meanwhile
end

for i = 1, limit_count do less(KEYS[4 + budget_count + i], 'in_air', moved) end
less(model, 'in_air', moved)
if probed > 0 then less(model, 'probing', probed) end
return moved
