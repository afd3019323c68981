-- Holds that are committed: `wrk ... -s commit.lua URL -- PRODUCTS`. Holds one piece of a random product of product-1 to
-- product-PRODUCTS, and commits each hold with the next free request. Prints one line of JSON at the end.
local threads = {}

function setup(thread)
  table.insert(threads, thread)
  thread:set("number", #threads)
end

function init(args)
  math.randomseed(os.time() * 16 + number)
  local products = tonumber(args[1])
  wrk.headers["Content-Type"] = "application/json"
  local ready, held = {}, {}
  for n = 1, products do
    local body = '{"items":[{"product_id":"product-' .. n .. '","quantity":1}]}'
    ready[n] = wrk.format("POST", "/reservations", nil, body)
  end
  statuses = {}
  request = function()
    local id = table.remove(held)
    if id then return wrk.format("POST", "/reservations/" .. id .. "/commit", nil, "") end
    return ready[math.random(products)]
  end
  response = function(status, _, body)
    statuses[status] = (statuses[status] or 0) + 1
    if status == 201 then table.insert(held, body:match('"id":"([^"]+)"')) end
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
