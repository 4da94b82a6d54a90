-- Send nothing more of a batch: somebody cancels it, or its time is over. Its content is forgotten, so that the same
-- lines can be handed in again. `model.py` draws what follows from what.
-- KEYS  1 batch (hash)  2 content (string)  3 deadlines (sorted set)
-- ARGV  1 batch id  2 'cancelling' or 'expiring'  3 in how many seconds somebody looks at it again, should we die
-- Returns the state that it is in now; '' when there is no such batch.
local batch, content, deadlines = KEYS[1], KEYS[2], KEYS[3]
local batch_id, wanted, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local facts = redis.call('HMGET', batch, 'state', 'expires_at')
local state = facts[1]
if not state then
  redis.call('ZREM', deadlines, batch_id)
  return ''
end
local now = tonumber(redis.call('TIME')[1])
if wanted == 'expiring' and state == 'in_progress' and now < tonumber(facts[2] or math.huge) then return state end
if redis.call('GET', content) == batch_id then redis.call('DEL', content) end
if wanted == 'cancelling' and (state == 'in_progress' or state == 'expiring') then
  state = 'cancelling'
  redis.call('HSET', batch, 'state', state, 'cancelling_at', now)
elseif wanted == 'expiring' and state == 'in_progress' then
  state = 'expiring'
  redis.call('HSET', batch, 'state', state, 'finalizing_at', now)
end
if state == 'cancelling' or state == 'expiring' then
  redis.call('ZADD', deadlines, now + lease, batch_id)
else
  redis.call('ZREM', deadlines, batch_id)
end
return state
