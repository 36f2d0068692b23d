-- Takes in a change: the one after the head, of the same epoch, and no other.
-- KEYS: head, feed, names of records.
-- ARGV: epoch, seq, message, length of the feed, least life of a record in ms,
-- "1" where all of a kind were touched; then of each name: version, end in ms
-- ("" for never), text ("" for one that is out of date and not at hand).
-- Returns what became of it, and the head.
local head = redis.pcall('GET', KEYS[1])
local epoch, seq, floor
if type(head) == 'string' then
  epoch, seq, floor = string.match(head, '^(%d+) (%d+) (%d+)$')
end
if not epoch then
  return {'none', ''}
end
if epoch ~= ARGV[1] then
  return {'epoch', head}
end
local ahead = tonumber(ARGV[2]) - tonumber(seq)
if ahead <= 0 then
  return {'repeated', head}
end
if ahead > 1 then
  return {'gap', head}
end
-- Nothing is written before this, and whatever is refused for want of memory is
-- refused here.
local added = redis.pcall('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], ARGV[2] .. '-0', 'm', ARGV[3])
if type(added) == 'table' and added.err then
  if string.find(added.err, 'OOM', 1, true) then
    return added
  end
  return {'damaged', head}
end
local time = redis.call('TIME')
local least = time[1] * 1000 + tonumber(ARGV[5])
for i = 3, #KEYS do
  local at = 7 + (i - 3) * 3
  local version, ends, text = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local known = redis.pcall('GET', KEYS[i])
  local itsEpoch, itsVersion
  if type(known) == 'string' then
    itsEpoch, itsVersion = string.match(known, '^(%d+) (%d+)|')
  end
  if itsEpoch ~= epoch or tonumber(itsVersion) <= tonumber(version) then
    local value = epoch .. ' ' .. version .. '|' .. text
    if ends == '' then
      redis.call('SET', KEYS[i], value)
    else
      redis.call('SET', KEYS[i], value, 'PXAT', string.format('%.0f', math.max(least, tonumber(ends))))
    end
  end
end
if ARGV[6] == '1' then
  floor = ARGV[2]
end
head = epoch .. ' ' .. ARGV[2] .. ' ' .. floor
redis.call('SET', KEYS[1], head)
return {'taken', head}
