"""The scripts that Redis runs for a store: each changes a list, its state and the index in one step.

They are scripts, because MULTI would go on after a key that is no list, and because redis-py's asyncio cluster client
would block its event loop in a transaction. Lua's `unpack` takes at most 8,000 values.

A script that is given the key of the index too keeps it: the newest list has the highest score, by the server's clock,
in microseconds, and above all others where that was set back. What may be refused comes before what changes a list.
"""

TOUCH = """
if KEYS[3] then
  local now, top = redis.call('TIME'), redis.call('ZREVRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  local score = math.max(now[1] * 1000000 + now[2], (top[2] or 0) + 1)
  redis.call('ZADD', KEYS[3], string.format('%.0f', score), KEYS[1])
  redis.call('ZADD', KEYS[4], 0, KEYS[1])
end
"""
_FORGET = """
if KEYS[3] and redis.call('LLEN', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[3], KEYS[1])
  redis.call('ZREM', KEYS[4], KEYS[1])
end
"""
_PUSH_ROWS = """
for first = 2, #ARGV, 5000 do
  redis.call('LPUSH', KEYS[1], unpack(ARGV, first, math.min(first + 4999, #ARGV)))
end
if ARGV[1] ~= '0' then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
  redis.call('EXPIRE', KEYS[2], ARGV[1])
end
"""
# A key that is no list is not indexed.
PUSH = "if KEYS[3] then redis.call('LLEN', KEYS[1]) end" + TOUCH + _PUSH_ROWS + "return 1"
REPLACE = "if #ARGV > 1 then" + TOUCH + "end redis.call('DEL', KEYS[1])" + _PUSH_ROWS + _FORGET
CLEAR = """
redis.call('ZREM', KEYS[3], KEYS[1])
redis.call('ZREM', KEYS[4], KEYS[1])
redis.call('DEL', KEYS[1], KEYS[2])
"""
# Lists that others wrote get scores below all others, in the order in which they are found.
ADOPT = """
local low, added = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES'), 0
local score = math.min(low[2] or 0, 0)
for at = 3, #KEYS do
  if redis.call('EXISTS', KEYS[at]) == 1 and not redis.call('ZSCORE', KEYS[1], KEYS[at]) then
    score, added = score - 1, added + 1
    redis.call('ZADD', KEYS[1], string.format('%.0f', score), KEYS[at])
    redis.call('ZADD', KEYS[2], 0, KEYS[at])
  end
end
return added
"""
DROP = """
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('ZREM', KEYS[2], KEYS[1])
  redis.call('ZREM', KEYS[3], KEYS[1])
end
"""
OF_PREFIX = """
local found = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[2], ARGV[1], ARGV[2])) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('ZSCORE', KEYS[1], name) or '0'
end
return found
"""
# The newest rows go if they, and how many rows there are, are still as they were read; hashes tell, so that no text is
# sent back. The first argument is for `PUSH`, and the last ones are its rows.
EDIT = (
    """
local length, read, gone = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call('LLEN', KEYS[1]) ~= length then return 0 end
local hashes = {}
for at, text in ipairs(read > 0 and redis.call('LRANGE', KEYS[1], 0, read - 1) or {}) do
  hashes[at] = redis.sha1hex(text)
end
if redis.sha1hex(table.concat(hashes)) ~= ARGV[5] then return 0 end
if #ARGV > 5 then
"""
    + TOUCH
    + """
end
if gone > 0 then redis.call('LTRIM', KEYS[1], gone, -1) end
if #ARGV > 5 then
  for at = 2, 5 do table.remove(ARGV, 2) end
"""
    + _PUSH_ROWS
    + "end"
    + _FORGET
    + "return 1"
)
DELETE = (
    """
local removed, last = 0, 0
for at = 1, #ARGV, 2 do
  local place = -1 - ARGV[at]
  if redis.call('LINDEX', KEYS[1], place) ~= ARGV[at + 1] then
    place = redis.call('LPOS', KEYS[1], ARGV[at + 1])
  end
  if place then
    place = place < 0 and place + redis.call('LLEN', KEYS[1]) or place
    redis.call('LSET', KEYS[1], place, 'lh:deleted')
    removed, last = removed + 1, math.max(last, place)
  end
end
-- From the end that is nearer, so that the newest or the oldest record costs no look at the others.
if removed > 0 then
  local is_near = 2 * last < redis.call('LLEN', KEYS[1])
  redis.call('LREM', KEYS[1], is_near and removed or -removed, 'lh:deleted')
end
"""
    + DROP.replace("redis.call('EXISTS', KEYS[1])", "KEYS[2] and redis.call('LLEN', KEYS[1])")
    + "return removed"
)
# What is no UTF-8 goes through a client that takes and gives text alone as hexadecimal digits.
_HEX = """
local function hex(text)
  return text and text:gsub('.', function(char) return string.format('%02x', char:byte()) end)
end
"""
HEX_RANGE = (
    _HEX
    + """
local found = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
for at, text in ipairs(found) do found[at] = hex(text) end
return found
"""
)
HEX_GET = _HEX + "return (hex(redis.call('GET', KEYS[1])))"
HEX_DELETE = (
    """
for at = 2, #ARGV, 2 do
  ARGV[at] = ARGV[at]:gsub('..', function(digits) return string.char(tonumber(digits, 16)) end)
end
"""
    + DELETE
)
# A state expires with its list, and not later, although it was written after the last message.
PUT = """
if ARGV[1] == '' then
  redis.call('DEL', KEYS[1])
elseif ARGV[2] == '0' then
  redis.call('SET', KEYS[1], ARGV[1])
else
  local left = redis.call('PTTL', KEYS[2])
  redis.call('SET', KEYS[1], ARGV[1], 'PX', left > 0 and left or ARGV[2] * 1000)
end
return 1
"""
# An empty text stands for no state, because no state has one.
SWAP = "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[3] then return 0 end" + PUT
