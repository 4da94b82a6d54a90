-- Whether an API key may make one more request now: a bucket that holds what a minute brings, and fills evenly.
-- KEYS  1 the bucket
-- ARGV  1 requests a minute
-- Returns { 1 when it may, requests left, ms until the next one may (0 = it may) }.
local bucket, rate = KEYS[1], tonumber(ARGV[1])
local UNIT = 60000 -- of a request: a rate a minute brings so many units each ms
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = redis.call('HMGET', bucket, 'level', 'at')
local full = rate * UNIT
local level = math.min(full, tonumber(told[1] or full) + math.max(0, now - tonumber(told[2] or now)) * rate)
local may = level >= UNIT
if may then level = level - UNIT end
redis.call('HSET', bucket, 'level', string.format('%.0f', level), 'at', math.max(now, tonumber(told[2] or 0)))
redis.call('EXPIRE', bucket, 61)
return { may and 1 or 0, math.floor(level / UNIT), may and 0 or math.ceil((UNIT - level) / rate) }
