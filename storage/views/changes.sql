-- What differs from the night before on which the repo was listed: one row per night, repo and fact. A night may list some
-- repos only, so each is compared with its own last listing.
CREATE VIEW changes AS
WITH nights AS (
    SELECT night, repo_id, lag(night) OVER (PARTITION BY repo_id ORDER BY night) AS night_before
    FROM snapshot.listings
),
pairs AS (
    SELECT n.night, n.night_before, n.repo_id, now, before
    FROM nights AS n
    JOIN history AS now ON now.night = n.night AND now.repo_id = n.repo_id
    LEFT JOIN history AS before ON before.night = n.night_before AND before.repo_id = n.repo_id
    WHERE n.night > (SELECT min(night) FROM snapshot.listings)
),
facts AS (
    SELECT
        night, night_before, repo_id,
        unnest(CASE WHEN night_before IS NULL
            THEN [{'what': 'listed', 'before': NULL::VARCHAR, 'after': now.sha}]
            ELSE [
                {'what': 'sha', 'before': before.sha, 'after': now.sha},
                {'what': 'status', 'before': before.status, 'after': now.status},
                {'what': 'norm_kind', 'before': before.norm_kind, 'after': now.norm_kind},
                {'what': 'final_tensor', 'before': before.final_tensor, 'after': now.final_tensor},
                {'what': 'gamma_sha256', 'before': before.gamma_sha256, 'after': now.gamma_sha256},
                {
                    'what': 'predicted_dead_dim',
                    'before': before.predicted_dead_dim::VARCHAR,
                    'after': now.predicted_dead_dim::VARCHAR
                },
                {'what': 'gated', 'before': before.gated, 'after': now.gated},
                {'what': 'private', 'before': before.private::VARCHAR, 'after': now.private::VARCHAR}
            ] END, recursive := true)
    FROM pairs
)
SELECT night, night_before, repo_id, what, before, after
FROM facts
WHERE before IS DISTINCT FROM after OR what = 'listed';

COMMENT ON VIEW changes IS 'What differs from the night before on which the repo was listed: one row per night, repo and fact.';
COMMENT ON COLUMN changes.night IS 'night of the listing [unit: date; source: Hub listing]';
COMMENT ON COLUMN changes.night_before IS 'night of the repo''s last listing before; null where there was none [unit: date; source: Hub listing]';
COMMENT ON COLUMN changes.what IS 'listed (for the first time), or the column that differs [source: the store]';
COMMENT ON COLUMN changes.before IS 'its value on the night before, as text; null where there was none [source: the store]';
COMMENT ON COLUMN changes.after IS 'its value on this night, as text; null where there is none [source: the store]';
