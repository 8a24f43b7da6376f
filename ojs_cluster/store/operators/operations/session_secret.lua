-- Transition: none -> stored, for the secret that signs the sessions of the dashboard.
-- Post: the secret is stored. An existing secret stays, unless it is damaged.
-- Memory: allow-oom; adds 200 bytes.
-- KEYS: 1 ui_secret.
-- ARGV: 1 the secret to store if there is none.
-- Returns: the secret
local found = redis.pcall('GET', KEYS[1])
if type(found) == 'string' and #found >= #ARGV[1] then return found end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
