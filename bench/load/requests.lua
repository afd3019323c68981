-- wrk's requests. `wrk ... -s requests.lua URL -- KIND TAG`, KIND one of get-stock, set-stock, reserve-hot,
-- reserve-spread, add-user, proxied, routes; TAG, 1 to 8 letters and digits, makes the emails of each run its own; for
-- proxied it is the encoding that is accepted, for routes how many there are. Prints one line of JSON at the end.
--
-- The product ids are FIRST to FIRST + PRODUCTS - 1 (as in stock.sql and select.sql).
local FIRST, PRODUCTS = 100000, 10000

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

-- A POST whose body always has the same length, cut where the changing part goes in.
local function post(path, before, changing, after)
  wrk.headers["Content-Type"] = "application/json"
  local mark = string.rep("@", changing)
  local whole = wrk.format("POST", path, nil, before .. mark .. after)
  local from = whole:find(mark, 1, true)
  return whole:sub(1, from - 1), whole:sub(from + changing)
end

-- Each returns the function that makes the next request; what does not change is formatted once, ahead of the load.
local kinds = {}

kinds["get-stock"] = function()
  local ready = {}
  for n = 1, PRODUCTS do ready[n] = wrk.format("GET", "/inventory/" .. FIRST + n - 1) end
  return function() return ready[math.random(PRODUCTS)] end
end

-- Through a gateway, or straight to what is behind it: it answers every product alike.
kinds["proxied"] = function(encoding)
  wrk.headers["Accept-Encoding"] = encoding
  local ready = wrk.format("GET", "/inventory/" .. FIRST)
  return function() return ready end
end

kinds["routes"] = function(count)
  wrk.headers["Accept-Encoding"] = "gzip"
  local ready = {}
  for n = 1, tonumber(count) do ready[n] = wrk.format("GET", "/service-" .. n .. "/" .. FIRST) end
  return function() return ready[math.random(#ready)] end
end

kinds["set-stock"] = function()
  local head, tail = {}, {}
  for n = 1, PRODUCTS do head[n], tail[n] = post("/inventory/" .. FIRST + n - 1, '{"stock":', 4, "}") end
  return function()
    local n = math.random(PRODUCTS)
    return head[n] .. math.random(1000, 9999) .. tail[n]
  end
end

local function reserve(id)
  wrk.headers["Content-Type"] = "application/json"
  return wrk.format("POST", "/reservations", nil, '{"items":[{"product_id":"' .. id .. '","quantity":1}]}')
end

kinds["reserve-hot"] = function()
  local ready = reserve(FIRST)
  return function() return ready end
end

kinds["reserve-spread"] = function()
  local ready = {}
  for n = 1, PRODUCTS do ready[n] = reserve(FIRST + n - 1) end
  return function() return ready[math.random(PRODUCTS)] end
end

kinds["add-user"] = function(tag)
  local name = string.format("%s.%d.%%09d", tag, number)
  local head, tail = post("/users", '{"name":"Ada Lovelace","email":"', #name:format(0), '@example.com"}')
  local count = 0
  return function()
    count = count + 1
    return head .. name:format(count) .. tail
  end
end

function init(args)
  math.randomseed(os.time() * 16 + number)
  request = kinds[args[1]](args[2])
end

-- A function that sees each response would be a good part of what a request costs: wrk itself counts refusals.
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.timeout + e.status))
end
