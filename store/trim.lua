-- Drop the oldest entries of the ledger's stream while it has too many records, or while they are too old.
-- KEYS  1 usage  2 books
-- ARGV  1 records to keep  2 how long (ms)  3 entries looked at in this call
-- Returns { records dropped, 1 when there may be more to drop }.
local usage, books = KEYS[1], KEYS[2]
local keep, age, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local oldest = time[1] * 1000 + math.floor(time[2] / 1000) - age
local left, dropped, names = tonumber(redis.call('HGET', books, 'records') or 0), 0, {}
local page = redis.call('XRANGE', usage, '-', '+', 'COUNT', most)
for _, entry in ipairs(page) do
  local told = {}
  for i = 1, #entry[2], 2 do told[entry[2][i]] = entry[2][i + 1] end
  if left - dropped <= keep and tonumber(told.at) >= oldest then break end
  dropped = dropped + tonumber(told.n)
  names[#names + 1] = entry[1]
end
if #names > 0 then
  redis.call('XDEL', usage, unpack(names))
  redis.call('HINCRBY', books, 'records', -dropped)
end
return { dropped, #names == most and 1 or 0 }
