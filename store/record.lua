-- Record results of lines of one batch: the first writer wins, counters and the stream follow in the same step.
-- KEYS  1 batch (hash)  2 done (bitmap)  3 results (stream)  4 air (hash)  5 live (set)
-- ARGV  1 batch id  2 retention (s)  3 worker id  4 lines that the worker now has in the air
--       then for each result: index, state, cost (nano-dollars, '' when untold), prompt, completion, cached,
--       reasoning tokens, whether it was answered from an earlier result (1 or 0), payload
-- Returns how many results were new; -1 when the batch is gone.
local batch, done, results, air, live = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local batch_id, retention, worker, in_air = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local total = tonumber(redis.call('HGET', batch, 'total'))
if not total then return -1 end
if in_air == '0' then
  redis.call('HDEL', air, worker)
else
  redis.call('HSET', air, worker, in_air)
  redis.call('EXPIRE', air, retention)
end
local sums, new = {}, 0
local function add(field, amount)
  if amount ~= 0 then sums[field] = (sums[field] or 0) + amount end
end
local tokens = { 'prompt_tokens', 'completion_tokens', 'cached_tokens', 'reasoning_tokens' }
for i = 5, #ARGV, 9 do
  local index, state, cost = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('SETBIT', done, index, 1) == 0 then
    redis.call('XADD', results, '*', 'r', ARGV[i + 8])
    new = new + 1
    add(state, 1)
    if cost ~= '' then add('cost', tonumber(cost)) elseif state == 'succeeded' then add('uncosted', 1) end
    add('cached', tonumber(ARGV[i + 7]))
    for j = 1, 4 do add(tokens[j], tonumber(ARGV[i + 2 + j])) end
  end
end
if new == 0 then return 0 end
for field, amount in pairs(sums) do redis.call('HINCRBY', batch, field, string.format('%d', amount)) end
local counts = redis.call('HMGET', batch, 'succeeded', 'failed', 'cancelled', 'expired', 'state')
local finished = 0
for i = 1, 4 do finished = finished + tonumber(counts[i] or 0) end
if finished == new then
  redis.call('EXPIRE', done, retention)
  redis.call('EXPIRE', results, retention)
end
if finished == total and counts[5] then -- without a state it is only staged
  local now = redis.call('TIME')[1]
  if counts[5] == 'cancelling' then
    redis.call('HSET', batch, 'state', 'cancelled', 'cancelled_at', now)
  else
    redis.call('HSET', batch, 'state', 'completed', 'completed_at', now)
  end
  redis.call('SREM', live, batch_id)
  redis.call('XADD', results, '*', 'end', '1')
  for i = 1, 4 do redis.call('EXPIRE', KEYS[i], retention) end
end
return new
