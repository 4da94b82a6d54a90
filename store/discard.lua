-- Remove what was staged for a batch, unless it was let go (its release may have been on its way when we gave up).
-- KEYS  1 batch (hash)  2.. keys to remove
-- ARGV  none
-- Returns 1, or 0 when the batch was let go: then all of it stays.
if redis.call('HEXISTS', KEYS[1], 'state') == 1 then return 0 end
for i = 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
