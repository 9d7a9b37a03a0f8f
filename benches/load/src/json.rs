//! The same as one JSON object, and second by second.

use serde_json::{Value, json};

use crate::measured::Measured;
use crate::quantile::Quantiles;
use crate::series::{Series, Shown};
use crate::verdict::{Number, Timed};

/// All of it; times in milliseconds.
pub fn json(measured: &Measured) -> Value {
    let verdict = &measured.verdict;
    let offer = &measured.offer;
    json!({
        "place": measured.place,
        "kept": verdict.kept(),
        "offered": {
            "requests_per_second": offer.rate,
            "connections": offer.connections,
            "websockets": offer.sockets,
            "upgrades_per_second": offer.upgrades,
            "messages_per_second": offer.messages,
            "message_bytes": offer.size,
            "seconds": offer.seconds,
        },
        "times": verdict.times.iter().map(timed).collect::<Value>(),
        "numbers": verdict.numbers.iter().map(number).collect::<Value>(),
        "errors": verdict.errors,
        "limited": verdict.limited,
        "itself_late": measured.late.quantiles().map(times),
        "found_all_connections_busy": measured.requests.queued,
        "processes": measured.costs.iter().map(|cost| json!({
            "name": cost.name, "millicores": cost.millicores, "mebibytes": cost.memory,
        })).collect::<Value>(),
        "machine": measured.busy.map(|busy| json!({
            "load_before": busy.load.0, "load_after": busy.load.1, "cores": busy.cores,
        })),
        "requests": seconds(&measured.requests.answers),
        "upgrades": seconds(&measured.sockets.upgrades),
        "messages": seconds(&measured.sockets.echoes),
        "itself": seconds(&measured.late),
    })
}

fn timed(timed: &Timed) -> Value {
    json!({
        "name": timed.name,
        "times": timed.times.map(times),
        "p95_below": timed.below,
        "kept": timed.kept(),
    })
}

fn number(number: &Number) -> Value {
    json!({
        "name": number.name,
        "offered": number.offered,
        "achieved": number.achieved,
        "at_least": number.least,
        "kept": number.kept(),
    })
}

fn seconds(series: &Series) -> Value {
    let second = |shown: Shown| {
        json!({
            "second": shown.second,
            "done": shown.done,
            "failed": shown.failed,
            "limited": shown.limited,
            "times": shown.times.map(times),
        })
    };
    series.shown().map(second).collect()
}

fn times(times: Quantiles<f64>) -> Value {
    json!({ "p50": times.p50, "p95": times.p95, "p99": times.p99, "max": times.max })
}
