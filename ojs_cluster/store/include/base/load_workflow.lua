-- Reads what scripts need of a workflow. A workflow is malformed if one of these fields is missing or damaged, or
-- if its key has another type (store/features/workflows/validate_workflow.py). Then no script changes it.

-- Returns state, node statuses, type, time of creation (ms) and one more field of a workflow; or nil and a reply:
-- {'missing'} or {'malformed'}.
local function load_workflow(key, field)
    local values = redis.pcall('HMGET', key, 'state', 'node_statuses', 'type', 'created',
        field or 'state')
    if values.err then
        if not string.find(values.err, 'WRONGTYPE', 1, true) then redis.call('HMGET', key, 'state') end
        return nil, {'malformed'}
    end
    local state, statuses, kind, created, more = unpack(values)
    if not (state or statuses or kind or created) then return nil, {'missing'} end
    created = tonumber(created or '')
    if state and statuses and kind and created and created >= 0 and created < 253402300800000 then
        return state, statuses, kind, created, more
    end
    return nil, {'malformed'}
end
