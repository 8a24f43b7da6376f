-- A running workflow that makes no progress for so long is looked at: see store/workflows/progress_check.py.
local CHECK_MS = 300 * 1000
local LONGEST_CHECK_MS = 3600 * 1000
