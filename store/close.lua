-- Close a suspect: with what the upstream's books say it cost, or with nothing because an operator said so.
-- KEYS  1 suspects  2 closed  then each budget window that the suspect names
-- ARGV  1 hold id  2 cost (nano-dollars)
-- Returns 1; 0 when it is no suspect (any more), or not one of these windows.
local suspects, closed = KEYS[1], KEYS[2]
local id, cost = ARGV[1], tonumber(ARGV[2])
local entry = redis.call('HGET', suspects, id)
if not entry then return 0 end
local known = cjson.decode(entry)
if #known.budgets ~= #KEYS - 2 then return 0 end
for i = 1, #known.budgets do
  if known.budgets[i] ~= KEYS[2 + i] then return 0 end
end
local amount = tonumber(known.amount)
local within = math.min(cost, amount)
for i = 3, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 1 then -- books of long ago expire
    redis.call('HINCRBY', KEYS[i], 'suspect', string.format('%.0f', -amount))
    redis.call('HINCRBY', KEYS[i], 'spent', string.format('%.0f', within))
    if cost > within then redis.call('HINCRBY', KEYS[i], 'debt', string.format('%.0f', cost - within)) end
  end
end
redis.call('HDEL', suspects, id)
redis.call('HSET', closed, id, string.format('%.0f:%.0f', within, cost - within)) -- a late settlement corrects it
redis.call('EXPIRE', closed, 2592000)
return 1
