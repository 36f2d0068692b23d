-- Asks about one of very many keys, picked at random. The first argument is a
-- file of records of one length: 7 characters of the customer, 36 of the key's
-- id, 4 of the team that is asked about. The second one is the caller's key. A
-- request is one text into which a record is copied, the same work for few
-- keys as for many.
local ffi = require("ffi")
local width = 7 + 36 + 4
local records, n
local text, length, customer, id, team

function init(args)
   local f = assert(io.open(args[1], "rb"))
   local all = f:read("*a")
   f:close()
   n = #all / width
   records = ffi.new("char[?]", #all)
   ffi.copy(records, all, #all)

   local body = '{"subject":{"type":"access_key","id":"' .. string.rep("i", 36) ..
      '"},"action":{"name":"update"},"resource":{"type":"documents","id":"team-tttt/report"}}'
   local whole = wrk.format("POST", nil, {
      ["Host"] = wrk.headers["Host"], ["Authorization"] = "Bearer " .. args[2],
      ["Content-Type"] = "application/json", ["X-Customer-ID"] = "ccccccc",
   }, body)
   length = #whole
   text = ffi.new("char[?]", length + 1)
   ffi.copy(text, whole)
   customer = assert(string.find(whole, "ccccccc", 1, true)) - 1
   id = assert(string.find(whole, string.rep("i", 36), 1, true)) - 1
   team = assert(string.find(whole, "tttt/report", 1, true)) - 1
   math.randomseed(5539)
end

local random = math.random

function request()
   local record = records + (random(n) - 1) * width
   ffi.copy(text + customer, record, 7)
   ffi.copy(text + id, record + 7, 36)
   ffi.copy(text + team, record + 43, 4)
   return ffi.string(text, length)
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format('{"requests":%d,"microseconds":%d,"p50":%d,"p99":%d,"failed":%d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
      e.connect + e.read + e.write + e.status + e.timeout))
end
