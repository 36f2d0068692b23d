-- Asks latchkey whether a request may pass. Everything but a plain yes is a no.
local latchkey = "http://127.0.0.1:5539/decision/forward/forwarded"
local caller = os.getenv("LATCHKEY_CALLER") or ""

local identity = {
  "x-latchkey-subject", "x-latchkey-customer", "x-latchkey-key-id",
  "x-latchkey-decision-id", "x-latchkey-action", "x-latchkey-reason",
}
local to_client = { "content-type", "www-authenticate", "cache-control" }

-- values returns all values of a header, in a list from 1.
local function values(headers, name)
  local list = {}
  local found = headers and headers[name]
  if found ~= nil then
    local i = found[0] ~= nil and 0 or 1
    while found[i] ~= nil do
      list[#list + 1] = found[i]
      i = i + 1
    end
  end
  return list
end

local function refuse(txn, status, body, headers)
  local reply = txn:reply()
  reply:set_status(status)
  for _, name in ipairs(to_client) do
    for _, value in ipairs(values(headers, name)) do
      reply:add_header(name, value)
    end
  end
  for _, name in ipairs(identity) do
    for _, value in ipairs(values(headers, name)) do
      reply:add_header(name, value)
    end
  end
  reply:set_body(body or "")
  txn:done(reply)
end

core.register_action("latchkey", { "http-req" }, function(txn)
  local sent = txn.http:req_get_headers()
  local ask = {
    ["x-latchkey-caller"]  = { caller },
    ["x-forwarded-method"] = { txn.sf:method() },
    ["x-forwarded-proto"]  = { txn.f:ssl_fc() == 1 and "https" or "http" },
    ["x-forwarded-host"]   = values(sent, "host"),
    ["x-forwarded-uri"]    = { txn.sf:pathq() },
    ["x-forwarded-for"]    = { txn.sf:src() },
    ["authorization"]      = values(sent, "authorization"),
  }
  local client = core.httpclient()
  local answer = client:get{ url = latchkey, headers = ask }
  if answer == nil or answer.status == nil or answer.status < 200 or answer.status > 599 then
    return refuse(txn, 503, "", nil) -- latchkey does not answer
  end
  if answer.status ~= 200 then
    return refuse(txn, answer.status, answer.body, answer.headers)
  end
  for _, name in ipairs(identity) do
    txn.http:req_del_header(name)
    local value = values(answer.headers, name)[1]
    if value ~= nil and value ~= "" then
      txn.http:req_set_header(name, value)
    end
  end
end, 0)
