-- wrk script: posts the photos listed in the file named by PHOTOS, each as the multipart field `photo`, in an order of each thread's own.
-- PAUSE_MS: mean pause before each request, exponentially distributed, for a load below saturation; 0 for none.
local path, pause = os.getenv("TARGET") or "/v1/predict", tonumber(os.getenv("PAUSE_MS") or "0")
local requests, counter = {}, 0

function setup(thread)
  counter = counter + 1
  thread:set("number", counter)
end

function init(args)
  math.randomseed(1000 + number)
  local boundary = "----tailorbird-benchmark-7d1f0c2b"
  local headers = { ["Content-Type"] = "multipart/form-data; boundary=" .. boundary, ["Host"] = "127.0.0.1" }
  for name in io.lines(os.getenv("PHOTOS")) do
    local file = assert(io.open(name, "rb"))
    local photo = file:read("*a")
    file:close()
    local body = "--" .. boundary .. "\r\nContent-Disposition: form-data; name=\"photo\"; filename=\"photo.jpg\"\r\n"
      .. "Content-Type: image/jpeg\r\n\r\n" .. photo .. "\r\n--" .. boundary .. "--\r\n"
    requests[#requests + 1] = wrk.format("POST", path, headers, body)
  end
  position = math.random(#requests)
end

function delay()
  if pause <= 0 then return 0 end
  return math.floor(-pause * math.log(1 - math.random()))
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency, rate)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.3f, "p50_ms": %.2f, "p90_ms": %.2f, "p99_ms": %.2f, "max_ms": %.2f, "failed": %d, "status": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(90) / 1e3,
    latency:percentile(99) / 1e3, latency.max / 1e3, errors.connect + errors.read + errors.write + errors.timeout, errors.status))
end
