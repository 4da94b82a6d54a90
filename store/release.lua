-- Let a staged batch go: from here on it exists, and all of it lasts as long as it. Its shards are queued after this;
-- maintenance queues any that the caller did not get to.
-- KEYS  1 batch (hash)  2 batches (sorted set)  3 live (set)  4 content (string)  5 staged shards -> open shards
--       6 done (bitmap)  7 results (stream)  8.. payload of each shard; the batch's own budget and its live lines, if any
-- ARGV  1 batch id  2 retention (s)  3 how many lines were refused  4.. field, value, field, value ... of the batch
-- Returns '' when the batch was let go, now or by the same call before; '-' when part of what was staged is gone; else
-- the id of the live or finished batch that has the same content.
local batch, batches, live, content = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local batch_id, retention, refused = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HEXISTS', batch, 'state') == 1 then return '' end
local other = redis.call('GET', content)
if other then return other end
if (redis.call('HGET', batch, 'failed') or '0') ~= refused then return '-' end
for i = 8, #KEYS do
  if redis.call('EXPIRE', KEYS[i], retention) == 0 then return '-' end
end
local now = redis.call('TIME')[1]
redis.call('SET', content, batch_id, 'EX', 2 * retention) -- the batch's own end counts from its last result
redis.call('HSET', batch, 'id', batch_id, 'state', 'in_progress', 'created_at', now, 'in_progress_at', now)
for i = 4, #ARGV, 2 do redis.call('HSET', batch, ARGV[i], ARGV[i + 1]) end
for _, key in ipairs({ batch, KEYS[5], KEYS[6], KEYS[7] }) do redis.call('EXPIRE', key, retention) end
redis.call('ZADD', batches, now, batch_id)
redis.call('SADD', live, batch_id)
return ''
