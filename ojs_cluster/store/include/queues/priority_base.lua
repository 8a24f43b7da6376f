-- Where the places of a priority begin in a queue (see make_available.lua). Each priority has BAND places.
local BAND = 35184372088832 -- 2^45
local function band_of(priority) return (100 - priority) * BAND end
