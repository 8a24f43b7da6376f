-- Names of the fields of a job's hash: twin of store/ground/job_fields.py, which explains them.
local F = {
    envelope = 'e', state = 's', type = 't', queue = 'q', priority = 'p', created = 'c',
    max_attempts = 'm', retry = 'r', non_retryable = 'nr', on_exhaustion = 'x',
    visibility = 'v', timeout = 'to', expires = 'xp', scheduled_shown = 'sa', expires_shown = 'xa',
    attempt = 'a', enqueued = 'n', started = 'st', finished = 'f', due = 'da', delay = 'dd',
    worker = 'w', lease = 'l', deadline = 'd', lease_ms = 'lv', extended = 'le',
    result = 'rs', errors = 'hn', error_slot = 'h', dead = 'dl', expired = 'ex', replays = 'rc',
    alias = '@', workflow = 'wf', step = 'ws', parents = 'pr', parent_names = 'pn', unique = 'uq',
    transaction = '@t', max_per_second = 'ps', tombstone = '@f', fixed_id = 'fx', cancelled_keep_ms = 'sp',
    limit = 'rl', token = 'rt', open_token_request = 'ra', token_request_count = 'rn', hidden = 'hd',
    progress = 'pg', progress_data = 'pd', checkpoint = 'ck', history = 'hy', edits = 'ed',
    tenant = 'tn', agent = 'ag', hold = 'ho', keep = 'kp', parked = 'pk',
    suspect = 'su', alone = 'al', deaths = 'wd',
}
