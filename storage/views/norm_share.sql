-- How the kinds share the models created in each month, by number and by downloads; public, listed models only.
CREATE VIEW norm_share AS
WITH kinds AS (
    SELECT
        date_trunc('month', created_at)::DATE AS created_month,
        norm_kind,
        count(*) AS models,
        least(sum(coalesce(downloads, 0)), 9223372036854775807)::BIGINT AS downloads
    FROM latest
    WHERE status IN ('ok', 'no_norms') AND listed_night IS NOT NULL AND private IS FALSE
    GROUP BY ALL
)
SELECT
    *,
    models / sum(models) OVER same_month AS share_of_models,
    downloads / nullif(sum(downloads) OVER same_month, 0) AS share_of_downloads
FROM kinds
WINDOW same_month AS (PARTITION BY created_month)
ORDER BY created_month, models DESC, norm_kind;

COMMENT ON VIEW norm_share IS 'Models and downloads by kind of norm and month of creation; public models only.';
COMMENT ON COLUMN norm_share.created_month IS 'first day of the month in which the repos were created [unit: date; source: Hub listing]';
COMMENT ON COLUMN norm_share.models IS 'models of this kind [unit: models; source: the audit]';
COMMENT ON COLUMN norm_share.downloads IS 'their downloads of the last 30 days together [unit: downloads in 30 days; source: Hub listing]';
COMMENT ON COLUMN norm_share.share_of_models IS 'share of the month''s models [unit: 0 to 1; source: the audit]';
COMMENT ON COLUMN norm_share.share_of_downloads IS 'share of the downloads of the month''s models [unit: 0 to 1; source: Hub listing]';
