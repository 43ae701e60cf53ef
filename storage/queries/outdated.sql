-- Answered audits whose conclusions were drawn by an older method, with what they were drawn from.
FROM audits
WHERE read_version = $read_version AND method_version < $method_version AND status IN ('ok', 'no_norms')
