-- Raise an alert, once for its mark: whoever comes second, in the whole fleet, changes nothing.
-- KEYS  1 mark of the alert's identity  2 alerts  3 notes  4 deliveries
-- ARGV  1 life of the mark (ms)  2 the alert (JSON)  3 alerts that are kept  4 a note to take with it ('' = none), and
--       5 its value; then a name of each webhook that is to be told
-- Returns the id of the alert in the stream; nil when it was raised before.
local mark, alerts, notes, deliveries = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local life, alert, kept, note, value = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not redis.call('SET', mark, '1', 'NX', 'PX', life) then
  redis.call('PEXPIRE', mark, life) -- what still holds is still no news
  return false
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id = redis.call('XADD', alerts, 'MAXLEN', '~', kept, '*', 'alert', alert)
if note ~= '' then redis.call('HSET', notes, note, value) end
for i = 6, #ARGV do redis.call('ZADD', deliveries, now, ARGV[i] .. ' ' .. id) end
return id
