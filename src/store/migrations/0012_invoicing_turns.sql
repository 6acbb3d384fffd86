-- Whose turn it is at an invoicing account, for all processes on one database (ADR 0041).

--- postgres
-- Whoever holds a lock on a table for longer than this makes the change fail as a whole: nobody queues behind it.
SET LOCAL lock_timeout = '10s';
--- both
-- The invoice that went ahead last while the account rested: the next trial is another one's.
ALTER TABLE invoicing_accounts ADD COLUMN last_trial {text};

-- Runs that call an account, one row for each call that it bears at a time. A run holds its row until its lease ends.
CREATE TABLE invoicing_slots (
    merchant_id {text} NOT NULL,
    invoicing_account_id {text} NOT NULL,
    no BIGINT NOT NULL,
    job_id {text} NOT NULL,
    fence BIGINT NOT NULL,
    held_until BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, invoicing_account_id, no)
);
