-- Look answers up, and lead where there is none: who leads sends its line, and others like it wait for what comes.
-- KEYS  for each line: answer (string), lead (string)
-- ARGV  1 lease (ms)  2.. for each line the token that it leads by
-- Returns for each line the answer; 1: it leads, now or by the same call before; 0: another line leads.
local lease = ARGV[1]
local found = {}
for i = 1, #KEYS / 2 do
  local answer, lead, token = KEYS[2 * i - 1], KEYS[2 * i], ARGV[i + 1]
  local kept = redis.call('GET', answer)
  if kept then
    found[i] = kept
  elseif redis.call('SET', lead, token, 'NX', 'PX', lease) or redis.call('GET', lead) == token then
    found[i] = 1
  else
    found[i] = 0
  end
end
return found
