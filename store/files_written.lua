-- Say of a batch that its output files are in storage; it need not be looked at any more. This is when its end is seen,
-- so who asked to be told is told in the same step, once.
-- KEYS  1 batch (hash)  2 to_finalize (sorted set)  3 finalizing (string)  4 events on their way (sorted set)
-- ARGV  1 batch id  2 whether there is an output file  3 an error file ('1' or '0')  4 event, '' for none
-- Returns 1 when it was said, now or before; 0 when the batch is gone.
local batch, waiting, lease, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local event = ARGV[4]
redis.call('ZREM', waiting, ARGV[1])
redis.call('DEL', lease)
if redis.call('HEXISTS', batch, 'state') == 0 then return 0 end
local time = redis.call('TIME')
local first = redis.call('HSETNX', batch, 'files_at', time[1]) == 1
redis.call('HSET', batch, 'output_file', ARGV[2], 'error_file', ARGV[3])
if first and event ~= '' then redis.call('ZADD', events, time[1] * 1000 + math.floor(time[2] / 1000), event) end
return 1
