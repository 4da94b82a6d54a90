-- End a run of a shard: the shard is done, or goes back to its lane. A run that lost its lease changes nothing.
-- KEYS  1 lane  2 leases  3 runs  4 arq job  5 arq tries  6 shard payload  7 open shards of the batch
-- ARGV  1 reference  2 run id  3 '' when done, '-' to let go of it only, else the score with which it goes back
-- Returns 1, or 0 when the shard belongs to another run (or to none).
local lane, leases, runs = KEYS[1], KEYS[2], KEYS[3]
local reference, run, score = ARGV[1], ARGV[2], ARGV[3]
if redis.call('HGET', runs, reference) ~= run then return 0 end
redis.call('ZREM', leases, reference)
redis.call('ZREM', lane, reference) -- where it is when it was taken back from a silent worker that was us
redis.call('HDEL', runs, reference)
if score == '' then
  redis.call('DEL', KEYS[4], KEYS[5], KEYS[6])
  redis.call('HDEL', KEYS[7], reference)
elseif score ~= '-' then
  redis.call('DEL', KEYS[5])
  redis.call('ZADD', lane, score, reference)
end
return 1
