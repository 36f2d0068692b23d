-- Takes in a record that was read from the database, unless it may be older than
-- what has been here.
-- KEYS: head, names of the record.
-- ARGV: epoch, version, when it was read in ms, longest age in ms, least life in
-- ms, end in ms ("" for never), text.
-- Returns what became of it.
local head = redis.pcall('GET', KEYS[1])
local epoch, seq, floor
if type(head) == 'string' then
  epoch, seq, floor = string.match(head, '^(%d+) (%d+) (%d+)$')
end
if not epoch then
  return 'none'
end
if epoch ~= ARGV[1] then
  return 'epoch'
end
local version = tonumber(ARGV[2])
if version < tonumber(floor) then
  return 'floor'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if now - tonumber(ARGV[3]) > tonumber(ARGV[4]) then
  return 'late'
end
local value = epoch .. ' ' .. ARGV[2] .. '|' .. ARGV[7]
local newer = 0
for i = 2, #KEYS do
  local known = redis.pcall('GET', KEYS[i])
  local itsEpoch, itsVersion
  if type(known) == 'string' then
    itsEpoch, itsVersion = string.match(known, '^(%d+) (%d+)|')
  end
  if itsEpoch == epoch and tonumber(itsVersion) > version then
    newer = newer + 1
  elseif ARGV[6] == '' then
    redis.call('SET', KEYS[i], value)
  else
    redis.call('SET', KEYS[i], value, 'PXAT', string.format('%.0f', math.max(now + tonumber(ARGV[5]), tonumber(ARGV[6]))))
  end
end
if newer > 0 then
  return 'newer'
end
return 'taken'
