-- Above the leaderboard: how many of the public, listed models have which status; waiting: listed and not yet audited.
SELECT
    coalesce(status, 'waiting') AS status,
    count(*) AS models,
    least(sum(coalesce(downloads, 0)), 9223372036854775807)::BIGINT AS downloads,
    count(*) / sum(count(*)) OVER () AS share_of_models
FROM latest
WHERE listed_night IS NOT NULL AND private IS FALSE
GROUP BY ALL
ORDER BY models DESC, status
