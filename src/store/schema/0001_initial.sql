-- Times are milliseconds since 1970-01-01T00:00:00Z. Ids are UUIDs, 16 bytes.
-- Rows of a user are clustered by user id, so that a reset touches few pages.

CREATE TABLE organization (
  id         BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  slug       TEXT NOT NULL UNIQUE,
  name       TEXT NOT NULL,
  settings   TEXT NOT NULL CHECK (json_valid(settings)),
  revision   INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user (
  id                  BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  organization_id     BLOB NOT NULL REFERENCES organization (id),
  email               TEXT NOT NULL,
  email_key           TEXT NOT NULL,             -- lower case, NFKC; unique per organisation
  name                TEXT,
  role                TEXT NOT NULL CHECK (role IN ('member', 'help-desk', 'org-admin')),
  role_since          INTEGER NOT NULL DEFAULT 0,
  active              INTEGER NOT NULL DEFAULT 1 CHECK (active IN (0, 1)),
  password_hash       TEXT,                      -- Argon2id, PHC string; NULL until one is set
  password_changed_at INTEGER,
  locked_at           INTEGER,
  locked_reason       TEXT,
  -- After a reset: when the password alone ceases to open enrolment, and the hash and expiry of the required code.
  enrolment_due_until INTEGER,
  enrolment_code_hash BLOB,
  enrolment_code_expires_at INTEGER,
  last_login_at       INTEGER,
  sessions_ended_at   INTEGER,                   -- tokens that another issuer issued up to then are invalid
  created_at          INTEGER NOT NULL,
  updated_at          INTEGER NOT NULL,
  revision            INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX user_by_email ON user (organization_id, email_key);
-- To find whether an e-mail address is in the domain of any user of the organisation.
CREATE INDEX user_by_domain ON user (organization_id, substr(email_key, instr(email_key, '@') + 1));
CREATE INDEX user_admin ON user (organization_id) WHERE role = 'org-admin'; -- few among many users

-- Second factors. TOTP: `secret` is encrypted, `last_step` is the newest accepted time step.
-- Passkey: `secret` is the encrypted credential, `last_step` the newest signature counter that its
-- authenticator reported. Recovery codes: `secret` is the salt of the set.
CREATE TABLE factor (
  user_id      BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  id           BLOB NOT NULL CHECK (length(id) = 16),
  kind         TEXT NOT NULL CHECK (kind IN ('totp', 'passkey', 'recovery-codes')),
  secret       BLOB NOT NULL,
  label        TEXT,
  last_step    INTEGER,
  enrolled_at  INTEGER NOT NULL,
  last_used_at INTEGER,
  suspended_at INTEGER,                          -- when a reset removed it; NULL: active
  credential_hash BLOB CHECK (length(credential_hash) = 32), -- SHA-256 of a passkey's credential id
  cloned_at    INTEGER,                          -- when a clone of the passkey was detected; unusable since
  PRIMARY KEY (user_id, id)
) STRICT, WITHOUT ROWID;
-- A credential belongs to one user. A reset does not change this index.
CREATE UNIQUE INDEX factor_by_credential ON factor (credential_hash) WHERE credential_hash IS NOT NULL;

CREATE TABLE recovery_code (
  user_id   BLOB NOT NULL,
  factor_id BLOB NOT NULL,
  hash      BLOB NOT NULL,
  used_at   INTEGER,
  PRIMARY KEY (user_id, factor_id, hash),
  FOREIGN KEY (user_id, factor_id) REFERENCES factor (user_id, id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

-- A TOTP secret that was shown but not yet confirmed: one per session.
CREATE TABLE enrolment (
  user_id    BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  session_id BLOB NOT NULL CHECK (length(session_id) = 16), -- another session can't replace the secret
  secret     BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (user_id, session_id)
) STRICT, WITHOUT ROWID;

-- One-use tokens by hash: pending logins, password changes, invitations, links in notices. A session's
-- pending passkey ceremony is kept here too, by a hash of the session's id.
CREATE TABLE challenge (
  user_id    BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  hash       BLOB NOT NULL CHECK (length(hash) = 32),
  purpose    TEXT NOT NULL CHECK (purpose IN ('mfa', 'password-change', 'invitation', 'not-me',
                                              'passkey-registration', 'passkey-step-up')),
  state      BLOB,
  attempts   INTEGER NOT NULL DEFAULT 0,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (user_id, hash)
) STRICT, WITHOUT ROWID;

-- A session is a refresh token family. `generation` counts rotations: an authentic refresh token of an
-- older generation was reused, which ends the session.
CREATE TABLE session (
  user_id          BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  id               BLOB NOT NULL CHECK (length(id) = 16),
  scope            TEXT NOT NULL CHECK (scope IN ('full', 'enrolment')),
  generation       INTEGER NOT NULL DEFAULT 0,
  authenticated_at INTEGER NOT NULL,
  second_factor_at INTEGER,
  second_factor_kind TEXT CHECK (second_factor_kind IN ('totp', 'passkey', 'recovery-codes')),
  origin           TEXT NOT NULL CHECK (origin IN ('login', 'minted')),
  ip               TEXT,
  user_agent       TEXT,
  created_at       INTEGER NOT NULL,
  last_used_at     INTEGER NOT NULL,
  expires_at       INTEGER NOT NULL,
  PRIMARY KEY (user_id, id)
) STRICT, WITHOUT ROWID;

-- Sessions of another issuer that were ended here, kept until the last of their tokens has expired.
CREATE TABLE ended_session (
  user_id    BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  id         BLOB NOT NULL CHECK (length(id) = 16),
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (user_id, id)
) STRICT, WITHOUT ROWID;

-- The audit trail: a Merkle tree (RFC 6962) whose leaves are the entries. Every column of an entry is covered
-- by its leaf (see domain/audit/leaf.rs), or verified against an entry that is. Rows are only ever appended;
-- erasing and pruning blank columns, keep `hashes`, and are recorded in entries.
CREATE TABLE audit_entry (
  sequence              INTEGER PRIMARY KEY,     -- leaf index, from 0 without gaps
  hashes                BLOB NOT NULL,           -- leaf hash, then the hash of each node that this leaf completes
  organization_id       BLOB,                    -- NULL: an act on the node
  organization_index    INTEGER NOT NULL,        -- number of earlier entries of the organisation
  organization_previous INTEGER,                 -- sequence of the last of them
  at                    INTEGER,                 -- this and the following columns are NULL if pruned
  id                    BLOB,                    -- UUID version 7 of the same time
  event_type            TEXT,
  result                TEXT,
  actor_type            TEXT,
  actor_id              BLOB,
  resource_type         TEXT,
  resource_id           ANY,                     -- 16 bytes if it is a UUID, otherwise text
  request_id            ANY,                     -- likewise
  actor_seal            BLOB,                    -- 16 bytes: salt; 32 bytes: seal of the erased part
  actor_email           TEXT,
  ip_address            TEXT,
  subject_seal          BLOB,                    -- likewise
  resource_name         TEXT,
  error_message         TEXT,
  details               TEXT,                    -- canonical JSON; NULL when empty
  actor_erased_by       INTEGER,                 -- sequence of the entry that records it
  subject_erased_by     INTEGER,
  pruned_by             INTEGER
) STRICT;
CREATE INDEX audit_entry_by_time ON audit_entry (organization_id, at) WHERE at IS NOT NULL;
CREATE INDEX audit_entry_by_type ON audit_entry (organization_id, event_type, at) WHERE at IS NOT NULL;
-- With the type, so that an actor's entries of one type are found without reading the others.
CREATE INDEX audit_entry_by_actor ON audit_entry (organization_id, actor_email, at, sequence, event_type)
  WHERE at IS NOT NULL;

-- What others did to a user, for the user to see. Excludes the user's own logins, which are most entries.
CREATE INDEX audit_entry_by_subject ON audit_entry (resource_id)
  WHERE at IS NOT NULL AND resource_type = 'USER' AND actor_type <> 'ANONYMOUS' AND actor_id IS NOT resource_id;

-- The newest entry of each organisation, which its next entry follows. The node's row has the empty id.
CREATE TABLE audit_head (
  organization_id BLOB NOT NULL PRIMARY KEY,
  sequence        INTEGER NOT NULL,
  previous        INTEGER,
  entries         INTEGER NOT NULL,
  pruned          INTEGER NOT NULL DEFAULT 0     -- number of these entries that are pruned
) STRICT, WITHOUT ROWID;

-- The names and keys under which checkpoints were signed; the last row is current. A new row is added when
-- the key changes or an older database was accepted in place of a newer one.
CREATE TABLE audit_log (
  number       INTEGER PRIMARY KEY,
  origin       TEXT NOT NULL,
  verifier_key TEXT NOT NULL,                    -- C2SP signed-note: NAME+HASH+BASE64
  first_size   INTEGER NOT NULL,                 -- entries when it began
  started_at   INTEGER NOT NULL
) STRICT;
-- Signed statements about the first `size` entries (C2SP tlog-checkpoint).
CREATE TABLE audit_checkpoint (
  size INTEGER NOT NULL,
  log  INTEGER NOT NULL REFERENCES audit_log (number),
  note TEXT NOT NULL,
  at   INTEGER NOT NULL,
  PRIMARY KEY (size, log)
) STRICT, WITHOUT ROWID;

-- Progress of forwarding the trail to a SIEM, per channel.
CREATE TABLE forwarding (
  channel         TEXT NOT NULL PRIMARY KEY CHECK (channel IN ('syslog', 'webhook')),
  next            INTEGER NOT NULL,              -- sequence of the next entry to send
  attempts        INTEGER NOT NULL,              -- failed attempts to send that entry
  next_attempt_at INTEGER NOT NULL,
  last_error      TEXT
) STRICT, WITHOUT ROWID;

-- Pending erasures of a user's personal data in the trail; after a crash they continue where they stopped.
CREATE TABLE erasure (
  organization_id BLOB NOT NULL,
  user_id         BLOB NOT NULL,
  actor           TEXT NOT NULL CHECK (json_valid(actor)),      -- who requested it
  addresses       TEXT NOT NULL CHECK (json_valid(addresses)),  -- the user's known e-mail addresses
  next            INTEGER,                       -- sequence to continue from; NULL: addresses not collected yet
  created_at      INTEGER NOT NULL,
  PRIMARY KEY (organization_id, user_id)
) STRICT, WITHOUT ROWID;

-- Earlier reset calls, from which policies are given the history.
CREATE TABLE reset_call (
  id                INTEGER PRIMARY KEY,
  organization_id   BLOB NOT NULL,
  actor_id          BLOB NOT NULL,
  target_id         BLOB NOT NULL,
  at                INTEGER NOT NULL,             -- never less than in the previous row, whatever the clock does
  outcome           TEXT NOT NULL CHECK (outcome IN ('done', 'denied', 'failed')),
  -- Running totals of resets done, this one included: the count in a time window is the difference of two
  -- rows, however many lie between them.
  organization_done INTEGER NOT NULL,
  actor_done        INTEGER NOT NULL,
  target_done       INTEGER NOT NULL,
  ticket            TEXT
) STRICT;
-- Covering indexes: counts and an admin's list are each read from one leaf page.
CREATE INDEX reset_call_by_organization ON reset_call (organization_id, at, organization_done);
CREATE INDEX reset_call_by_actor ON reset_call (actor_id, at, actor_done, target_id, outcome, ticket);
CREATE INDEX reset_call_by_target ON reset_call (target_id, at, target_done);

-- Policy questions and answers, for replay: one question per reset, one decision per hook call.
CREATE TABLE question (
  audit_sequence INTEGER PRIMARY KEY,
  question       TEXT NOT NULL,
  outcome        TEXT                            -- the outcome first shown to after-reset; NULL: not called
) STRICT;
CREATE TABLE decision (
  id             INTEGER PRIMARY KEY,            -- audit_sequence * 1024 + position of the call
  binding_id     BLOB NOT NULL,
  plugin_digest  BLOB NOT NULL,
  config_digest  BLOB NOT NULL,
  record         TEXT NOT NULL                   -- too long for WITHOUT ROWID: half would be on overflow pages
) STRICT;

-- Plugin files by digest: a file that ten organisations install is stored once.
CREATE TABLE module (
  digest        BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32), -- SHA-256 of the file
  manifest      TEXT NOT NULL CHECK (json_valid(manifest)),
  size_bytes    INTEGER NOT NULL,
  disabled_at   INTEGER,                         -- when the operator switched it off for all organisations
  last_bound_at INTEGER                          -- when a binding last began or ceased to use it
) STRICT;
-- The file itself, so that a backup is complete. A separate table, so that changing a flag does not rewrite
-- megabytes.
CREATE TABLE module_file (
  digest BLOB NOT NULL PRIMARY KEY REFERENCES module (digest) ON DELETE CASCADE,
  bytes  BLOB NOT NULL
) STRICT;
-- Installations: only the installing organisation can bind the file; if installed for the node, all can.
CREATE TABLE plugin (
  digest          BLOB NOT NULL REFERENCES module (digest),
  organization_id BLOB REFERENCES organization (id),                  -- NULL: installed for the node
  signature       TEXT,                          -- minisign signature, as received
  signed_by       TEXT,                          -- id of the trusted key that made it
  installed_at    INTEGER NOT NULL,
  removed_at      INTEGER                        -- the row is kept for replay until its decisions expire
) STRICT;
CREATE UNIQUE INDEX plugin_by_digest ON plugin (digest, coalesce(organization_id, x''));
CREATE TABLE plugin_configuration (
  digest        BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 32), -- SHA-256 of the text
  config        TEXT NOT NULL CHECK (json_valid(config)),
  last_bound_at INTEGER NOT NULL                 -- when a binding last began or ceased to use it
) STRICT;
CREATE TABLE binding (
  id              BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  organization_id BLOB REFERENCES organization (id),                  -- NULL: for every organisation
  plugin_digest   BLOB NOT NULL REFERENCES module (digest),
  config_digest   BLOB NOT NULL REFERENCES plugin_configuration (digest),
  hooks           TEXT NOT NULL CHECK (json_valid(hooks)),
  answered        INTEGER NOT NULL CHECK (answered IN (0, 1)),        -- whether any of its answers counted
  -- The previous version, for rollback, canaries and failures. All four are set or none.
  previous_digest        BLOB REFERENCES module (digest),
  previous_config_digest BLOB REFERENCES plugin_configuration (digest),
  previous_hooks  TEXT CHECK (previous_hooks IS NULL OR json_valid(previous_hooks)),
  previous_answered      INTEGER CHECK (previous_answered IN (0, 1)),
  position        INTEGER NOT NULL,
  mode            TEXT NOT NULL CHECK (json_valid(mode)),
  on_failure      TEXT NOT NULL CHECK (json_valid(on_failure)),
  grants          TEXT NOT NULL CHECK (json_valid(grants)),
  limits          TEXT NOT NULL CHECK (json_valid(limits)),
  disabled_at     INTEGER,
  approval_demanded_at INTEGER,                  -- when it first demanded a second admin
  created_at      INTEGER NOT NULL,
  updated_at      INTEGER NOT NULL,
  revision        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX binding_by_organization ON binding (organization_id, position);
-- Revision of the policies that an organisation's resets are judged by; grows with every change, so that a
-- decision can be re-checked. The node's row has the empty id.
CREATE TABLE policy_revision (
  organization_id BLOB NOT NULL PRIMARY KEY,
  revision        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Outgoing deliveries, inserted in the transaction of the change that causes them.
CREATE TABLE delivery (
  id              INTEGER PRIMARY KEY,
  organization_id BLOB,
  channel         TEXT NOT NULL CHECK (channel IN ('mail', 'webhook', 'syslog')),
  payload         TEXT NOT NULL CHECK (json_valid(payload)),          -- '{}' once it was sent
  audit_sequence  INTEGER,                       -- sequence of the audit entry it reports
  state           TEXT NOT NULL DEFAULT 'owed' CHECK (state IN ('owed', 'sent', 'dead')),
  attempts        INTEGER NOT NULL DEFAULT 0,
  next_attempt_at INTEGER NOT NULL,
  last_error      TEXT,
  created_at      INTEGER NOT NULL,
  ended_at        INTEGER                        -- when it was sent or given up
) STRICT;
CREATE INDEX delivery_owed ON delivery (channel, next_attempt_at) WHERE state = 'owed';
CREATE INDEX delivery_ended ON delivery (ended_at) WHERE ended_at IS NOT NULL;

-- Actions that wait, or waited, for further admins. Deleting the requester or target deletes the approval, but
-- not its audit entries.
CREATE TABLE approval (
  id              BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  organization_id BLOB NOT NULL REFERENCES organization (id),
  requester_id    BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  requester_role  TEXT NOT NULL CHECK (requester_role IN ('member', 'help-desk', 'org-admin')), -- upper bound
  target_id       BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  wanted          TEXT NOT NULL CHECK (json_valid(wanted)),  -- the action on the target
  reason          TEXT,                          -- given by the requester
  ticket          TEXT,
  asked_because   TEXT NOT NULL,                 -- the reason given by the policy or the rule
  authenticated_at   INTEGER NOT NULL,           -- when the requester had authenticated
  second_factor_used INTEGER NOT NULL CHECK (second_factor_used IN (0, 1)),
  needed          INTEGER NOT NULL CHECK (needed > 0),
  approved_by     TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(approved_by)),
  state           TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'rejected', 'expired', 'denied')),
  created_at      INTEGER NOT NULL,
  expires_at      INTEGER NOT NULL,
  ended_at        INTEGER
) STRICT;
CREATE INDEX approval_by_organization ON approval (organization_id, created_at);
CREATE INDEX approval_by_requester ON approval (requester_id);
CREATE INDEX approval_by_target ON approval (target_id);
CREATE INDEX approval_open ON approval (expires_at) WHERE state = 'open';

-- API keys. A key is valid only while its creator is an active admin.
CREATE TABLE api_key (
  id              BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  organization_id BLOB NOT NULL REFERENCES organization (id),
  created_by      BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  name            TEXT NOT NULL,
  hash            BLOB NOT NULL CHECK (length(hash) = 32),
  prefix          TEXT NOT NULL,                 -- the key's first characters, to tell keys apart
  scopes          TEXT NOT NULL CHECK (json_valid(scopes)),
  created_at      INTEGER NOT NULL,
  expires_at      INTEGER NOT NULL,
  last_used_at    INTEGER,
  revoked_at      INTEGER
) STRICT;
CREATE INDEX api_key_by_organization ON api_key (organization_id, created_at);
CREATE INDEX api_key_by_creator ON api_key (created_by);

-- Fingerprint of the keys that the database belongs to.
CREATE TABLE installation (
  only            INTEGER PRIMARY KEY CHECK (only = 1),
  key_fingerprint TEXT NOT NULL
) STRICT;

-- Outcomes remembered for an Idempotency-Key, for 24 hours.
CREATE TABLE remembered_outcome (
  actor_id    BLOB NOT NULL,
  key_hash    BLOB NOT NULL CHECK (length(key_hash) = 32),
  fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
  outcome     TEXT NOT NULL CHECK (json_valid(outcome)),
  expires_at  INTEGER NOT NULL,
  PRIMARY KEY (actor_id, key_hash)
) STRICT, WITHOUT ROWID;
CREATE INDEX remembered_outcome_by_expiry ON remembered_outcome (expires_at);
