-- Publishes one revision, all or nothing: a script runs alone, and everything
-- that a mesh has is in one slot.
--
-- KEYS  1 head  2 config  3 changes  4 keys
-- ARGV  1 the new head, JSON       2 its epoch     3 its revision   4 its digest
--       5 the base's epoch         6 its revision  7 its digest
--       8 number of records of the new revision
--       9 "delta", "full", "repair": full, and also over the same head; "sign": only
--         the head, over the same one; or "over:" and a SHA-1: full, and also over
--         whatever head has it
--      10 entries kept in changes
--      11 number of records to put, 12 of names to delete
--      13 who may sign heads, which is there before a head that they signed
--      14.. name, record, name, record, ..; names to delete; then the fields
--         of the entry in changes, name, value, ..
-- Answers {outcome, epoch, revision, digest}, the last three of the head that
-- Redis had before. Outcomes: published; same: Redis had this head; newer: it
-- had a later one, or another of this revision; full: the delta does not fit
-- what Redis has, nothing was written.

local mode, count = ARGV[9], tonumber(ARGV[8])
local new = { epoch = tonumber(ARGV[2]), revision = tonumber(ARGV[3]), digest = ARGV[4] }

local puts = 14
local deletes = puts + 2 * tonumber(ARGV[11])
local fields = deletes + tonumber(ARGV[12])

-- What is in Redis may have been put there by anyone. A head that is none
-- counts as absent, a key of the wrong type as damaged.
local function whole(n)
  return type(n) == 'number' and n >= 0 and n <= 4294967295 and math.floor(n) == n
end
local function current()
  local absent = { epoch = 0, revision = 0, digest = '' }
  local raw = redis.pcall('GETRANGE', KEYS[1], 0, 4096)
  if type(raw) ~= 'string' or #raw > 4096 then return absent end
  if mode == 'over:' .. redis.sha1hex(raw) then return absent end
  local ok, head = pcall(cjson.decode, raw)
  if not ok or type(head) ~= 'table' or not whole(head.epoch) or not whole(head.revision)
    or type(head.digest) ~= 'string' then
    return absent
  end
  return head
end

local old = current()
local function answer(outcome)
  return { outcome, tostring(old.epoch), tostring(old.revision), old.digest }
end

local same = old.epoch == new.epoch and old.revision == new.revision and old.digest == new.digest
if mode == 'sign' then
  if not same then return answer('newer') end
  redis.call('SET', KEYS[1], ARGV[1])
  return answer('published')
end
if same and mode ~= 'repair' then return answer('same') end
if not same and (old.epoch > new.epoch or (old.epoch == new.epoch and old.revision >= new.revision)) then
  return answer('newer')
end

if mode == 'delta' then
  if old.epoch ~= tonumber(ARGV[5]) or old.revision ~= tonumber(ARGV[6]) or old.digest ~= ARGV[7] then
    return answer('full')
  end
  -- The hash must hold what the base says, or the sum would be wrong.
  local n = redis.pcall('HLEN', KEYS[2])
  if type(n) ~= 'number' then return answer('full') end
  for i = puts, deletes - 1, 2 do n = n + 1 - redis.call('HEXISTS', KEYS[2], ARGV[i]) end
  for i = deletes, fields - 1 do n = n - redis.call('HEXISTS', KEYS[2], ARGV[i]) end
  if n ~= count then return answer('full') end
  for i = deletes, fields - 1 do redis.call('HDEL', KEYS[2], ARGV[i]) end
else
  redis.call('DEL', KEYS[2])
end
for i = puts, deletes - 1, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
if ARGV[13] ~= '' then redis.call('SET', KEYS[4], ARGV[13]) end
redis.call('SET', KEYS[1], ARGV[1])

-- The entry's id is the revision, so a position in the stream says what was
-- applied. An id that is too high already, seen or deleted since, or a key that
-- is no stream, is none of ours: the stream begins anew.
local entry = { 'XADD', KEYS[3], 'MAXLEN', ARGV[10], ARGV[3] .. '-0', 'head', ARGV[1] }
for i = fields, #ARGV do entry[#entry + 1] = ARGV[i] end
local added = redis.pcall(unpack(entry))
if type(added) == 'table' and added.err then
  redis.call('DEL', KEYS[3])
  redis.call(unpack(entry))
end
return answer('published')
