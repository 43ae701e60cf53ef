-- What is published of each audited model, most downloaded first. A repo that was never listed (a local folder), or that
-- the Hub did not say is public, appears in nothing published.
CREATE VIEW leaderboard AS
SELECT
    repo_id, downloads, kind, parameterisation, dim AS hidden_size, predicted_dead_dim, participation_fraction, top_share,
    condition_number, confidence, probe_verdict, alignment, preserved, audited_at
FROM latest
WHERE status = 'ok' AND listed_night IS NOT NULL AND private IS FALSE
ORDER BY downloads DESC NULLS LAST, repo_id;

COMMENT ON VIEW leaderboard IS 'What is published: one row per public model with a norm, most downloaded first.';
COMMENT ON COLUMN leaderboard.hidden_size IS 'length d of the main final norm [unit: coordinates; source: checkpoint]';
COMMENT ON COLUMN leaderboard.probe_verdict IS 'whether the data show the dead direction: present, absent or unclear [source: probe, section 4]';
