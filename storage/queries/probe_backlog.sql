-- How many audited models have not been probed.
SELECT count(*) AS models FROM latest WHERE status = 'ok' AND probe_status IS NULL
