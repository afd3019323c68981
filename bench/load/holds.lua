-- Holds: `wrk ... -s holds.lua URL -- PRODUCTS [TTL]`. Each holds one piece of a random product of product-1 to
-- product-PRODUCTS. With TTL, for that many seconds, and nobody commits it; without, the next free request commits it.
-- Prints one line of JSON at the end.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init(args)
  math.randomseed(os.time() * 16 + number)
  local products, ttl = tonumber(args[1]), args[2]
  wrk.headers["Content-Type"] = "application/json"
  local ready, held = {}, {}
  for n = 1, products do
    local body = '{"items":[{"product_id":"product-' .. n .. '","quantity":1}]' .. (ttl and ',"ttl_seconds":' .. ttl or "") .. '}'
    ready[n] = wrk.format("POST", "/reservations", nil, body)
  end
  request = function()
    local id = table.remove(held)
    return id and wrk.format("POST", "/reservations/" .. id .. "/commit", nil, "") or ready[math.random(products)]
  end
  statuses = {}
  response = function(status, _, body)
    statuses[status] = (statuses[status] or 0) + 1
    if status == 201 and not ttl then table.insert(held, body:match('"id":"([^"]+)"')) end
  end
end

function done(summary, latency, _)
  local all = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do all[status] = (all[status] or 0) + count end
  end
  local parts = {}
  for status, count in pairs(all) do table.insert(parts, string.format('"%d": %d', status, count)) end
  local e = summary.errors
  io.write(string.format(
    '{"seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "statuses": {%s}, "broken": %d, "timeouts": %d}\n',
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, table.concat(parts, ", "),
    e.connect + e.read + e.write, e.timeout))
end
