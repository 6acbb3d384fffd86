//! The description of the HTTP interface: OpenAPI 3.1, written from the handlers and their types.
//!
//! `openapi.yaml` at the root is this text; a test holds them equal. The document has three groups of interfaces, by
//! who uses them: client apps, payment providers, and people (R-HUB-04).

use axum::Router;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use utoipa::openapi::content::{Content, ContentBuilder};
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder};

use super::Web;
use crate::idempotency_key::MAX_LENGTH;

const ABOUT: &str = "\
A payment hub: client apps start checkouts, gateways report by signed webhooks, the hub decides what was paid, has the \
invoice issued and tells people when something needs them.

**Keys.** `Authorization: Bearer sk_test_…` or `sk_live_…`. A key has the scopes `read` (GET) and `write` (all else). \
Payments, provider accounts, invoicing accounts, deliveries, webhook endpoints and messages are live or test, and so are \
alerts, notices and jobs by what they are about; a key sees those of its own mode. People and cases belong to the \
merchant in both modes.

**Amounts** are whole numbers of minor units beside an ISO 4217 code: `{\"amount\": 12300, \"currency\": \"PLN\"}` is \
123.00 PLN. **Times** are RFC 3339 in UTC. Fields that are not known are refused by name.

**Idempotency.** Send `Idempotency-Key` with every POST. The same request again gets the same answer with the header \
`Idempotent-Replayed: true`; another request under the same key is refused (422, `idempotency_mismatch`). Keys belong to \
the merchant and are kept for ever, their answers for thirteen months, unless the operator says otherwise; a repeat \
after that is refused (409, `idempotency_answer_gone`) and makes nothing anew. Refusals are not kept.

**Errors** are `application/problem+json` (RFC 9457) with a stable `code`, the refused fields in `errors`, and a \
`request_id` that is also in the header `X-Request-Id`. 503 comes with `Retry-After`: with the code `unavailable` nothing \
was changed, with `outcome_unknown` the database did not say whether it was done. Send the same request again, with the \
same `Idempotency-Key`; without one, look first after `outcome_unknown`, `timeout` and a lost connection.

**Lists** run from the newest row to the oldest: `limit`, then `next_cursor` as `cursor`.

**Limits.** A JSON body has at most 1 MiB and 128 levels (setting `body_limit_bytes`), an attachment 10 MiB \
(`attachment_limit_bytes`), the headers of a request 16 KiB together, and a request is answered within two minutes \
(`request_s`); texts have the lengths named at their fields. Card numbers in free text are refused.";

/// Groups of interfaces, with what each part holds.
const TAGS: [(&str, &str); 15] = [
    ("merchant", "Client apps: the merchant that a key belongs to"),
    ("provider accounts", "Client apps: accounts at gateways, and which gateways there are"),
    ("invoicing accounts", "Client apps: accounts at invoicing APIs, and which there are"),
    ("experts", "Client apps: who handles cases and hears of failures"),
    ("payers", "Client apps: who pays, with their invoice data"),
    ("cases", "Client apps: matters with a number, quoted and paid for"),
    ("payments", "Client apps: payments, refunds, timelines"),
    ("invoices", "Client apps and experts: invoices, their PDFs, issuing again, attachments"),
    ("alerts", "Experts and operators: what a person must look at, and who was told"),
    ("deliveries", "Operators: what gateways sent, byte for byte"),
    ("operations", "Operators: jobs, health, figures"),
    ("events", "Client apps: being told what happened, by webhook endpoints or by the pull feed"),
    ("payment providers", "Payment providers: where gateways report and send payers back"),
    ("pages", "Payers, experts and operators: pages in the browser"),
    ("document", "This document"),
];

/// Addresses outside `/v1`: method, path, tag, name, summary, type of the answer.
const OTHERS: [(HttpMethod, &str, &str, &str, &str, &str); 11] = [
    (
        HttpMethod::Post,
        "/webhooks/{provider}/{account}",
        "payment providers",
        "receive_webhook",
        "Takes a gateway's notification, in its own form, and answers in its own words once it is on disk",
        "*/*",
    ),
    (HttpMethod::Get, "/return/{attempt}", "payment providers", "return_get", "Where a payer comes back", "text/html"),
    (HttpMethod::Post, "/return/{attempt}", "payment providers", "return_post", "The same by POST", "text/html"),
    (
        HttpMethod::Get,
        "/pay/{token}",
        "pages",
        "open_checkout",
        "The payment link: leads to the gateway, or asks for invoice data first",
        "text/html",
    ),
    (HttpMethod::Get, "/portal/{token}", "pages", "open_portal", "A payer's list of payments", "text/html"),
    (HttpMethod::Get, "/console", "pages", "open_console", "The operators' console", "text/html"),
    (HttpMethod::Get, "/healthz", "operations", "healthz", "The process lives", "text/plain"),
    (HttpMethod::Get, "/readyz", "operations", "readyz", "The database can be written to", "text/plain"),
    (HttpMethod::Get, "/metrics", "operations", "metrics", "Figures for Prometheus", "application/openmetrics-text"),
    (HttpMethod::Get, "/openapi.yaml", "document", "openapi_yaml", "This document", "application/yaml"),
    (HttpMethod::Get, "/docs", "document", "docs", "This document as a page", "text/html"),
];

/// The document as YAML: what `openapi.yaml` holds and `/openapi.yaml` serves.
pub fn yaml() -> String {
    let text = document().to_yaml().unwrap_or_default();
    text.lines().map(|line| quoted(line) + "\n").collect()
}

