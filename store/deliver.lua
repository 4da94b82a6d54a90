-- Take the deliveries that are due, so that nobody else makes them; each is due again after a lease.
-- KEYS  1 deliveries
-- ARGV  1 lease (ms)  2 how many at most
-- Returns the deliveries.
local deliveries, lease, most = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', deliveries, '-inf', now, 'LIMIT', 0, most)
for _, delivery in ipairs(found) do redis.call('ZADD', deliveries, now + lease, delivery) end
return found
