-- The repos that have no answer about their norms, and why, most downloaded first.
CREATE VIEW failures AS
SELECT repo_id, sha, downloads, status, reason, audited_at, audited_night, audit_id
FROM latest
WHERE status NOT IN ('ok', 'no_norms')
ORDER BY downloads DESC NULLS LAST, repo_id;

COMMENT ON VIEW failures IS 'The repos whose last audit gave no answer about their norms, and why.';
COMMENT ON COLUMN failures.status IS 'why there is no answer [source: the audit]';
COMMENT ON COLUMN failures.reason IS 'the status in words [source: the audit]';
COMMENT ON COLUMN failures.audited_night IS 'night of the audit [unit: date; source: the audit]';
