-- One row per key, the newest: $table, $keys and $newest come from the schema. Sorting a table by its key takes a lot of
-- memory and duplicates are rare, so only the rows whose key's hash occurs more than once are sorted.
CREATE TEMP TABLE repeated AS
SELECT hash($keys) AS key_hash FROM served_$table GROUP BY key_hash HAVING count(*) > 1;

INSERT INTO $table BY NAME
SELECT * FROM served_$table WHERE hash($keys) NOT IN (FROM repeated);

INSERT INTO $table BY NAME
SELECT * FROM served_$table WHERE hash($keys) IN (FROM repeated)
QUALIFY row_number() OVER (PARTITION BY $keys ORDER BY $newest) = 1;

DROP TABLE repeated;
