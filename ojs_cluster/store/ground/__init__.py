"""What every floor above uses: names of fields, scripts, cursors, copies, and caches."""
