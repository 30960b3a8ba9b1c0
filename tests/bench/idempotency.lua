-- A POST with a header that differs from request to request: an Idempotency-Key, or one of the
-- same length that means nothing. wrk -s idempotency.lua URL -- MODE RUN; MODE is plain, new or known.

local mode, run, count = "plain", "0", 0

function init(args)
  mode, run = args[1], args[2]
  wrk.method = "POST"
  wrk.body = '{"message":"' .. string.rep("x", 300) .. '"}'
  wrk.headers["Content-Type"] = "application/json"
end

function request()
  count = count + 1
  local number = count
  if mode == "known" then number = count % 1000 end
  local name = "Idempotency-Key"
  if mode == "plain" then name = "X-Unregarded-Id" end
  wrk.headers[name] = string.format('"%s-%016d"', run, number)
  return wrk.format()
end

function done(summary, latency, requests)
  print(string.format("%d %d %d %d", summary.requests, summary.duration,
    summary.errors.status + summary.errors.timeout + summary.errors.read, latency:percentile(50)))
end
