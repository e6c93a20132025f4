-- Leases of a rate that the whole mesh shares: GCRA, as in ITU-T I.371, whose state is the
-- time at which the bucket would be full again. What was admitted without a lease is
-- taken off whether there was room or not, so that what was too much is made up for.
--
-- keys  1 the bucket
-- args  1 microseconds between two requests  2 burst
--       3 requests admitted without a lease  4 leased ones given back  5 wanted
--       6 data planes that may each admit a part without a lease
-- Answers {requests leased, microseconds until there are more}.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, burst = tonumber(args[1]), tonumber(args[2])
local spent, returned, want = tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
local depth = interval * burst
local full = now
local raw = redis.pcall('GET', keys[1]) -- what somebody put there is as if nothing was
local kept = type(raw) == 'string' and tonumber(raw)
if kept and kept > now then full = kept end
-- A debt is at most as much again, or a request of each data plane, which is its least
-- part: nobody can lock a rate for longer.
local planes = math.min(tonumber(args[6]) or 1, 1000)
full = math.min(full + spent * interval, now + depth + math.max(depth, planes * interval))
full = math.max(full - returned * interval, now)
local left = math.max(math.floor((now + depth - full) / interval + 0.000001), 0)
local leased = math.min(left, want)
full = full + leased * interval
if spent + returned + leased > 0 then
  redis.call('SET', keys[1], string.format('%.2f', full), 'PX', math.max(math.ceil((full - now) / 1000), 1))
end
if leased == want then return { leased, 0 } end
return { leased, math.max(math.ceil(full + interval - depth - now), 0) }
