//! Connections.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower_service::Service;

use crate::guard::LocalAddress;
use crate::in_service::InService;
use crate::paths;
use crate::router::router;
use crate::state::AppState;

/// How long to wait before accepting again after the system could not give a connection: it is out of file
/// descriptors, and connections that end free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a connection without a request in service may stay open once the server is to end: one whose client has sent
/// half a request's head would otherwise be waited for as long as a head may take.
const LAST_IDLE: Duration = Duration::from_millis(250);

/// Serves connections to `listener` until `shutdown` is ready. Then no connection is accepted any more, idle ones are
/// closed, and running answers may come to their end within the configured grace; what still runs after that is
/// cancelled, and its stream breaks off. The engine is left running.
pub async fn serve(state: AppState, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let router = router(state.clone());
    let limits = &state.config().limits;
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(limits.head_bytes.max(8192))
        .max_headers(limits.headers);
    let mut shutdown = std::pin::pin!(shutdown);
    let (ending, ended) = watch::channel(false);
    loop {
        let accepting = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = match futures_util::future::select(shutdown.as_mut(), std::pin::pin!(accepting)).await {
            futures_util::future::Either::Left(_) => break,
            futures_util::future::Either::Right((accepted, _)) => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Deltas are small and should leave at once.
        let _ = stream.set_nodelay(true);
        let address = stream.local_addr().ok().map(LocalAddress);
        let router = router.clone();
        let in_service = InService::default();
        let counted = in_service.clone();
        let service = service_fn(move |request| {
            let serving = counted.begin();
            let answered = answer(router.clone(), request, address);
            async { answered.await.map(|response| serving.until_sent(response)) }
        });
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        let idle = idle_at_the_end(ended.clone(), in_service);
        tokio::spawn(async move {
            let _place = place;
            // A client that breaks off is nothing to report.
            let _ = futures_util::future::select(std::pin::pin!(connection), std::pin::pin!(idle)).await;
        });
    }
    drop(listener);
    // Nobody listens if no connection is open.
    let _ = ending.send(true);
    let _ = tokio::time::timeout(state.config().shutdown_grace, connections.shutdown()).await;
}

/// Ready when the server is to end and the connection has nothing in service.
async fn idle_at_the_end(mut ended: watch::Receiver<bool>, in_service: InService) {
    let told = ended.wait_for(|ended| *ended).await.is_ok();
    if !told || in_service.any() {
        // Its request is answered; then it closes by itself.
        return std::future::pending().await;
    }
    tokio::time::sleep(LAST_IDLE).await;
    if in_service.any() {
        std::future::pending().await
    }
}

async fn answer(
    mut router: Router,
    mut request: Request<Incoming>,
    address: Option<LocalAddress>,
) -> Result<Response, Infallible> {
    paths::normalize(request.uri_mut());
    if let Some(address) = address {
        request.extensions_mut().insert(address);
    }
    // A router is always ready.
    Service::call(&mut router, request.map(Body::new)).await
}
