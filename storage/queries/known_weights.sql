-- Identities of the weights that were read, of repos whose names anyone may see: other repos' rows will name them.
SELECT DISTINCT weights_sha256
FROM audits
WHERE read_version = $read_version
  AND status = 'ok'
  AND weights_sha256 IS NOT NULL
  AND shared_from IS NULL
  AND repo_id NOT IN (SELECT repo_id FROM listings WHERE private)
