-- Count what came of calls of one model, in the slots of every size that they fell into.
-- KEYS  1 models seen  then a slot of each size
-- ARGV  1 model  2 when the youngest of it came (ms)  3 life of models seen (ms)  then the life of each slot (ms)
--       then of each count: its field, and by how much it grows
-- Returns now (ms)
local seen, slots = KEYS[1], #KEYS - 1
local model, at, life = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZADD', seen, now, model)
redis.call('ZREMRANGEBYSCORE', seen, '-inf', now - life)
redis.call('PEXPIRE', seen, life)
for i = 1, slots do
  local slot = KEYS[1 + i]
  for j = 4 + slots, #ARGV, 2 do redis.call('HINCRBY', slot, ARGV[j], ARGV[j + 1]) end
  if at > tonumber(redis.call('HGET', slot, 'at') or 0) then redis.call('HSET', slot, 'at', ARGV[2]) end
  redis.call('PEXPIRE', slot, ARGV[3 + i])
end
return now
