-- Which audit's conclusions are served for a revision and a method_version: those of the last one, whole, since a mixture
-- of two would hold norms that neither found. Rows of a batch whose marker is missing have no audit here.
CREATE TEMP TABLE concluded AS
SELECT repo_id, sha, method_version, audit_id
FROM raw_audits
QUALIFY row_number() OVER (
    PARTITION BY repo_id, sha, method_version
    ORDER BY audited_at DESC NULLS LAST, night DESC NULLS LAST, audit_id DESC NULLS LAST
) = 1;

CREATE TEMP VIEW served_norms AS
SELECT r.*
FROM raw_norms AS r
JOIN concluded AS c
    ON r.repo_id = c.repo_id AND r.method_version = c.method_version AND r.sha IS NOT DISTINCT FROM c.sha
    AND coalesce(r.audit_id, c.audit_id) IS NOT DISTINCT FROM c.audit_id;

CREATE TEMP VIEW served_kernels AS
SELECT r.*
FROM raw_kernels AS r
JOIN concluded AS c
    ON r.repo_id = c.repo_id AND r.method_version = c.method_version AND r.sha IS NOT DISTINCT FROM c.sha
    AND coalesce(r.audit_id, c.audit_id) IS NOT DISTINCT FROM c.audit_id;

CREATE TEMP VIEW served_evidence AS
SELECT r.*
FROM raw_evidence AS r
JOIN concluded AS c
    ON r.repo_id = c.repo_id AND r.method_version = c.method_version AND r.sha IS NOT DISTINCT FROM c.sha
    AND coalesce(r.audit_id, c.audit_id) IS NOT DISTINCT FROM c.audit_id;

CREATE TEMP VIEW served_listings AS FROM raw_listings;
CREATE TEMP VIEW served_audits AS FROM raw_audits;
CREATE TEMP VIEW served_probes AS FROM raw_probes;
