-- Let a staged batch go: from here on it exists. Its shards are queued after this; maintenance queues any that the
-- caller did not get to.
-- KEYS  1 batch (hash)  2 batches (sorted set)  3 live (set)  4 content (string)  5 staged shards -> open shards
-- ARGV  1 batch id  2 retention (s)  3.. field, value, field, value ... of the batch
-- Returns '' when the batch was let go, else the id of the live or finished batch that has the same content.
local batch, batches, live, content = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local batch_id, retention = ARGV[1], ARGV[2]
local other = redis.call('GET', content)
if other and other ~= batch_id then return other end
local now = redis.call('TIME')[1]
redis.call('SET', content, batch_id, 'EX', retention)
redis.call('HSET', batch, 'id', batch_id, 'state', 'in_progress', 'created_at', now, 'in_progress_at', now)
for i = 3, #ARGV, 2 do redis.call('HSET', batch, ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', batch, retention)
redis.call('EXPIRE', KEYS[5], retention)
redis.call('ZADD', batches, now, batch_id)
redis.call('SADD', live, batch_id)
return ''
