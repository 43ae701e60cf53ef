-- A checkpoint's probe at random initialisation beside that of its trained weights.
CREATE VIEW deepening AS
WITH probe AS (
    SELECT * FROM snapshot.probes WHERE status = 'ok'
    QUALIFY row_number() OVER (
        PARTITION BY repo_id, sha, method_version, weights ORDER BY probed_at DESC NULLS LAST, night DESC, n_tokens DESC
    ) = 1
)
SELECT
    t.repo_id, t.sha, t.method_version, t.tower, t.final_tensor,
    r.verdict AS random_verdict, t.verdict AS trained_verdict,
    r.alignment AS random_alignment, t.alignment AS trained_alignment,
    r.subspace_alignment AS random_subspace_alignment, t.subspace_alignment AS trained_subspace_alignment,
    r.lambda_u_rel_float32 AS random_lambda_u_rel_float32, t.lambda_u_rel_float32 AS trained_lambda_u_rel_float32,
    r.dead_counts['1e-08'] AS random_dead_dim, t.dead_counts['1e-08'] AS trained_dead_dim,
    t.dead_counts['1e-08'] - r.dead_counts['1e-08'] AS new_dead_directions,
    t.log10_deepening, t.preserved, t.probed_at
FROM probe AS t
JOIN probe AS r
    ON r.weights = 'random' AND t.weights = 'trained' AND r.repo_id = t.repo_id AND r.method_version = t.method_version
    AND r.sha IS NOT DISTINCT FROM t.sha;

COMMENT ON VIEW deepening IS 'One row per checkpoint probed twice: at random initialisation and trained.';
COMMENT ON COLUMN deepening.random_verdict IS 'verdict at random initialisation [source: probe, section 4]';
COMMENT ON COLUMN deepening.trained_verdict IS 'verdict of the trained weights [source: probe, section 4]';
COMMENT ON COLUMN deepening.random_alignment IS '|⟨u, v_d⟩| at random initialisation [unit: 0 to 1; source: probe, section 4]';
COMMENT ON COLUMN deepening.trained_alignment IS '|⟨u, v_d⟩| of the trained weights [unit: 0 to 1; source: probe, section 4]';
COMMENT ON COLUMN deepening.random_subspace_alignment IS '‖P_dead u‖ at random initialisation [unit: 0 to 1; source: probe, section 4]';
COMMENT ON COLUMN deepening.trained_subspace_alignment IS '‖P_dead u‖ of the trained weights [unit: 0 to 1; source: probe, section 4]';
COMMENT ON COLUMN deepening.random_lambda_u_rel_float32 IS 'variance along u in float32 at random initialisation [unit: of the mean eigenvalue; source: probe, section 4]';
COMMENT ON COLUMN deepening.trained_lambda_u_rel_float32 IS 'variance along u in float32 of the trained weights [unit: of the mean eigenvalue; source: probe, section 4]';
COMMENT ON COLUMN deepening.random_dead_dim IS 'eigenvalues below 1e-8 at random initialisation [unit: directions; source: probe, section 4]';
COMMENT ON COLUMN deepening.trained_dead_dim IS 'eigenvalues below 1e-8 of the trained weights [unit: directions; source: probe, section 4]';
COMMENT ON COLUMN deepening.new_dead_directions IS 'dead directions that training added [unit: directions; source: probe, section 4]';
