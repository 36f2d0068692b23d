-- Begins anew at a change, where the head is still what the caller has seen.
-- KEYS: head, feed, beat.
-- ARGV: the head that was seen ("" for none), epoch, seq.
-- Returns what became of it, and the head.
local head = redis.pcall('GET', KEYS[1])
if type(head) ~= 'string' then
  head = ''
end
if head ~= ARGV[1] then
  return {'moved', head}
end
local epoch = string.match(head, '^(%d+) %d+ %d+$')
if epoch and tonumber(epoch) > tonumber(ARGV[2]) then
  return {'epoch', head}
end
head = ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[3]
redis.call('SET', KEYS[1], head) -- first, so that it is this that a want of memory refuses
redis.call('DEL', KEYS[2], KEYS[3])
return {'reset', head}
