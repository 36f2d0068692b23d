-- Asks questions picked at random. Each request is put together before the
-- measurement, for every server in the same way, so that all of them cost the
-- client the same. The argument is a file of bodies, one a line.
local requests, n = {}, 0

function init(args)
   for line in io.lines(args[1]) do
      n = n + 1
      requests[n] = wrk.format("POST", nil, nil, line)
   end
   math.randomseed(5539)
end

local random = math.random

function request()
   return requests[random(n)]
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format('{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failed":%d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      e.connect + e.read + e.write + e.status + e.timeout))
end
