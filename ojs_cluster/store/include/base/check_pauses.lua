-- The scheduler checks a running workflow after CHECK_MS without progress. The pause until the next check is as
-- long as the workflow's age, between CHECK_MS and LONGEST_CHECK_MS (store/features/workflows/progress_check.py).
local CHECK_MS = 300 * 1000
local LONGEST_CHECK_MS = 3600 * 1000
