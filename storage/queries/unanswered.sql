-- Why models have no figures, most frequent first, each with one reason as an example.
SELECT status, count(*) AS models, any_value(reason) AS such_as
FROM latest
WHERE status NOT IN ('ok', 'no_norms')
GROUP BY status
ORDER BY models DESC, status
