-- One row per repo: how it was listed last, the audit of that revision (else the last audit), its main final norm,
-- that norm's kernel, and its probe, of trained weights where there is one.
CREATE VIEW latest AS
WITH listing AS (
    SELECT * FROM snapshot.listings QUALIFY row_number() OVER (PARTITION BY repo_id ORDER BY night DESC) = 1
),
audit AS (
    SELECT a.*
    FROM snapshot.audits AS a
    LEFT JOIN listing AS l ON a.repo_id = l.repo_id
    QUALIFY row_number() OVER (
        PARTITION BY a.repo_id
        ORDER BY a.sha IS NOT DISTINCT FROM l.sha DESC, a.audited_at DESC NULLS LAST, a.night DESC, a.read_version DESC
    ) = 1
),
norm AS (
    SELECT * FROM snapshot.norms WHERE is_final AND is_main
    QUALIFY row_number() OVER (PARTITION BY repo_id, sha, method_version ORDER BY module) = 1
),
probe AS (
    SELECT * FROM snapshot.probes
    QUALIFY row_number() OVER (
        PARTITION BY repo_id, sha
        ORDER BY
            status = 'ok' DESC NULLS LAST, method_version DESC, weights = 'trained' DESC,
            probed_at DESC NULLS LAST, night DESC, n_tokens DESC
    ) = 1
)
SELECT
    coalesce(l.repo_id, a.repo_id) AS repo_id,
    coalesce(a.sha, l.sha) AS sha,
    l.night AS listed_night,
    l.sha AS listed_sha,
    l.* EXCLUDE (night, repo_id, sha, audit_id),
    a.* EXCLUDE (night, repo_id, sha),
    a.night AS audited_night,
    n.tower, n.module, n.layer, n.scale_tensor, n.bias_tensor, n.dim, n.dtype, n.kind, n.parameterisation, n.eps,
    n.confidence, n.decided_by,
    n.gamma_min, n.gamma_max, n.gamma_mean, n.gamma_std, n.gamma_rms, n.zero_count, n.negative_count, n.nonfinite_count,
    k.predicted_dead_dim, k.dead_coordinate_count, k.dead_coordinates, k.dead_tau, k.participation_ratio,
    k.participation_fraction, k.top_share, k.top_coordinate, k.cos_uniform, k.condition_number, k.u_dot_beta,
    k.kernel_degenerate, k.gamma_sha256,
    p.weights AS probe_weights,
    p.status AS probe_status,
    p.verdict AS probe_verdict,
    p.alignment, p.subspace_alignment, p.subspace_overlap, p.lambda_u_rel, p.lambda_u_rel_float32, p.mean_share,
    p.dead_counts, p.preserved, p.logit_invariance, p.log10_deepening, p.probed_at
FROM listing AS l
FULL JOIN audit AS a ON l.repo_id = a.repo_id
LEFT JOIN norm AS n
    ON a.repo_id = n.repo_id AND a.sha IS NOT DISTINCT FROM n.sha AND a.method_version = n.method_version
LEFT JOIN snapshot.kernels AS k
    ON n.repo_id = k.repo_id AND n.sha IS NOT DISTINCT FROM k.sha AND n.method_version = k.method_version
    AND n.tower IS NOT DISTINCT FROM k.tower
LEFT JOIN probe AS p ON a.repo_id = p.repo_id AND a.sha IS NOT DISTINCT FROM p.sha;

COMMENT ON VIEW latest IS 'One row per repo: listing, audit, main final norm, its kernel and its probe.';
COMMENT ON COLUMN latest.listed_night IS 'night on which the repo was listed last [unit: date; source: Hub listing]';
COMMENT ON COLUMN latest.listed_sha IS 'commit of the main branch when the repo was listed last [source: Hub listing]';
COMMENT ON COLUMN latest.audited_night IS 'night of the audit [unit: date; source: the audit]';
COMMENT ON COLUMN latest.audit_id IS 'run that audited the repo [source: the audit]';
COMMENT ON COLUMN latest.status IS 'status of the audit; null where the repo was listed and never audited [source: the audit]';
COMMENT ON COLUMN latest.reason IS 'status of the audit in words; null where ok [source: the audit]';
COMMENT ON COLUMN latest.probe_weights IS 'weights of the probe: trained, or random where no trained ones were probed [source: probe, section 4]';
COMMENT ON COLUMN latest.probe_status IS 'status of the probe [source: probe, section 4]';
COMMENT ON COLUMN latest.probe_verdict IS 'whether the data show the dead direction: present, absent or unclear [source: probe, section 4]';
