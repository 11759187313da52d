-- Since when a policy is known to demand a second admin: changing it takes one, too.
ALTER TABLE binding ADD COLUMN approval_demanded_at INTEGER;
