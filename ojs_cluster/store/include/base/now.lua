-- The server's clock in ms, the only clock that transitions use.
local clock = redis.call('TIME')
local micros = clock[2] + 0 -- a number, because each use of a text in arithmetic would convert it again
local now = clock[1] * 1000 + (micros - micros % 1000) / 1000
