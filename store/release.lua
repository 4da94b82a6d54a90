-- Let a staged batch go: from here on it exists, and all of it lasts as long as it. Its shards are queued after this;
-- maintenance queues any that the caller did not get to.
-- KEYS  1 batch (hash)  2 batches (sorted set)  3 live (set)  4 content (string)  5 staged shards -> open shards
--       6 done (bitmap)  7 results (stream)  8 index of all projects  9 index of its project  10 deadlines
--       11 the batch's own budget  12 its intake (hash), where it came over HTTP
--       13.. payload of each shard, and its live lines, if any
-- ARGV  1 batch id  2 retention (s)  3 how many lines were refused  4 token of the try  5 shards
--       6 its name in the index of all, '' when it is not to be listed  7 end of its completion window (s), '' for none
--       8 its own budget (nano-dollars), '' for none  9.. field, value, field, value ... of the batch
-- Returns '' when the batch was let go, now or by the same call before; '-' when part of what was staged is gone, or
-- another try took over, or its intake has ended: who created it was told that it never runs; else the id of the live or
-- finished batch that has the same content, or this id.
local batch, batches, live, content, open, budget = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[11]
local batch_id, retention, refused, token, shards = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local name, expires_at, max_cost = ARGV[6], ARGV[7], ARGV[8]
local facts = redis.call('HMGET', batch, 'state', 'staging', 'failed')
if facts[1] then return facts[2] == token and '' or batch_id end
local intake = redis.call('HGET', KEYS[12], 'state')
if intake == 'failed' or intake == 'cancelled' or intake == 'expired' then return '-' end
local other = redis.call('GET', content)
if other then return other end
if facts[2] ~= token or (facts[3] or '0') ~= refused or redis.call('HLEN', open) ~= shards then return '-' end
for i = 13, #KEYS do
  if redis.call('EXPIRE', KEYS[i], retention) == 0 then return '-' end
end
local now = redis.call('TIME')[1]
redis.call('SET', content, batch_id, 'EX', 2 * retention) -- the batch's own end counts from its last result
redis.call('HSET', batch, 'id', batch_id, 'state', 'in_progress', 'created_at', now, 'in_progress_at', now)
for i = 9, #ARGV, 2 do redis.call('HSET', batch, ARGV[i], ARGV[i + 1]) end
if max_cost ~= '' then
  redis.call('HSET', batch, 'max_cost', max_cost)
  redis.call('HSET', budget, 'limit', max_cost)
  redis.call('EXPIRE', budget, retention)
end
if expires_at ~= '' then
  redis.call('HSET', batch, 'expires_at', expires_at)
  redis.call('ZADD', KEYS[10], expires_at, batch_id)
end
for _, key in ipairs({ batch, open, KEYS[6], KEYS[7] }) do redis.call('EXPIRE', key, retention) end
redis.call('ZADD', batches, now, batch_id)
if name ~= '' then
  redis.call('ZADD', KEYS[8], 0, name)
  redis.call('ZADD', KEYS[9], 0, batch_id)
end
redis.call('SADD', live, batch_id)
return ''
