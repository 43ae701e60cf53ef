"""Where results live: tables as Parquet parts in a folder or a bucket, and a DuckDB snapshot built from them.

This package knows tables, not norms, and imports nothing else of ours. The parts are the truth; the snapshot may be
deleted.

    errors    StoreError
    schema    the tables: columns with unit and source, keys, what stays in Parquet
    place     the few file operations that a store needs, whole or absent; in a folder
    bucket    the same in an object store
    objects   the object store's client, and its errors in words
    far       a bucket's parts as DuckDB reads them
    ranged    a file of an object store, read from anywhere
    store     open a store; how its files are named
    rows      rows of a table as Arrow, checked
    parts     write a batch's parts, find the live ones, set unreadable ones aside
    merge     make a finished night's parts few
    nights    plans, markers and summaries of nights
    choose    which of the listed repos a night has to audit
    scan      all parts of a table as one SQL relation
    database  build the snapshot; open it to read
    views     what an open database shows
    sql       let strangers read, and only read
    lease     one coordinator per store
"""
