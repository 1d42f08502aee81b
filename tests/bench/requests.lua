-- For wrk with one connection per thread: after some requests it is closed and the next one made to another address, because
-- the recorder counts requests by the address that they come from. `requests.py` has made the routes.
local ADDRESSES, THREADS = 1000, 32
local PERIOD = 150
local count = 0

local function address(number)
  return string.format("127.1.%d.%d", math.floor(number / 250), number % 250 + 1)
end

local threads = 0
function setup(thread)
  local offset = threads * ADDRESSES / THREADS
  thread.addr = wrk.lookup(address(offset), wrk.port)[1]
  thread:set("last", offset)
  threads = threads + 1
end

function request()
  count = count + 1
  if count % PERIOD ~= 0 then
    return wrk.format()
  end
  last = (last + 1) % ADDRESSES
  wrk.thread.addr = wrk.lookup(address(last), wrk.port)[1]
  local headers = { Connection = "close" }
  for name, value in pairs(wrk.headers) do
    headers[name] = value
  end
  return wrk.format(nil, nil, headers)
end
