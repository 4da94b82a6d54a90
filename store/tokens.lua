-- Say what a line's call says while it is in the air. A new call begins with a start, which drops what was there.
-- KEYS  1 tokens of a line (stream)
-- ARGV  1 life (s) of what nobody ends  2 how long it stays after the end (s)  3.. kind (start, chunks, end), payload ...
-- Returns how many entries were added: none to a stream that is gone.
local tokens, life, keep = KEYS[1], ARGV[1], ARGV[2]
local added = 0
for i = 3, #ARGV, 2 do
  local kind, payload = ARGV[i], ARGV[i + 1]
  if kind == 'start' then
    redis.call('XADD', tokens, 'MAXLEN', '1', '*', 's', payload)
    redis.call('EXPIRE', tokens, life)
    added = added + 1
  elseif redis.call('EXISTS', tokens) == 1 then
    redis.call('XADD', tokens, '*', 's', payload)
    if kind == 'end' then redis.call('EXPIRE', tokens, keep) end
    added = added + 1
  end
end
return added
