-- Mark a batch as being cancelled, and forget its content, so that the same lines can be handed in again.
-- KEYS  1 batch (hash)  2 content (string)
-- ARGV  1 batch id
-- Returns the state that it is in now; '' when there is no such batch.
local batch, content = KEYS[1], KEYS[2]
local state = redis.call('HGET', batch, 'state')
if not state then return '' end
if redis.call('GET', content) == ARGV[1] then redis.call('DEL', content) end
if state ~= 'in_progress' then return state end
redis.call('HSET', batch, 'state', 'cancelling', 'cancelling_at', redis.call('TIME')[1])
return 'cancelling'
