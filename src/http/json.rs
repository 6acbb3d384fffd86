//! JSON answers.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// An answer of 200 with a JSON body. It is written into plain memory: a list of twenty payments has two thousand pieces,
/// and the framework's own buffer is checked and grown at each of them.
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let mut body = Vec::with_capacity(1024);
        let written = serde_json::to_writer(&mut body, &self.0);
        answer(written.map(|()| body))
    }
}

/// An answer of 200 with a body that was written as JSON.
pub fn answer(written: serde_json::Result<Vec<u8>>) -> Response {
    match written {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "An answer could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
