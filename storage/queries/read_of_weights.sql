-- The newest audit that read weights of this identity.
FROM audits
WHERE weights_sha256 = $weights_sha256
  AND read_version = $read_version
  AND status = 'ok'
  AND shared_from IS NULL
  AND repo_id NOT IN (SELECT repo_id FROM listings WHERE private)
ORDER BY method_version DESC, audited_at DESC NULLS LAST
LIMIT 1
