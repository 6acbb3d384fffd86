-- Portable between SQLite and PostgreSQL: {text} ids and JSON, BIGINT minor units, BIGINT microseconds since 1970,
-- BIGINT 0/1 flags, {blob} for bytes. Every key begins with merchant_id, so that the tables can be distributed by it.

CREATE TABLE merchants (
    id {text} PRIMARY KEY,
    name {text} NOT NULL,
    language {text} NOT NULL,
    fallback_email {text},
    return_origins {text} NOT NULL,
    show_attachment BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE api_keys (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    name {text} NOT NULL,
    hint {text} NOT NULL,
    hash {text} NOT NULL,
    live BIGINT NOT NULL,
    scopes {text} NOT NULL,
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX api_keys_by_hash ON api_keys (hash);

CREATE TABLE provider_accounts (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    provider {text} NOT NULL,
    currency {text},
    live BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    sealed {text} NOT NULL,
    shown {text} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX provider_accounts_by_id ON provider_accounts (id);

CREATE TABLE invoicing_accounts (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    invoicer {text} NOT NULL,
    live BIGINT NOT NULL,
    enabled BIGINT NOT NULL,
    sealed {text} NOT NULL,
    shown {text} NOT NULL,
    paused_until BIGINT,
    pause_reason {text},
    failures BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);

CREATE TABLE experts (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    name {text} NOT NULL,
    email {text} NOT NULL,
    language {text} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);

CREATE TABLE payers (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    name {text} NOT NULL,
    email {text} NOT NULL,
    language {text} NOT NULL,
    portal_token {text} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX payers_by_portal_token ON payers (portal_token);

-- One row a version: an edit adds a version, so that a payment's snapshot can name the one it used.
CREATE TABLE profiles (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payer_id {text} NOT NULL,
    version BIGINT NOT NULL,
    body {text} NOT NULL,
    tax_id {text} NOT NULL,
    is_default BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    deleted_at BIGINT,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX profiles_by_payer ON profiles (merchant_id, payer_id, id);
CREATE INDEX profiles_by_tax_id ON profiles (merchant_id, tax_id, id);

CREATE TABLE cases (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    number {text} NOT NULL,
    title {text} NOT NULL,
    expert_id {text},
    payer_id {text} NOT NULL,
    amount BIGINT NOT NULL,
    currency {text} NOT NULL,
    lines {text} NOT NULL,
    quote_version BIGINT NOT NULL,
    status {text} NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, number)
);

CREATE TABLE payments (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    case_id {text},
    quote_version BIGINT NOT NULL,
    payer_id {text} NOT NULL,
    buyer {text},
    profile_id {text},
    profile_version BIGINT NOT NULL,
    provider_account_id {text} NOT NULL,
    amount BIGINT NOT NULL,
    currency {text} NOT NULL,
    lines {text},
    description {text} NOT NULL,
    return_url {text} NOT NULL,
    token {text} NOT NULL,
    live BIGINT NOT NULL,
    status {text} NOT NULL,
    status_reason {text},
    late_success BIGINT NOT NULL,
    double_payment BIGINT NOT NULL,
    mismatch BIGINT NOT NULL,
    amount_refunded BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    completed_at BIGINT,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX payments_by_payer ON payments (merchant_id, payer_id, id);
CREATE INDEX payments_by_case ON payments (merchant_id, case_id, id);
CREATE INDEX payments_by_token ON payments (token);

-- One unfinished payment for a case at a time: two clicks, two tabs, two devices find the same one (R-5W-16).
CREATE UNIQUE INDEX payments_one_started_per_case ON payments (merchant_id, case_id) WHERE status = 'started' AND case_id IS NOT NULL;

CREATE TABLE attempts (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    no BIGINT NOT NULL,
    provider_account_id {text} NOT NULL,
    reference {text} NOT NULL,
    gateway_ref {text},
    state {text} NOT NULL,
    redirect {text},
    amount BIGINT NOT NULL,
    currency {text} NOT NULL,
    start_lease BIGINT,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, provider_account_id, reference),
    UNIQUE (merchant_id, payment_id, no)
);
CREATE INDEX attempts_by_id ON attempts (id);
CREATE INDEX attempts_by_gateway_ref ON attempts (merchant_id, provider_account_id, gateway_ref);

-- Each payment the gateway names under an attempt: a second paid one is a double payment.
CREATE TABLE captures (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    attempt_id {text} NOT NULL,
    gateway_ref {text} NOT NULL,
    state {text} NOT NULL,
    amount BIGINT NOT NULL,
    currency {text} NOT NULL,
    surplus BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, attempt_id, gateway_ref)
);
CREATE INDEX captures_by_payment ON captures (merchant_id, payment_id);

CREATE TABLE refunds (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    capture_id {text} NOT NULL,
    amount BIGINT NOT NULL,
    currency {text} NOT NULL,
    reason {text},
    state {text} NOT NULL,
    gateway_ref {text},
    detail {text} NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX refunds_by_payment ON refunds (merchant_id, payment_id);

CREATE TABLE disputes (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    gateway_ref {text} NOT NULL,
    status {text} NOT NULL,
    closed BIGINT NOT NULL,
    amount BIGINT,
    currency {text},
    due_by BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, payment_id, gateway_ref)
);

CREATE TABLE deliveries (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    account_id {text} NOT NULL,
    provider {text} NOT NULL,
    verdict {text} NOT NULL,
    headers {text} NOT NULL,
    query {text} NOT NULL,
    body {blob} NOT NULL,
    body_sha256 {text} NOT NULL,
    repeats BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX deliveries_by_account ON deliveries (merchant_id, account_id, id);

-- The verified meaning of deliveries and polls. The unique key is what makes an event count once.
CREATE TABLE events (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    account_id {text} NOT NULL,
    event_key {text} NOT NULL,
    origin {text} NOT NULL,
    delivery_id {text},
    body_sha256 {text} NOT NULL,
    kind {text} NOT NULL,
    body {text} NOT NULL,
    state {text} NOT NULL,
    attempt_id {text},
    payment_id {text},
    tries BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, account_id, event_key)
);
CREATE INDEX events_by_payment ON events (merchant_id, payment_id, id);
CREATE INDEX events_by_delivery ON events (merchant_id, delivery_id);

-- Refused deliveries: the last few of each account, for the operator who set a secret wrong.
CREATE TABLE refusals (
    merchant_id {text} NOT NULL,
    account_id {text} NOT NULL,
    slot BIGINT NOT NULL,
    why {text} NOT NULL,
    bytes BIGINT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, account_id, slot)
);

-- Every move of a payment's status, with the one thing that caused it.
CREATE TABLE transitions (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    from_status {text},
    to_status {text} NOT NULL,
    reason {text},
    cause {text} NOT NULL,
    cause_id {text},
    at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX transitions_by_payment ON transitions (merchant_id, payment_id, id);

-- One row a document to be issued; the key is made once and never changes over retries.
CREATE TABLE invoices (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    payment_id {text} NOT NULL,
    kind {text} NOT NULL,
    generation BIGINT NOT NULL,
    invoicing_account_id {text} NOT NULL,
    external_key {text} NOT NULL,
    order_body {text} NOT NULL,
    state {text} NOT NULL,
    attempts BIGINT NOT NULL,
    sending_since BIGINT,
    first_sent_at BIGINT,
    unknown_since BIGINT,
    clean_looks BIGINT NOT NULL,
    last_class {text},
    last_code {text},
    last_message {text},
    last_fields {text},
    buyer_ref {text},
    provider_id {text},
    document {text},
    number {text},
    issued_at BIGINT,
    pdf {blob},
    pdf_sha256 {text},
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, payment_id, kind),
    UNIQUE (merchant_id, invoicing_account_id, external_key)
);
CREATE INDEX invoices_by_payment ON invoices (merchant_id, payment_id);

-- Buyer cards at the invoicing API, so that a payer who comes back is not created again.
CREATE TABLE invoice_buyers (
    merchant_id {text} NOT NULL,
    invoicing_account_id {text} NOT NULL,
    buyer_sha256 {text} NOT NULL,
    buyer_ref {text} NOT NULL,
    PRIMARY KEY (merchant_id, invoicing_account_id, buyer_sha256)
);

CREATE TABLE attachments (
    merchant_id {text} NOT NULL,
    payment_id {text} NOT NULL,
    name {text} NOT NULL,
    media_type {text} NOT NULL,
    number {text},
    body {blob} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, payment_id)
);

CREATE TABLE jobs (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    kind {text} NOT NULL,
    subject {text} NOT NULL,
    state {text} NOT NULL,
    run_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    lease_until BIGINT,
    fence BIGINT NOT NULL,
    last_error {text},
    created_at BIGINT NOT NULL,
    finished_at BIGINT,
    PRIMARY KEY (merchant_id, id)
);
-- One live job of a kind for a subject: enqueueing twice is one piece of work.
CREATE UNIQUE INDEX jobs_one_live ON jobs (merchant_id, kind, subject) WHERE state <> 'done' AND state <> 'failed';
CREATE INDEX jobs_due ON jobs (run_at, id) WHERE state = 'ready';
CREATE INDEX jobs_leased ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_by_subject ON jobs (merchant_id, subject, id);

CREATE TABLE alerts (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    code {text} NOT NULL,
    dedupe_key {text} NOT NULL,
    payment_id {text},
    case_id {text},
    expert_id {text},
    reason {text} NOT NULL,
    fields {text} NOT NULL,
    next_step {text} NOT NULL,
    opened_at BIGINT NOT NULL,
    resolved_at BIGINT,
    PRIMARY KEY (merchant_id, id)
);
CREATE UNIQUE INDEX alerts_one_open ON alerts (merchant_id, dedupe_key) WHERE resolved_at IS NULL;
CREATE INDEX alerts_by_payment ON alerts (merchant_id, payment_id);

CREATE TABLE notices (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    kind {text} NOT NULL,
    dedupe_key {text} NOT NULL,
    alert_id {text},
    payment_id {text},
    recipient {text} NOT NULL,
    language {text} NOT NULL,
    subject {text} NOT NULL,
    body {text} NOT NULL,
    message_id {text} NOT NULL,
    state {text} NOT NULL,
    detail {text},
    created_at BIGINT NOT NULL,
    sent_at BIGINT,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, dedupe_key)
);

