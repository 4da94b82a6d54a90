-- Let a file exist whose bytes are in storage, or find the one that an earlier try of the same upload made.
-- KEYS  1 file (string)  2 all files  3 files of the project (sorted sets)  4 ends (sorted set)  5 upload (string)
-- ARGV  1 file id  2 record  3 life (s)  4 end (unix s)  5 member of `ends`  6 fingerprint of the upload
--       7 life of `upload` (s), 0: remember none  8 '1' when an earlier try counts
-- Returns '' when the file was made, else what `upload` says: fingerprint, a space, file id.
local file, all, own, ends, upload = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local file_id, record, life, remember = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[7])
if ARGV[8] == '1' then
  local earlier = redis.call('GET', upload)
  if earlier then return earlier end
end
local time = redis.call('TIME')
local place = time[1] * 1000000 + time[2]
local last = redis.call('ZREVRANGE', all, 0, 0, 'WITHSCORES')[2]
if last and tonumber(last) >= place then place = tonumber(last) + 1 end -- no two files share a place
place = string.format('%.0f', place)
redis.call('SET', file, record, 'EX', life)
redis.call('ZADD', all, place, file_id)
redis.call('ZADD', own, place, file_id)
redis.call('ZADD', ends, ARGV[4], ARGV[5])
if remember > 0 then redis.call('SET', upload, ARGV[6] .. ' ' .. file_id, 'EX', remember) end
return ''
