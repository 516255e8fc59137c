//! Whether a connection has a request in service, from its head to the last byte of its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};

/// Counts the requests in service of one connection. Clones count the same one.
#[derive(Clone, Debug, Default)]
pub struct InService(Arc<AtomicUsize>);

/// One request in service.
#[derive(Debug)]
pub struct Serving(InService);

impl InService {
    /// A request comes into service.
    pub fn begin(&self) -> Serving {
        self.0.fetch_add(1, Ordering::Relaxed);
        Serving(self.clone())
    }

    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Serving {
    /// `response`, with which the request stays in service until its body is gone.
    pub fn until_sent(self, response: Response) -> Response {
        response.map(|body| Body::new(ServedBody { body, _serving: self }))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct ServedBody {
    body: Body,
    _serving: Serving,
}

impl hyper::body::Body for ServedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
