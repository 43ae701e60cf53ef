-- What to do with each listed repo tonight. listed: (repo_id, sha, position); audited: the audits of all live parts.
-- $night, $read_version; $method_version: figures of an older one are no answer; $retry_nights: after which a repo that had no answer for lack of access is asked again;
-- $longest_gap_nights: failures are tried again after 1, 2, 4, … nights, at most this many.
WITH tried AS (
    SELECT a.repo_id, a.sha, a.read_version, a.method_version, a.status, a.night
    FROM audited AS a
    WHERE a.repo_id IN (SELECT repo_id FROM listed)
),
known AS (
    SELECT DISTINCT repo_id FROM tried
),
answered AS (
    SELECT
        repo_id, sha,
        bool_or(status NOT IN ('failed', 'gated', 'private', 'not_found')) AS for_good,
        max(night) FILTER (status = 'failed') AS failed_last,
        max(night) FILTER (status <> 'failed') AS refused_last
    FROM tried
    WHERE read_version = $read_version
        AND (method_version >= $method_version OR status NOT IN ('ok', 'no_norms'))
    GROUP BY repo_id, sha
),
failures AS (
    SELECT t.repo_id, t.sha, count(DISTINCT t.night) AS in_a_row
    FROM tried AS t
    JOIN answered AS a ON t.repo_id = a.repo_id AND t.sha IS NOT DISTINCT FROM a.sha
    WHERE t.read_version = $read_version AND t.status = 'failed'
        AND (a.refused_last IS NULL OR t.night > a.refused_last)
    GROUP BY t.repo_id, t.sha
),
due AS (
    SELECT
        l.repo_id, l.sha, l.position,
        a.repo_id IS NOT NULL AS is_tried,
        coalesce(a.for_good, false) AS is_answered,
        CASE WHEN f.in_a_row IS NULL
            THEN a.refused_last + $retry_nights::INTEGER
            ELSE a.failed_last + least(pow(2, least(f.in_a_row - 1, 30)), $longest_gap_nights)::INTEGER
        END AS due_night
    FROM listed AS l
    LEFT JOIN answered AS a ON l.repo_id = a.repo_id AND l.sha IS NOT DISTINCT FROM a.sha
    LEFT JOIN failures AS f ON l.repo_id = f.repo_id AND l.sha IS NOT DISTINCT FROM f.sha
)
SELECT
    d.repo_id, d.sha,
    CASE
        WHEN d.is_answered THEN 'unchanged'
        WHEN d.is_tried AND d.due_night > $night THEN 'waiting'
        WHEN d.is_tried THEN 'retry'
        WHEN k.repo_id IS NULL THEN 'new'
        ELSE 'changed'
    END AS decision
FROM due AS d
LEFT JOIN known AS k ON d.repo_id = k.repo_id
ORDER BY d.position
