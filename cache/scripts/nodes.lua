-- Notes what nodes said of themselves, unless later words are there.
-- KEYS: nodes.
-- ARGV: of each node its name, "EPOCH SEQ TIME", and the time.
for i = 1, #ARGV, 3 do
  local known = redis.pcall('HGET', KEYS[1], ARGV[i])
  if type(known) == 'table' then -- of another type
    redis.call('DEL', KEYS[1])
    known = nil
  end
  local at = known and string.match(known, '^%d+ %d+ (%d+)$')
  if not at or tonumber(at) <= tonumber(ARGV[i + 2]) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return 'taken'
