-- The requests of wrk: `wrk ... -s requests.lua URL -- KIND TAG`. KIND is get-stock, set-stock, reserve-hot,
-- reserve-spread, add-user, proxied or routes. TAG, 1 to 8 letters and digits, makes the emails of each run unique; for
-- proxied it is the accepted encoding, for routes the number of routes. Prints one line of JSON at the end.
--
-- The product ids are FIRST to FIRST + PRODUCTS - 1 (as in stock.sql and select.sql).
local FIRST, PRODUCTS = 100000, 10000

local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

-- A POST whose body has a fixed length, split around the variable part.
local function post(path, before, changing, after)
  wrk.headers["Content-Type"] = "application/json"
  local mark = string.rep("@", changing)
  local whole = wrk.format("POST", path, nil, before .. mark .. after)
  local from = whole:find(mark, 1, true)
  return whole:sub(1, from - 1), whole:sub(from + changing)
end

-- Each returns a function that returns the next request. What does not vary is formatted once, before the load.
local kinds = {}

kinds["get-stock"] = function()
  local ready = {}
  for n = 1, PRODUCTS do ready[n] = wrk.format("GET", "/inventory/" .. FIRST + n - 1) end
  return function() return ready[math.random(PRODUCTS)] end
end

-- Through a gateway, or directly to its upstream, which has the same response for every product.
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

-- A response callback would add much to the cost of a request. wrk itself counts failures.
function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.timeout + e.status))
end
