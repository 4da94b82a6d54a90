-- Go on leading. A lead that ran out is another's, or nobody's, and is not taken back.
-- KEYS  leads (strings)
-- ARGV  1 lease (ms)  2.. the token of each
-- Returns how many are still ours.
local lease = ARGV[1]
local ours = 0
for i, lead in ipairs(KEYS) do
  if redis.call('GET', lead) == ARGV[i + 1] then ours = ours + redis.call('PEXPIRE', lead, lease) end
end
return ours
