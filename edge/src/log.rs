//! Where log lines go: one JSON object a line, on standard output, through a bounded queue and a
//! writer of its own, so that no request waits for whoever reads them.

use std::panic::PanicHookInfo;

use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that wait for the writer, at most; those beyond are counted as lost.
const QUEUE: usize = 65_536;

/// Starts the writer and the log. The guard writes what is left when it is dropped.
pub fn start(level: &str) -> (NonBlocking, WorkerGuard) {
    let builder = NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE)
        .lossy(true)
        .thread_name("log");
    let (out, guard) = builder.finish(std::io::stdout());
    // Pingora reports clients' faults as errors of its own; edge's access log says them, once.
    let quiet = if matches!(level, "debug" | "trace") {
        ""
    } else {
        ",pingora_core=off,pingora_proxy=off,pingora_cache=off"
    };
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(EnvFilter::new(format!("{level}{quiet}")))
        .with_writer(out.clone())
        .finish();
    // In a test another one may be there already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    std::panic::set_hook(Box::new(panicked));
    (out, guard)
}

/// A panic ends one connection's task, not edge; it must not pass in silence.
fn panicked(panic: &PanicHookInfo<'_>) {
    let place = panic
        .location()
        .map(ToString::to_string)
        .unwrap_or_default();
    tracing::error!(
        place,
        message = panic.payload_as_str().unwrap_or_default(),
        "panicked"
    );
}
