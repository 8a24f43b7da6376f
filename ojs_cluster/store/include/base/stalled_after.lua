-- A running workflow without progress for this long is checked: see store/workflows/progress_check.py.
local CHECK_MS = 300 * 1000
local LONGEST_CHECK_MS = 3600 * 1000
