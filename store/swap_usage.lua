-- Put a copy of the stream of usage records in its place, unless something came to it that is not copied yet.
-- KEYS  1 stream  2 its copy  3 turn (string): who may do it  4 books
-- ARGV  1 id of the last entry that was copied  2 who we are  3 records in the copy
-- Returns 1, or 0 when there is more to be copied, or it is not our turn any more.
local stream, copy, turn, books = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('GET', turn) ~= ARGV[2] then return 0 end
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
if not last or last[1] ~= ARGV[1] then return 0 end
redis.call('UNLINK', stream)
redis.call('RENAME', copy, stream)
redis.call('PERSIST', stream)
redis.call('HSET', books, 'records', ARGV[3]) -- by which the stream is trimmed
return 1
