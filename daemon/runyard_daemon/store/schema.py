"""The tables, as the statements of the migrations.

Names compare without case (NOCASE: names are ASCII). Listings need no index on a time: a run's
`seq` grows with each submit, and every index of SQLite ends with it, so each index below is in
order of submission within its columns.
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x52594452  # "RYDR"

FIRST_SCHEMA: Final = (
    """
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        instance_id TEXT NOT NULL,
        incarnation INTEGER NOT NULL,
        grants INTEGER NOT NULL,
        page_key BLOB NOT NULL,
        is_clean INTEGER NOT NULL,
        written_by TEXT NOT NULL
    ) STRICT
    """,
    """
    INSERT INTO meta VALUES (1, lower(hex(randomblob(16))), 0, 0, randomblob(32), 1, '')
    """,
    """
    CREATE TABLE workspaces (
        name TEXT NOT NULL COLLATE NOCASE PRIMARY KEY,
        create_time_us INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE experiments (
        workspace TEXT NOT NULL COLLATE NOCASE REFERENCES workspaces (name),
        name TEXT NOT NULL COLLATE NOCASE,
        create_time_us INTEGER NOT NULL,
        last_run_time_us INTEGER NOT NULL,
        last_sequence INTEGER NOT NULL,
        last_number INTEGER NOT NULL,
        run_count INTEGER NOT NULL,
        PRIMARY KEY (workspace, name)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX experiments_by_use ON experiments (workspace, last_sequence)",
    """
    CREATE TABLE runs (
        seq INTEGER PRIMARY KEY,
        run_id TEXT NOT NULL UNIQUE,
        workspace TEXT NOT NULL COLLATE NOCASE,
        experiment TEXT NOT NULL COLLATE NOCASE,
        number INTEGER NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        revision INTEGER NOT NULL,
        compute TEXT NOT NULL COLLATE NOCASE,
        priority INTEGER NOT NULL,
        cpu_millis INTEGER NOT NULL,
        memory_bytes INTEGER NOT NULL,
        gpus INTEGER NOT NULL,
        create_time_us INTEGER NOT NULL,
        start_time_us INTEGER,
        end_time_us INTEGER,
        client_snapshot_us INTEGER NOT NULL,
        submitted_by TEXT NOT NULL,
        snapshot TEXT NOT NULL,
        display_name TEXT NOT NULL,
        node TEXT NOT NULL,
        status_message TEXT NOT NULL,
        canceled_by TEXT NOT NULL,
        cancel_reason TEXT NOT NULL,
        tags TEXT NOT NULL,
        properties TEXT NOT NULL,
        warnings TEXT NOT NULL,
        phases TEXT NOT NULL,
        end_json TEXT,
        workdir TEXT,
        FOREIGN KEY (workspace, experiment) REFERENCES experiments (workspace, name)
    ) STRICT
    """,
    "CREATE INDEX runs_by_state ON runs (workspace, state)",
    "CREATE INDEX runs_by_experiment ON runs (workspace, experiment, state)",
    "CREATE INDEX runs_by_compute ON runs (workspace, compute)",
    # Apart from the runs: large, read for one run at a time, never changed.
    """
    CREATE TABLE run_specs (
        seq INTEGER PRIMARY KEY REFERENCES runs (seq) ON DELETE CASCADE,
        spec BLOB NOT NULL,
        environment BLOB NOT NULL
    ) STRICT
    """,
    # Tags (kind 0) and properties (kind 1), kept beside their JSON columns to filter by. Without
    # a foreign key, which would need a third index; `labels` keeps it in step.
    """
    CREATE TABLE run_labels (
        kind INTEGER NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        seq INTEGER NOT NULL,
        PRIMARY KEY (kind, key, value, seq)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX run_labels_by_key ON run_labels (kind, key, seq)",
    """
    CREATE TABLE transitions (
        run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
        revision INTEGER NOT NULL,
        state TEXT NOT NULL,
        time_us INTEGER NOT NULL,
        cause TEXT NOT NULL,
        actor TEXT NOT NULL,
        PRIMARY KEY (run_id, revision)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE attempts (
        run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
        attempt INTEGER NOT NULL,
        epoch INTEGER NOT NULL UNIQUE,
        node_id TEXT NOT NULL,
        phase TEXT NOT NULL,
        grant_time_us INTEGER NOT NULL,
        start_time_us INTEGER,
        end_time_us INTEGER,
        held_cpu_millis INTEGER NOT NULL,
        held_memory_bytes INTEGER NOT NULL,
        held_gpus INTEGER NOT NULL,
        tags_read_bytes INTEGER NOT NULL,
        is_sealed INTEGER NOT NULL,
        lengths TEXT NOT NULL,
        end_json TEXT,
        PRIMARY KEY (run_id, attempt)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE environments (
        workspace TEXT NOT NULL COLLATE NOCASE REFERENCES workspaces (name),
        name TEXT NOT NULL COLLATE NOCASE,
        version INTEGER NOT NULL,
        spec_hash TEXT NOT NULL,
        spec BLOB NOT NULL,
        create_time_us INTEGER NOT NULL,
        PRIMARY KEY (workspace, name, version),
        UNIQUE (workspace, name, spec_hash)
    ) STRICT
    """,
    """
    CREATE TABLE environment_locks (
        spec_hash TEXT NOT NULL,
        platform TEXT NOT NULL,
        hash TEXT NOT NULL,
        text TEXT NOT NULL,
        create_time_us INTEGER NOT NULL,
        PRIMARY KEY (spec_hash, platform)
    ) STRICT
    """,
    """
    CREATE TABLE snapshots (
        workspace TEXT NOT NULL COLLATE NOCASE REFERENCES workspaces (name),
        digest TEXT NOT NULL,
        file_count INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        create_time_us INTEGER NOT NULL,
        PRIMARY KEY (workspace, digest)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE complete_directories (
        digest TEXT NOT NULL PRIMARY KEY,
        file_count INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE run_files (
        run_id TEXT NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
        path TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        update_time_us INTEGER NOT NULL,
        digest TEXT NOT NULL,
        is_chunked INTEGER NOT NULL,
        is_executable INTEGER NOT NULL,
        PRIMARY KEY (run_id, path)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE requests (
        principal TEXT NOT NULL,
        rpc TEXT NOT NULL,
        request_id TEXT NOT NULL,
        body_hash TEXT NOT NULL,
        create_time_us INTEGER NOT NULL,
        response BLOB NOT NULL,
        UNIQUE (request_id, rpc, principal)
    ) STRICT
    """,
    "CREATE INDEX requests_by_age ON requests (create_time_us)",
    """
    CREATE TABLE events (
        cursor INTEGER PRIMARY KEY,
        seq INTEGER NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE computes (
        workspace TEXT NOT NULL COLLATE NOCASE REFERENCES workspaces (name),
        name TEXT NOT NULL COLLATE NOCASE,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        errors TEXT NOT NULL,
        create_time_us INTEGER NOT NULL,
        update_time_us INTEGER NOT NULL,
        PRIMARY KEY (workspace, name)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE nodes (
        workspace TEXT NOT NULL COLLATE NOCASE,
        compute TEXT NOT NULL COLLATE NOCASE,
        node_id TEXT NOT NULL,
        hostname TEXT NOT NULL,
        platform TEXT NOT NULL,
        agent_version TEXT NOT NULL,
        boot_id TEXT NOT NULL,
        machine_id TEXT NOT NULL,
        job_account TEXT NOT NULL,
        slots INTEGER NOT NULL,
        cpu_millis INTEGER NOT NULL,
        memory_bytes INTEGER NOT NULL,
        gpus INTEGER NOT NULL,
        gpu_names TEXT NOT NULL,
        last_seen_us INTEGER NOT NULL,
        PRIMARY KEY (workspace, compute, node_id),
        FOREIGN KEY (workspace, compute) REFERENCES computes (workspace, name) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID
    """,
)

SECOND_SCHEMA: Final = (
    "CREATE INDEX attempts_ahead ON attempts (run_id) WHERE phase = 'AHEAD'",
    # A run without a name of its own is called by its id: it costs nothing here.
    """
    CREATE INDEX runs_by_name ON runs (workspace, display_name) WHERE display_name != run_id
    """,
    # Runs on their way out. A row is written before anything of its run is removed and goes last,
    # after the run's folder, so that a removal that was cut off is taken up again.
    """
    CREATE TABLE removals (
        run_id TEXT NOT NULL PRIMARY KEY,
        experiment TEXT NOT NULL,
        is_erased INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)

THIRD_SCHEMA: Final = (
    # Built environments that nodes fetch instead of building them, one for each lock.
    """
    CREATE TABLE sealed_environments (
        lock_hash TEXT NOT NULL PRIMARY KEY,
        digest TEXT NOT NULL,
        file_count INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,
        create_time_us INTEGER NOT NULL,
        node TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
)

FOURTH_SCHEMA: Final = (
    "CREATE INDEX environment_locks_by_hash ON environment_locks (hash)",
    # Locks that others took the place of: records of runs name them.
    """
    CREATE TABLE replaced_locks (
        hash TEXT NOT NULL PRIMARY KEY,
        spec_hash TEXT NOT NULL,
        platform TEXT NOT NULL,
        text TEXT NOT NULL,
        create_time_us INTEGER NOT NULL
    ) STRICT
    """,
)

FIFTH_SCHEMA: Final = (
    # Of a token only a hash is kept. role: "READER", "CONTRIBUTOR", "ADMIN" or "AGENT".
    """
    CREATE TABLE tokens (
        id TEXT NOT NULL PRIMARY KEY,
        hash BLOB NOT NULL,
        role TEXT NOT NULL,
        bearer TEXT NOT NULL,
        compute TEXT NOT NULL COLLATE NOCASE,
        uses_left INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        create_time_us INTEGER NOT NULL,
        expire_time_us INTEGER NOT NULL,
        revoke_time_us INTEGER,
        last_use_us INTEGER
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX tokens_by_age ON tokens (create_time_us, id)",
    # Machines that joined. A certificate counts for as long as its node has a row.
    """
    CREATE TABLE members (
        workspace TEXT NOT NULL COLLATE NOCASE,
        compute TEXT NOT NULL COLLATE NOCASE,
        node_id TEXT NOT NULL,
        hostname TEXT NOT NULL,
        token_id TEXT NOT NULL,
        key_hash BLOB NOT NULL,
        join_time_us INTEGER NOT NULL,
        PRIMARY KEY (workspace, compute, node_id),
        FOREIGN KEY (workspace, compute) REFERENCES computes (workspace, name) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID
    """,
)
