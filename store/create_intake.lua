-- Create a batch over HTTP, unless the same request did so before.
-- KEYS  1 intake (hash)  2 intakes (sorted set)  3 index of all batches (sorted set)  4 index of the project's (sorted
--       set)  5 the name by which the request is known (string), if it has one
-- ARGV  1 batch id  2 its name in the index of all  3 retention (s)  4 what was asked for  5 digest of the body
--       6 how long the name is known (s)  7 '1': whoever comes under a name that is known gets what it stands for;
--       '0': the name stands for this request from now on
-- Returns '' when it was created; else the digest and the batch that the name stands for.
local intake, intakes, index, of_project, name = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local batch_id, named, retention, asked = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local digest, known_for, once = ARGV[5], ARGV[6], ARGV[7]
if name then
  local known = redis.call('GET', name)
  if known and once == '1' then return known end
  redis.call('SET', name, digest .. '|' .. batch_id, 'EX', known_for)
end
redis.call('HSET', intake, 'state', 'validating', 'asked', asked)
redis.call('EXPIRE', intake, retention)
redis.call('ZADD', index, 0, named)
redis.call('ZADD', of_project, 0, batch_id)
redis.call('ZADD', intakes, 0, batch_id)
return ''
