-- Per repo over nights: what was listed, and what is known of the revision listed then.
CREATE VIEW history AS
WITH audit AS (
    SELECT * FROM snapshot.audits
    QUALIFY row_number() OVER (PARTITION BY repo_id, sha ORDER BY read_version DESC, audited_at DESC NULLS LAST) = 1
),
norm AS (
    SELECT * FROM snapshot.norms WHERE is_final AND is_main
    QUALIFY row_number() OVER (PARTITION BY repo_id, sha, method_version ORDER BY module) = 1
)
SELECT
    l.night, l.repo_id, l.sha, l.last_modified, l.downloads, l.likes, l.gated, l.private,
    a.audited_at, a.status, a.norm_kind, a.final_tensor, a.shared_from,
    n.dim, n.confidence, k.predicted_dead_dim, k.participation_fraction, k.condition_number, k.gamma_sha256
FROM snapshot.listings AS l
LEFT JOIN audit AS a ON l.repo_id = a.repo_id AND l.sha IS NOT DISTINCT FROM a.sha
LEFT JOIN norm AS n
    ON a.repo_id = n.repo_id AND a.sha IS NOT DISTINCT FROM n.sha AND a.method_version = n.method_version
LEFT JOIN snapshot.kernels AS k
    ON n.repo_id = k.repo_id AND n.sha IS NOT DISTINCT FROM k.sha AND n.method_version = k.method_version
    AND n.tower IS NOT DISTINCT FROM k.tower;

COMMENT ON VIEW history IS 'One row per repo and night: the listing, and what is known of the revision listed then.';
COMMENT ON COLUMN history.night IS 'night of the listing [unit: date; source: Hub listing]';
COMMENT ON COLUMN history.status IS 'status of the audit of this revision [source: the audit]';
