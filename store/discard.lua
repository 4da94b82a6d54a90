-- Remove what a try staged for a batch, unless another try took over, or it was let go (its release may have been on
-- its way when we gave up).
-- KEYS  1 batch (hash)  2.. keys to remove
-- ARGV  1 token of the try
-- Returns 1, or 0 when it is not the try's to remove: then all of it stays.
local facts = redis.call('HMGET', KEYS[1], 'staging', 'state')
if facts[2] or facts[1] ~= ARGV[1] then return 0 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
