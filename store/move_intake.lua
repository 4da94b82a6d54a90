-- Move an intake from one state to another, if it is in the first; who asked to be told of its end is told in the same
-- step.
-- KEYS  1 intakes (sorted set)  2 intake (hash)  3 events on their way (sorted set)  4 batch (hash)
-- ARGV  1 batch id  2 run that must hold it ('': whoever does)  3 state that it must be in
--       4 state that it comes to ('': it is gone)  5 when it is to be looked at again (ms from now; '': never; '-': as
--       before)  6 retention (s)  7 event ('': none)  8.. field, value, field, value ...; the value '@' is the time (s)
-- Returns the state that it is in now, '' when it is gone; '-' when another run holds it. Once its lines were let go it
-- does not end by itself any more: then it stays as it is.
local intakes, intake, events = KEYS[1], KEYS[2], KEYS[3]
local batch_id, run, from, to, delay, retention = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local state = redis.call('HGET', intake, 'state')
if not state then return '' end
if run ~= '' and redis.call('HGET', intake, 'run') ~= run then return '-' end
if state ~= from then return state end
local ends = to == 'failed' or to == 'cancelled' or to == 'expired'
if ends and redis.call('HEXISTS', KEYS[4], 'state') == 1 then return state end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[7] ~= '' then redis.call('ZADD', events, now, ARGV[7]) end
if to == '' or delay == '' then
  redis.call('ZREM', intakes, batch_id)
elseif delay ~= '-' then
  redis.call('ZADD', intakes, now + delay, batch_id)
  redis.call('HDEL', intake, 'run')
end
if to == '' then
  redis.call('DEL', intake)
  return ''
end
redis.call('HSET', intake, 'state', to)
for i = 8, #ARGV, 2 do
  redis.call('HSET', intake, ARGV[i], ARGV[i + 1] == '@' and time[1] or ARGV[i + 1])
end
redis.call('EXPIRE', intake, retention)
return to
