-- One owner's sign of life in the books, and a look whether they are the books that it knows.
-- KEYS  1 books  2 owners
-- ARGV  1 owner  2 lease (ms)  3 id of the books that the owner knows ('' = none)  4 epoch that it has seen
--       5 an id for books that have none  6 ms between two epochs
-- Returns { id of the books, epoch, the alarm or '' }.
--
-- The epoch only grows. Books whose epoch is behind what a worker has seen, or that are others than it knows, were
-- restored from an older snapshot or emptied: what was spent since is not in them. The alarm stops the whole fleet.
local books, owners = KEYS[1], KEYS[2]
local owner, lease, known, seen = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local facts = redis.call('HMGET', books, 'id', 'epoch', 'alarm', 'ticked', 'follows')
local id, epoch, alarm = facts[1], tonumber(facts[2] or 0), facts[3]
if not id then
  id = ARGV[5]
  redis.call('HSET', books, 'id', id)
end
local other = known ~= '' and known ~= id and known ~= facts[5]
if not alarm and (other or (known == id and epoch < seen)) then
  alarm = cjson.encode({ known = known, seen = seen, found = epoch, owner = owner, at = now })
  redis.call('HSET', books, 'alarm', alarm)
end
if not alarm and math.abs(now - tonumber(facts[4] or 0)) >= tonumber(ARGV[6]) then
  epoch = redis.call('HINCRBY', books, 'epoch', 1)
  redis.call('HSET', books, 'ticked', now)
end
if redis.call('ZSCORE', owners, owner) then redis.call('ZADD', owners, now + lease, owner) end
return { id, epoch, alarm or '' }