/// A line of YAML in which no bare word is one that readers of YAML 1.1 take for true or false.
fn quoted(line: &str) -> String {
    let is_flag = |word: &str| ["y", "n", "yes", "no", "on", "off"].iter().any(|flag| word.eq_ignore_ascii_case(flag));
    let content = line.trim_start_matches([' ', '-']);
    let start = &line[..line.len() - content.len()];
    let (key, value) = match content.split_once(':') {
        Some((key, value)) => (key, Some(value)),
        None => (content, None),
    };
    let key =
        if is_flag(key) && (value.is_some() || start.ends_with("- ")) { format!("'{key}'") } else { key.to_owned() };
    match value {
        Some(value) if is_flag(value.trim()) => format!("{start}{key}: '{}'", value.trim()),
        Some(value) => format!("{start}{key}:{value}"),
        None => format!("{start}{key}"),
    }
}

/// The document.
pub fn document() -> OpenApi {
    let described = super::api::parts(0).described();
    let schemas = described.schemas.into_iter().fold(ComponentsBuilder::new(), |c, (name, s)| c.schema(name, s));
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("sk_test_… or sk_live_…").build();
    let tags = TAGS.iter().map(|(name, text)| TagBuilder::new().name(*name).description(Some(*text)).build());
    let mut doc = OpenApiBuilder::new()
        .info(InfoBuilder::new().title("Grosz").version(env!("CARGO_PKG_VERSION")).description(Some(ABOUT)).build())
        .tags(Some(tags.collect::<Vec<_>>()))
        .components(Some(schemas.security_scheme("key", SecurityScheme::Http(bearer)).build()))
        .build();
    for (path, methods, mut operation) in described.operations {
        complete(&mut operation, &methods);
        doc.paths.add_path_operation(&path, methods, operation);
    }
    for (method, path, tag, name, summary, kind) in OTHERS {
        doc.paths.add_path_operation(path, vec![method], other(path, tag, name, summary, kind));
    }
    let_bodies_be_left_out(&mut doc);
    doc
}

/// What every operation of `/v1` has: the key, the idempotency header of a POST, words for its answers, problems as errors.
fn complete(operation: &mut Operation, methods: &[HttpMethod]) {
    operation.security = Some(vec![SecurityRequirement::new("key", Vec::<String>::new())]);
    if methods.contains(&HttpMethod::Post) {
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1)).max_length(Some(MAX_LENGTH));
        let parameter = ParameterBuilder::new()
            .name("Idempotency-Key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some("Your own name for this request, so that sending it again has one effect"))
            .schema(Some(text.build()))
            .build();
        operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
    }
    let summary = operation.summary.clone().unwrap_or_default();
    for answer in operation.responses.responses.values_mut() {
        if let RefOr::T(answer) = answer
            && answer.description.is_empty()
        {
            answer.description = summary.clone();
        }
    }
    let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    for (status, text) in [("4XX", "The request is refused"), ("5XX", "The hub cannot do it now")] {
        let answer =
            ResponseBuilder::new().description(text).content("application/problem+json", problem.clone()).build();
        operation.responses.responses.insert(status.to_owned(), RefOr::T(answer));
    }
}

/// A body of which nothing is required may be left out.
fn let_bodies_be_left_out(doc: &mut OpenApi) {
    let schemas = doc.components.as_ref().map(|c| c.schemas.clone()).unwrap_or_default();
    let asks_for_nothing = |name: &str| match schemas.get(name) {
        Some(RefOr::T(Schema::Object(object))) => object.required.is_empty(),
        _ => false,
    };
    for item in doc.paths.paths.values_mut() {
        for operation in [&mut item.post, &mut item.put, &mut item.patch, &mut item.delete].into_iter().flatten() {
            let Some(RefOr::T(body)) = &mut operation.request_body else { continue };
            let may_be_empty = |content: &RefOr<Content>| match content {
                RefOr::T(Content { schema: Some(RefOr::Ref(to)), .. }) => {
                    to.ref_location.rsplit('/').next().is_some_and(&asks_for_nothing)
                }
                _ => false,
            };
            if body.content.values().all(may_be_empty) {
                body.required = Some(Required::False);
            }
        }
    }
}

fn other(path: &str, tag: &str, name: &str, summary: &str, kind: &str) -> Operation {
    let text = || ObjectBuilder::new().schema_type(Type::String).build();
    let content = ContentBuilder::new().schema(Some(text())).build();
    let answer = ResponseBuilder::new().description(summary).content(kind, content).build();
    let mut operation = OperationBuilder::new()
        .tag(tag)
        .operation_id(Some(name))
        .summary(Some(summary))
        .response("200", answer)
        .build();
    let described = |text: &str| ResponseBuilder::new().description(text).build();
    let further: &[(&str, &str)] = match tag {
        "pages" => &[("303", "The way goes on there"), ("4XX", "A page that says why not"), ("5XX", "The same")],
        "payment providers" if kind == "text/html" => {
            &[("303", "The way goes on there"), ("4XX", "A page that says why not"), ("5XX", "The same")]
        }
        "payment providers" => &[
            ("4XX", "Refused in the gateway's own form; nothing is recorded"),
            ("503", "Nothing is recorded; to be sent again"),
        ],
        _ => &[],
    };
    for (status, text) in further {
        operation.responses.responses.insert((*status).to_owned(), RefOr::T(described(text)));
    }
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let parameters = names.map(|name| {
        let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
        RefOr::T(parameter.schema(Some(text())).build())
    });
    operation.parameters = Some(parameters.collect::<Vec<_>>()).filter(|p| !p.is_empty());
    operation
}

/// `/openapi.yaml` and `/docs`.
pub fn router() -> Router<Web> {
    Router::new().route("/openapi.yaml", get(serve_yaml)).route("/docs", get(super::docs::serve))
}

async fn serve_yaml() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml; charset=utf-8")], yaml()).into_response()
}
