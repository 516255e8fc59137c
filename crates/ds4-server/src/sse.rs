//! Server-sent events.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use serde_json::Value;

use crate::generation::{GenerationEvent, GenerationStream};

/// Writes the events of a generation in one API's form.
pub trait StreamFormat: Send + 'static {
    /// What is sent at once, before anything is computed.
    fn open(&mut self, frames: &mut Frames);

    /// What an event becomes, if anything. After [`GenerationEvent::Finished`] the stream ends; after
    /// [`GenerationEvent::Failed`] it breaks off, so the frame of the error must come here.
    fn event(&mut self, event: GenerationEvent, frames: &mut Frames);
}

/// Frames that are ready to be sent.
#[derive(Debug, Default)]
pub struct Frames(BytesMut);

impl Frames {
    /// A frame without a name.
    pub fn data(&mut self, data: &Value) {
        self.0.extend_from_slice(b"data: ");
        self.json(data);
    }

    /// A frame named `event`.
    pub fn event(&mut self, event: &str, data: &Value) {
        self.0.extend_from_slice(b"event: ");
        self.0.extend_from_slice(event.as_bytes());
        self.0.extend_from_slice(b"\ndata: ");
        self.json(data);
    }

    /// The end mark of OpenAI's older APIs.
    pub fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    /// JSON text has no line feeds of its own: inside strings they are escaped.
    fn json(&mut self, data: &Value) {
        self.0.extend_from_slice(data.to_string().as_bytes());
        self.0.extend_from_slice(b"\n\n");
    }

    /// Takes them out.
    pub(crate) fn take(&mut self) -> Bytes {
        self.0.split().freeze()
    }
}

/// How long the frame of an error has to get out before the connection is cut.
const BEFORE_CUT: Duration = Duration::from_millis(50);

/// A stream that broke off. The connection is cut then: several clients take a half answer with a clean end for a
/// whole one.
#[derive(Debug, thiserror::Error)]
#[error("the answer broke off")]
struct BrokenOff;

enum Step<F> {
    Open(GenerationStream, F),
    Run(GenerationStream, F),
    Cut,
    End,
}

/// The response that tells a generation's events in `format`. Its headers and first frames are sent at once. When the
/// client is gone, the generation is cancelled.
pub fn respond(generation: GenerationStream, format: impl StreamFormat) -> Response {
    let body = stream::unfold(Step::Open(generation, format), |step| async move {
        match step {
            Step::Open(generation, mut format) => {
                let mut frames = Frames::default();
                format.open(&mut frames);
                Some((Ok(frames.take()), Step::Run(generation, format)))
            }
            Step::Run(mut generation, mut format) => loop {
                let mut frames = Frames::default();
                let event = generation.next().await?;
                let is_finish = matches!(event, GenerationEvent::Finished(_));
                let is_failure = matches!(event, GenerationEvent::Failed(_));
                format.event(event, &mut frames);
                let frames = frames.take();
                if is_finish {
                    return Some((Ok(frames), Step::End));
                }
                if is_failure {
                    return Some((Ok(frames), Step::Cut));
                }
                if !frames.is_empty() {
                    return Some((Ok(frames), Step::Run(generation, format)));
                }
            },
            Step::Cut => {
                tokio::time::sleep(BEFORE_CUT).await;
                Some((Err(BrokenOff), Step::End))
            }
            Step::End => None,
        }
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(body)).into_response()
}
