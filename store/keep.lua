-- End a lead, with an answer to be kept or without. An answer is kept whoever leads by now: it is as good as another.
-- KEYS  1 answer (string)  2 lead (string)  3 index of the project's answers (sorted set)
-- ARGV  1 token of the lead  2 answer, '' for none  3 how long it is kept (ms)  4 its name in the index
-- Returns how many answers of the project there are, as far as they have not expired; 0 without an answer.
local answer, lead, index = KEYS[1], KEYS[2], KEYS[3]
local token, kept, life, name = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local count = 0
if kept ~= '' then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('SET', answer, kept, 'PX', life)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  redis.call('ZADD', index, now + life, name)
  if redis.call('PTTL', index) < life then redis.call('PEXPIRE', index, life) end
  count = redis.call('ZCARD', index)
end
if redis.call('GET', lead) == token then redis.call('DEL', lead) end
return count
