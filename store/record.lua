-- Record results of lines of one batch: the first writer wins, counters and the stream follow in the same step.
-- KEYS  1 batch (hash)  2 done (bitmap)  3 results (stream)  4 air (hash)  5 live (set)  6 deadlines (sorted set)
--       7 batches whose files are to be written (sorted set)
-- ARGV  1 batch id  2 retention (s)  3 worker id; `staging.` and the token of who stages it  4 lines that the worker
--       now has in the air
--       then for each result: index, state, cost (nano-dollars, '' when untold), prompt, completion, cached,
--       reasoning tokens, whether it was answered from an earlier result (1 or 0), payload
-- Returns how many results were new; -1 when the batch is gone, or is not (any more) staged by who says so.
local batch, done, results, air, live = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local batch_id, retention, worker, in_air = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local facts = redis.call('HMGET', batch, 'total', 'state', 'staging')
local total, state = tonumber(facts[1]), facts[2]
if not total then return -1 end
if string.sub(worker, 1, 8) == 'staging.' and (state or facts[3] ~= worker) then return -1 end
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
  local index, outcome, cost = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if redis.call('SETBIT', done, index, 1) == 0 then
    redis.call('XADD', results, '*', 'r', ARGV[i + 8])
    new = new + 1
    add(outcome, 1)
    if cost ~= '' then add('cost', tonumber(cost)) elseif outcome == 'succeeded' then add('uncosted', 1) end
    add('cached', tonumber(ARGV[i + 7]))
    for j = 1, 4 do add(tokens[j], tonumber(ARGV[i + 2 + j])) end
  end
end
if new == 0 then return 0 end
for field, amount in pairs(sums) do redis.call('HINCRBY', batch, field, string.format('%d', amount)) end
local counts = redis.call('HMGET', batch, 'succeeded', 'failed', 'cancelled', 'expired')
local finished = 0
for i = 1, 4 do finished = finished + tonumber(counts[i] or 0) end
if finished == new then
  redis.call('EXPIRE', done, retention)
  redis.call('EXPIRE', results, retention)
end
if finished == total and state then -- without a state it is only staged
  local now, ending = redis.call('TIME')[1], 'completed'
  if state == 'cancelling' then
    ending = 'cancelled'
  elseif state == 'expiring' and counts[4] then
    ending = 'expired'
  end
  redis.call('HSET', batch, 'state', ending, ending .. '_at', now)
  if ending ~= 'cancelled' then redis.call('HSETNX', batch, 'finalizing_at', now) end
  redis.call('SREM', live, batch_id)
  redis.call('ZREM', KEYS[6], batch_id)
  if redis.call('HEXISTS', batch, 'handed') == 1 then redis.call('ZADD', KEYS[7], now, batch_id) end
  redis.call('XADD', results, '*', 'end', '1')
  for i = 1, 4 do redis.call('EXPIRE', KEYS[i], retention) end
end
return new
