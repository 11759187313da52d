-- A secret that was shown belongs to the session that asked for it: another session of the same user can't put
-- its own in the place. Set-ups under way when this runs are started again.
DROP TABLE enrolment;
CREATE TABLE enrolment (
  user_id    BLOB NOT NULL REFERENCES user (id) ON DELETE CASCADE,
  session_id BLOB NOT NULL CHECK (length(session_id) = 16),
  secret     BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  PRIMARY KEY (user_id, session_id)
) STRICT, WITHOUT ROWID;

-- Whether an address that somebody typed is of a domain that a user of the organisation has.
CREATE INDEX user_by_domain ON user (organization_id, substr(email_key, instr(email_key, '@') + 1));
