-- The scores of a queue's jobs: each priority from -100 to 100 has a band of BAND scores, high priorities
-- first. A score stays an exact integer, because 201 priorities x 2^45 < 2^53.
local BAND = 35184372088832 -- 2^45
local function band_of(priority) return (100 - priority) * BAND end
