-- Stage shards of a batch that nobody sees yet, unless another try under its id has taken over, or let it go.
-- KEYS  1 batch (hash)  2 open shards (hash)  3 live lines (hash)  4.. payload of each shard
-- ARGV  1 token of the try  2 staging time (s)  3 how many lines the batch has, '' while that is not known
--       4 parts that tell live lines  then of each live line: its custom id, its index
--       then of each shard: its reference, the shard (bytes), its payload
-- Returns 1, or 0 when this try is not the one: then nothing is staged.
local batch, open, live_lines = KEYS[1], KEYS[2], KEYS[3]
local token, ttl, total, parts = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local facts = redis.call('HMGET', batch, 'staging', 'state')
if facts[2] or (facts[1] and facts[1] ~= token) then return 0 end
redis.call('HSET', batch, 'staging', token)
if total ~= '' then redis.call('HSET', batch, 'total', total) end
redis.call('EXPIRE', batch, ttl)
for i = 5, 4 + parts, 2 do redis.call('HSET', live_lines, ARGV[i], ARGV[i + 1]) end
for i = 4, #KEYS do
  local at = 5 + parts + 3 * (i - 4)
  redis.call('HSET', open, ARGV[at], ARGV[at + 1])
  redis.call('SET', KEYS[i], ARGV[at + 2], 'EX', ttl)
end
redis.call('EXPIRE', open, ttl)
redis.call('EXPIRE', live_lines, ttl)
return 1
