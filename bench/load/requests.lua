-- The requests of wrk: `wrk ... -s requests.lua URL -- KIND TAG`. KIND is get-stock, set-stock, reserve-hot,
-- reserve-spread, add-user, proxied, routes, or one of those with tokens and logins. TAG, 1 to 8 letters and digits,
-- makes the emails of each run unique; for proxied it is the accepted encoding, for routes the number of routes, for
-- requests with tokens a file with one in each line, for logins the number of users. Prints one line of JSON at the end.
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

-- The same request with each of the tokens in a file, in turn.
local function with_tokens(path, file)
  local ready, n = {}, 0
  for token in io.lines(file) do
    wrk.headers["Authorization"] = "Bearer " .. token
    table.insert(ready, wrk.format("GET", path))
  end
  return function()
    n = n % #ready + 1
    return ready[n]
  end
end

kinds["with-tokens"] = function(file)
  wrk.headers["Accept-Encoding"] = "gzip"
  return with_tokens("/inventory/" .. FIRST, file)
end

-- To `bench-identity`, which then calls inventory.
kinds["call"] = function() return function() return wrk.format("GET", "/calls") end end
kinds["call-with-tokens"] = function(file) return with_tokens("/calls", file) end

-- About 2,200 requests per second of 64 connections, with the tokens that the file has by then.
kinds["paced-with-tokens"] = function(file)
  delay = function() return 28 end
  local read_at, next_request
  return function()
    if os.time() ~= read_at then read_at, next_request = os.time(), with_tokens("/auth/me", file) end
    return next_request()
  end
end

-- About 800 requests per second of 16 connections.
kinds["paced-users"] = function()
  delay = function() return 20 end
  return function() return wrk.format("GET", "/users?limit=1") end
end

-- Logins of random users, each with an address, as from a gateway.
kinds["log-in"] = function(users)
  wrk.headers["Content-Type"] = "application/json"
  local ready = {}
  for n = 1, tonumber(users) do
    wrk.headers["X-Forwarded-For"] = string.format("10.0.%d.%d", math.floor(n / 256), n % 256)
    local body = '{"email":"user-' .. n .. '@example.com","password":"a tall heron waits"}'
    ready[n] = wrk.format("POST", "/auth/login", nil, body)
  end
  return function() return ready[math.random(#ready)] end
end

-- The same; after a 503, a client waits for a second. Any other failure ends the run.
kinds["flood"] = function(users)
  local pauses = 0
  response = function(status)
    if status == 503 then
      pauses = pauses + 1
    elseif status ~= 200 then
      io.stderr:write("a login is ", status, "\n")
      os.exit(1)
    end
  end
  delay = function()
    if pauses == 0 then return 0 end
    pauses = pauses - 1
    return 1000
  end
  return kinds["log-in"](users)
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
