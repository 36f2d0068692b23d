-- Asks questions picked at random, or one after the other. Each request is put together before the
-- measurement, for every server in the same way, so that all of them cost the
-- client the same. The arguments are a file of bodies, one a line, and
-- "in-order" where that is wanted.
local requests, n, at, inorder = {}, 0, 0, false

function init(args)
   for line in io.lines(args[1]) do
      n = n + 1
      requests[n] = wrk.format("POST", nil, nil, line)
   end
   inorder = args[2] == "in-order"
   math.randomseed(5539)
end

local random = math.random

function request()
   if inorder then
      at = at % n + 1
      return requests[at]
   end
   return requests[random(n)]
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format('{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"p999":%d,"failed":%d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
      e.connect + e.read + e.write + e.status + e.timeout))
end