-- What client apps are told: each row is one message of the feed; endpoints get it by deliveries of their own.
CREATE TABLE messages (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    type {text} NOT NULL,
    subject {text} NOT NULL,
    body {text} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);
CREATE INDEX messages_by_subject ON messages (merchant_id, subject, id);

CREATE TABLE endpoints (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    url {text} NOT NULL,
    types {text} NOT NULL,
    sealed {text} NOT NULL,
    state {text} NOT NULL,
    state_reason {text},
    first_failure_at BIGINT,
    failed_messages BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, id)
);

CREATE TABLE tellings (
    merchant_id {text} NOT NULL,
    id {text} NOT NULL,
    message_id {text} NOT NULL,
    endpoint_id {text} NOT NULL,
    state {text} NOT NULL,
    attempts BIGINT NOT NULL,
    last_status BIGINT,
    last_error {text},
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    PRIMARY KEY (merchant_id, id),
    UNIQUE (merchant_id, message_id, endpoint_id)
);

CREATE TABLE idempotency_keys (
    merchant_id {text} NOT NULL,
    idempotency_key {text} NOT NULL,
    fingerprint {text} NOT NULL,
    status BIGINT NOT NULL,
    body {text} NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (merchant_id, idempotency_key)
);

-- Readable times for people and reports.
CREATE VIEW payments_readable AS
SELECT merchant_id, id, case_id, payer_id, amount, currency, status, status_reason, late_success, double_payment,
       mismatch, amount_refunded, {time:created_at} AS created, {time:completed_at} AS completed FROM payments;
CREATE VIEW transitions_readable AS
SELECT merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, {time:at} AS moved FROM transitions;
CREATE VIEW deliveries_readable AS
SELECT merchant_id, id, account_id, provider, verdict, body_sha256, repeats, {time:received_at} AS received FROM deliveries;
CREATE VIEW jobs_readable AS
SELECT merchant_id, id, kind, subject, state, attempts, last_error, {time:run_at} AS due, {time:finished_at} AS finished FROM jobs;
CREATE VIEW alerts_readable AS
SELECT merchant_id, id, code, payment_id, case_id, expert_id, reason, {time:opened_at} AS opened, {time:resolved_at} AS resolved FROM alerts;
CREATE VIEW notices_readable AS
SELECT merchant_id, id, kind, alert_id, payment_id, message_id, state, {time:created_at} AS created, {time:sent_at} AS sent FROM notices;
