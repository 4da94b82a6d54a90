-- Close a suspect: with what the upstream's books say it cost, or with nothing because an operator said so.
-- KEYS  1 suspects  2 closed  3 usage  4 and 5 roll-ups of the suspect's day (see usage.lua)  6 books  then each budget
--       window that the suspect names
-- ARGV  1 hold id  2 cost (nano-dollars)  3 the suspect's day (days since 1970)
-- Returns 1; 0 when it is no suspect (any more), or not one of these windows or this day.
local suspects, closed, usage, rollups, books = KEYS[1], KEYS[2], KEYS[3], { KEYS[4], KEYS[5] }, KEYS[6]
local id, cost, day = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local entry = redis.call('HGET', suspects, id)
if not entry then return 0 end
local known = cjson.decode(entry)
if #known.budgets ~= #KEYS - 6 or day_of(known.at) ~= day then return 0 end
for i = 1, #known.budgets do
  if known.budgets[i] ~= KEYS[6 + i] then return 0 end
end
local amount = tonumber(known.amount)
local within = math.min(cost, amount)
for i = 7, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then -- books of long ago expire
    redis.call('HINCRBY', KEYS[i], 'suspect', exact(-amount))
    redis.call('HINCRBY', KEYS[i], 'spent', exact(within))
    if cost > within then redis.call('HINCRBY', KEYS[i], 'debt', exact(cost - within)) end
  end
end
redis.call('HDEL', suspects, id)
local memory = exact(within) .. ':' .. exact(cost - within)
if known.story then
  correct(usage, books, rollups, now, cjson.decode(known.story), SUSPECT, amount, nil, COST, cost, 'reconciled')
  memory = memory .. '\n' .. cjson.encode({ at = known.at, story = known.story })
end
redis.call('HSET', closed, id, memory) -- a late settlement corrects it
redis.call('EXPIRE', closed, 2592000)
return 1
