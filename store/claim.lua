-- Claim shards from the head of a lane for one run each, up to a number of lines.
-- KEYS  1 lane (sorted set: reference -> score)  2 leases (reference -> lease end, ms)  3 runs (reference -> run id)
-- ARGV  1 run id  2 lease (ms)  3 room: how many lines the caller can take
-- Returns the references claimed, each followed by the score it had. At least one when there is room at all:
-- a shard larger than the room is better begun late than never.
local lane, leases, runs = KEYS[1], KEYS[2], KEYS[3]
local run, lease, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local claimed = {}
while room > 0 do
  local head = redis.call('ZRANGEBYSCORE', lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)
  if #head == 0 then break end
  local reference, score = head[1], head[2]
  redis.call('ZREM', lane, reference)
  redis.call('ZADD', leases, now + lease, reference)
  redis.call('HSET', runs, reference, run)
  claimed[#claimed + 1] = reference
  claimed[#claimed + 1] = score
  room = room - (tonumber(string.match(reference, '%.(%d+)$')) or 1)
end
return claimed
