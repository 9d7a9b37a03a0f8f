//! `[cache]` and a route's `cache`.

mod words;

use std::ops::Range;
use std::time::Duration;

use http::header::HeaderName;
use http::{Method, StatusCode};
use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Percentage, Read, Report, Size, Switch, Table};
use crate::cache::{KeyPart, MOST_VARY, Policy};
use words::{Ignored, read_status};

/// `[cache]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cache {
    /// The store's bound in bytes, its own overhead included.
    pub memory: u64,
    /// The largest answer kept, in bytes.
    pub object: u64,
}

/// The largest answer that the store keeps, and the number of the table that says so.
#[derive(Clone, Copy)]
pub(super) struct Bound {
    object: u64,
    table: usize,
}

/// More parts than this in one key are a fault: each costs every request a look.
const MOST_PARTS: usize = 16;
/// More parameters than this to ignore are a fault, for the same reason.
const MOST_IGNORED: usize = 64;

type Places<T> = Vec<(T, Range<usize>)>;

pub(super) fn read_cache(mut table: Table<'_, '_>, report: &mut Report<'_>) -> (Cache, Bound) {
    let memory = table
        .get::<Size>("memory", report)
        .map_or(64 << 20, |Size(bytes)| bytes);
    let object = table.placed::<Size>("object", report);
    if let Some((Size(object), span)) = &object
        && *object > memory
    {
        report.fault(
            span,
            "the largest answer kept is larger than the store",
            "expected at most `memory`",
        );
    }
    let object = object.map_or(memory.min(1 << 20), |(Size(object), _)| object);
    let bound = Bound {
        object,
        table: table.number(),
    };
    table.finish(report);
    (Cache { memory, object }, bound)
}

/// `cache = "1h"`, `cache = "off"`, or a table.
pub(super) fn read_policy(
    value: &Spanned<DeValue<'_>>,
    bound: Bound,
    report: &mut Report<'_>,
) -> Option<Policy> {
    if value.get_ref().is_table() {
        let table = Table::of("a route's cache", Some(value), report);
        return Some(read_keys(table, bound, report));
    }
    let ttl = Switch::<Duration>::read(value, report)?.on()?;
    Some(Policy::new(Some(ttl)))
}

/// A cache for methods that its route does not take keeps nothing.
pub(super) fn check_methods(
    policy: &Policy,
    methods: &[Method],
    span: &Range<usize>,
    report: &mut Report<'_>,
) {
    // A route that takes GET takes HEAD along.
    let taken = |method: &Method| {
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    };
    if methods.is_empty() || policy.methods.is_empty() || policy.methods.iter().any(taken) {
        return;
    }
    let message = match policy.methods.as_slice() {
        [one] => format!("only answers to {one} are cached, which the route does not take"),
        _ => "only answers to GET and HEAD are cached, and the route takes neither".to_owned(),
    };
    report.fault(span, message, "add \"GET\" to `methods`");
}

fn read_keys(mut table: Table<'_, '_>, bound: Bound, report: &mut Report<'_>) -> Policy {
    let default = Policy::new(None);
    let times = read_times(&mut table, report);
    let methods = read_methods(&mut table, report);
    let statuses = read_statuses(&mut table, &times, report);
    let negative = read_negative(&mut table, statuses.as_deref(), report);
    let vary = members::<HeaderName>(&mut table, "vary", MOST_VARY, report);
    let key = read_key(&mut table, report).unwrap_or(default.key);
    let ignore_query = read_ignored(&mut table, &key, report);
    let off = Switch::Off;
    let on_error = table.placed::<Switch<Duration>>("stale_if_error", report);
    let on_error = on_error.map(|(on_error, _)| on_error.on());
    let policy = Policy {
        ttl: times.ttl.and_then(Switch::on),
        overrides: times.overrides,
        ttl_min: times.ttl_min,
        heuristic: times.heuristic,
        methods: methods.unwrap_or(default.methods),
        statuses: statuses.unwrap_or(default.statuses),
        negative,
        vary: vary.map(|(vary, _)| plain(vary)).unwrap_or_default(),
        key,
        ignore_query,
        private_by: table.or("private_by", default.private_by, report),
        stale_while_revalidate: table.or("stale_while_revalidate", off, report).on(),
        stale_if_error: on_error.flatten(),
        stale_if_unreachable: on_error.unwrap_or(default.stale_if_unreachable),
        max_object: read_max_object(&mut table, bound, report),
    };
    table.finish(report);
    policy
}

/// What a route's own times are; a `ttl` of `None` is one that could not be read.
struct Times {
    ttl: Option<Switch<Duration>>,
    overrides: bool,
    ttl_min: Option<Duration>,
    heuristic: Option<u8>,
}

fn read_times(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Times {
    let right = "as `cache = { ttl = \"1h\" }`, or \"off\" to keep only what says how long";
    let ttl = table.require::<Switch<Duration>>("ttl", right, report);
    let ttl = ttl.map(|(ttl, _)| ttl);
    let overrides = table.placed::<bool>("override", report);
    let overrides = overrides.filter(|(overrides, _)| *overrides);
    let ttl_min = table.placed::<Duration>("ttl_min", report);
    let heuristic = table.placed::<Percentage>("heuristic", report);
    if let (Some(Switch::Off), Some((_, span))) = (ttl, &overrides) {
        report.fault(
            span,
            "there is no `ttl` to hold in place of the upstream's time",
            "set `ttl`, or leave `override` out",
        );
    }
    if let (Some(Switch::On(_)), Some((_, span))) = (ttl, &heuristic) {
        report.fault(
            span,
            "`ttl` answers first: a heuristic beside it does nothing",
            "set `ttl = \"off\"`, or leave `heuristic` out",
        );
    }
    Times {
        ttl,
        overrides: overrides.is_some(),
        ttl_min: ttl_min.map(|(ttl_min, _)| ttl_min),
        heuristic: heuristic.map(|(Percentage(part), _)| part),
    }
}

fn read_methods(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Vec<Method>> {
    let (methods, span) = members::<Method>(table, "methods", usize::MAX, report)?;
    if methods.is_empty() {
        report.fault(
            &span,
            "no method: nothing would be cached",
            "name one, or write `cache = \"off\"`",
        );
    }
    let (cached, others): (Places<_>, Places<_>) = methods
        .into_iter()
        .partition(|(method, _)| matches!(*method, Method::GET | Method::HEAD));
    for (_, span) in others {
        report.fault(
            &span,
            "only answers to GET and HEAD are cached",
            "expected \"GET\", \"HEAD\" or both",
        );
    }
    Some(plain(cached))
}

/// `None` where the file says none of its own.
fn read_statuses(
    table: &mut Table<'_, '_>,
    times: &Times,
    report: &mut Report<'_>,
) -> Option<Vec<StatusCode>> {
    let (statuses, span) = members::<StatusCode>(table, "statuses", usize::MAX, report)?;
    if statuses.is_empty() {
        report.fault(
            &span,
            "no status: neither `ttl` nor `heuristic` would hold for any answer",
            "expected one at least",
        );
    }
    if let (Some(Switch::Off), None) = (times.ttl, times.heuristic) {
        table.lacks(
            "heuristic",
            &span,
            "without `ttl` and `heuristic` their statuses do nothing",
            "set one of them, or leave `statuses` out",
            report,
        );
    }
    Some(plain(statuses))
}

/// `negative = { "404" = "10s" }`. A status that the file's own `statuses` names is said twice;
/// the default ones just give way.
fn read_negative(
    table: &mut Table<'_, '_>,
    statuses: Option<&[StatusCode]>,
    report: &mut Report<'_>,
) -> Vec<(StatusCode, Duration)> {
    let Some(value) = table.value("negative", report) else {
        return Vec::new();
    };
    let Some(own) = value.get_ref().as_table() else {
        let found = value.get_ref().type_str();
        report.fault(
            &value.span(),
            format!("expected a table of statuses, found {found}"),
            "as `negative = { \"404\" = \"10s\" }`",
        );
        return Vec::new();
    };
    let mut negative = Vec::new();
    for (key, value) in own {
        let ttl = Duration::read(value, report);
        let Some(status) = read_status(key.get_ref(), &key.span(), report) else {
            continue;
        };
        if statuses.is_some_and(|statuses| statuses.contains(&status)) {
            let message = format!("said twice: {} stands in `statuses` too", status.as_str());
            report.fault(&key.span(), message, "leave one of them out");
        }
        negative.extend(ttl.map(|ttl| (status, ttl)));
    }
    negative
}

fn read_key(table: &mut Table<'_, '_>, report: &mut Report<'_>) -> Option<Vec<KeyPart>> {
    let (parts, span) = members::<KeyPart>(table, "key", MOST_PARTS, report)?;
    let has = |part: &KeyPart| parts.iter().any(|(own, _)| own == part);
    if !has(&KeyPart::Path) {
        report.fault(
            &span,
            "without \"path\" all paths of the route share one answer",
            "add \"path\"",
        );
    }
    for (part, span) in &parts {
        if matches!(part, KeyPart::QueryName(_)) && has(&KeyPart::Query) {
            report.fault(
                span,
                "\"query\" is the whole query, this parameter included",
                "leave one of them out",
            );
        }
    }
    Some(plain(parts))
}

fn read_ignored(
    table: &mut Table<'_, '_>,
    key: &[KeyPart],
    report: &mut Report<'_>,
) -> Vec<String> {
    let Some((ignored, span)) = members::<Ignored>(table, "ignore_query", MOST_IGNORED, report)
    else {
        return Vec::new();
    };
    if !key.contains(&KeyPart::Query) {
        report.fault(
            &span,
            "the whole query is not in `key`: there is nothing to ignore",
            "add \"query\" to `key`, or leave `ignore_query` out",
        );
    }
    ignored.into_iter().map(|(Ignored(name), _)| name).collect()
}

fn read_max_object(
    table: &mut Table<'_, '_>,
    bound: Bound,
    report: &mut Report<'_>,
) -> Option<u64> {
    let (Size(bytes), span) = table.placed::<Size>("max_object", report)?;
    let most = bound.object;
    if bytes > most {
        report.lacks(
            (bound.table, "object"),
            &span,
            format!("`max_object` is larger than `[cache] object`, which is {most} B"),
            "lower this one, or raise `[cache] object`",
        );
    }
    Some(bytes)
}

/// A list whose members are all different, each with its place, and the place of the whole.
fn members<T: Read + PartialEq>(
    table: &mut Table<'_, '_>,
    key: &'static str,
    most: usize,
    report: &mut Report<'_>,
) -> Option<(Places<T>, Range<usize>)> {
    let (list, whole) = table.placed::<Places<T>>(key, report)?;
    if list.len() > most {
        let message = format!("{} members", list.len());
        report.fault(&whole, message, format!("expected at most {most}"));
    }
    let mut once: Places<T> = Vec::new();
    for (member, span) in list {
        if once.iter().any(|(own, _)| *own == member) {
            report.fault(&span, "this stands here twice", "leave one out");
        } else {
            once.push((member, span));
        }
    }
    Some((once, whole))
}

fn plain<T>(members: Places<T>) -> Vec<T> {
    members.into_iter().map(|(member, _)| member).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;
    use crate::cache::PrivateBy;

    const HEAD: &str =
        "[upstream.a]\npeers = [\"a:1\"]\n[[route]]\npath = \"/*\"\nupstream = \"a\"\n";

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A route with this `cache`.
    fn policy(cache: &str) -> Option<Policy> {
        let source = format!("{HEAD}cache = {cache}\n");
        let config = Config::read("", &source).unwrap_or_else(|faults| panic!("{faults}"));
        config.routes[0].cache.clone()
    }

    /// The faults of a route with this `cache`, each with its column.
    fn faults(cache: &str) -> Vec<(usize, String)> {
        let source = format!("{HEAD}cache = {cache}\n");
        let faults = Config::read("", &source).unwrap_err().list;
        faults
            .into_iter()
            .map(|fault| {
                assert_eq!(fault.line, 6, "{cache}");
                let right = !fault.help.is_empty() || fault.message.starts_with("expected");
                assert!(right, "{cache}: {}", fault.message);
                (fault.column, format!("{} ({})", fault.message, fault.help))
            })
            .collect()
    }

    #[test]
    fn a_time_alone_is_a_ttl_and_all_else_as_by_default() {
        assert_eq!(policy("\"off\""), None);
        let hour = Policy::new(Some(secs(3_600)));
        assert_eq!(policy("\"1h\""), Some(hour.clone()));
        assert_eq!(policy("{ ttl = \"1h\" }"), Some(hour));
        assert_eq!(policy("{ ttl = \"off\" }"), Some(Policy::new(None)));
    }

    #[test]
    fn each_key_is_read() {
        let read = policy(
            "{ ttl = \"1h\", override = true, ttl_min = \"1s\", methods = \"GET\", statuses = [200, 404], \
             negative = { 410 = \"1m\", \"502\" = \"1s\" }, vary = [\"Accept-Encoding\"], \
             key = [\"path\", \"query\", \"header:Accept-Language\"], \
             ignore_query = [\"utm_*\", \"fbclid\"], private_by = \"identity\", \
             stale_while_revalidate = \"30s\", stale_if_error = \"1h\", max_object = \"1KiB\" }",
        );
        let expected = Policy {
            ttl: Some(secs(3_600)),
            overrides: true,
            ttl_min: Some(secs(1)),
            heuristic: None,
            methods: vec![Method::GET],
            statuses: vec![StatusCode::OK, StatusCode::NOT_FOUND],
            negative: vec![
                (StatusCode::GONE, secs(60)),
                (StatusCode::BAD_GATEWAY, secs(1)),
            ],
            vary: vec![http::header::ACCEPT_ENCODING],
            key: vec![
                KeyPart::Path,
                KeyPart::Query,
                KeyPart::Header(http::header::ACCEPT_LANGUAGE),
            ],
            ignore_query: vec!["utm_*".to_owned(), "fbclid".to_owned()],
            private_by: PrivateBy::Identity,
            stale_while_revalidate: Some(secs(30)),
            stale_if_error: Some(secs(3_600)),
            stale_if_unreachable: Some(secs(3_600)),
            max_object: Some(1 << 10),
        };
        assert_eq!(read, Some(expected));
        let read = policy(
            "{ ttl = \"off\", heuristic = \"10%\", ttl_min = \"5s\", \
             key = [\"query:page\", \"path\"], private_by = \"off\", stale_if_error = \"off\" }",
        );
        let expected = Policy {
            heuristic: Some(10),
            ttl_min: Some(secs(5)),
            key: vec![KeyPart::QueryName("page".to_owned()), KeyPart::Path],
            stale_if_unreachable: None,
            ..Policy::new(None)
        };
        assert_eq!(read, Some(expected));
    }

    #[test]
    fn a_status_kept_by_default_may_have_a_time_of_its_own() {
        let policy = policy("{ ttl = \"1h\", negative = { \"301\" = \"1d\" } }").unwrap();
        assert!(policy.statuses.contains(&StatusCode::MOVED_PERMANENTLY));
        assert_eq!(policy.negative.len(), 1);
    }

    /// In each the fault lies where `§` stands.
    #[test]
    fn what_is_wrong_is_told_with_its_place_and_what_would_be_right() {
        for (cache, said) in [
            ("{ ttl = §\"1\" }", "expected a duration such as"),
            ("§{ vary = \"Accept\" }", "missing key `ttl` (as `cache = {"),
            ("§5", "expected a text in quotes, found integer"),
            (
                "{ ttl = \"off\", override = §true }",
                "set `ttl`, or leave `override` out",
            ),
            (
                "{ ttl = \"1h\", override = §\"yes\" }",
                "expected true or false",
            ),
            (
                "{ ttl = \"1h\", ttl_min = §\"off\" }",
                "expected a duration",
            ),
            (
                "{ ttl = \"1h\", heuristic = §\"10%\" }",
                "`ttl` answers first",
            ),
            (
                "{ ttl = \"off\", heuristic = §\"10\" }",
                "expected a percentage, as \"10%\"",
            ),
            (
                "{ ttl = \"off\", heuristic = §10 }",
                "expected a percentage, as \"10%\"",
            ),
            ("{ ttl = \"off\", heuristic = §\"0%\" }", "from 1 to 100"),
            ("{ ttl = \"off\", heuristic = §\"101%\" }", "from 1 to 100"),
            (
                "{ ttl = \"1h\", methods = [\"GET\", §\"POST\"] }",
                "only answers to GET and HEAD are cached",
            ),
            ("{ ttl = \"1h\", methods = §[] }", "no method"),
            (
                "{ ttl = \"1h\", methods = [\"GET\", §\"GET\"] }",
                "stands here twice",
            ),
            (
                "{ ttl = \"1h\", statuses = [200, §206] }",
                "expected 200 to 599, but not 206 and",
            ),
            (
                "{ ttl = \"1h\", statuses = [§304] }",
                "expected 200 to 599, but not 206 and",
            ),
            ("{ ttl = \"1h\", statuses = [§100] }", "expected 200 to 599"),
            ("{ ttl = \"1h\", statuses = §600 }", "expected 200 to 599"),
            (
                "{ ttl = \"1h\", statuses = [§\"200\"] }",
                "write it without quotes",
            ),
            (
                "{ ttl = \"1h\", statuses = [200, §200] }",
                "stands here twice",
            ),
            ("{ ttl = \"1h\", statuses = §[] }", "expected one at least"),
            (
                "{ ttl = \"off\", statuses = §[200] }",
                "their statuses do nothing",
            ),
            (
                "{ ttl = \"1h\", negative = §\"10s\" }",
                "as `negative = { \"404\" = \"10s\" }`",
            ),
            (
                "{ ttl = \"1h\", negative = { §\"206\" = \"1s\" } }",
                "expected 200 to 599",
            ),
            (
                "{ ttl = \"1h\", negative = { §\"5xx\" = \"1s\" } }",
                "`5xx` is no status",
            ),
            (
                "{ ttl = \"1h\", negative = { \"404\" = §\"10\" } }",
                "expected a duration",
            ),
            (
                "{ ttl = \"1h\", statuses = [404], negative = { §\"404\" = \"1s\" } }",
                "said twice: 404 stands in `statuses` too",
            ),
            (
                "{ ttl = \"1h\", vary = [§\"*\"] }",
                "no two requests share an answer then",
            ),
            (
                "{ ttl = \"1h\", vary = [§\"a b\"] }",
                "as \"Accept-Encoding\"",
            ),
            (
                "{ ttl = \"1h\", vary = [\"Accept\", §\"accept\"] }",
                "stands here twice",
            ),
            (
                "{ ttl = \"1h\", key = [\"path\", §\"host\"] }",
                "expected \"path\", \"query\", one parameter as \"query:page\", or one header",
            ),
            (
                "{ ttl = \"1h\", key = [\"path\", §\"query:\"] }",
                "as \"query:page\"",
            ),
            (
                "{ ttl = \"1h\", key = [\"path\", §\"query:a*\"] }",
                "as \"query:page\"",
            ),
            (
                "{ ttl = \"1h\", key = [\"path\", §\"header:a b\"] }",
                "as \"header:Accept-",
            ),
            (
                "{ ttl = \"1h\", key = [\"path\", §\"header:*\"] }",
                "as \"header:Accept-",
            ),
            (
                "{ ttl = \"1h\", key = §[\"query\"] }",
                "without \"path\" all paths of the route share one answer",
            ),
            ("{ ttl = \"1h\", key = §[] }", "add \"path\""),
            (
                "{ ttl = \"1h\", key = [\"path\", §\"query:a\", \"query\"] }",
                "\"query\" is the whole query",
            ),
            (
                "{ ttl = \"1h\", key = [\"path\", \"header:A\", §\"header:a\"] }",
                "stands here twice",
            ),
            (
                "{ ttl = \"1h\", ignore_query = [§\"*\"] }",
                "leave \"query\" out of `key`",
            ),
            (
                "{ ttl = \"1h\", ignore_query = [§\"a*b\"] }",
                "as \"utm_*\"",
            ),
            (
                "{ ttl = \"1h\", ignore_query = [§\"a&b\"] }",
                "as \"fbclid\"",
            ),
            (
                "{ ttl = \"1h\", key = \"path\", ignore_query = §\"a\" }",
                "there is nothing to ignore",
            ),
            (
                "{ ttl = \"1h\", private_by = §\"cookie\" }",
                "expected \"identity\" or \"off\"",
            ),
            (
                "{ ttl = \"1h\", private_by = §true }",
                "expected \"identity\" or \"off\"",
            ),
            (
                "{ ttl = \"1h\", stale_while_revalidate = §30 }",
                "expected a duration",
            ),
            (
                "{ ttl = \"1h\", stale_if_error = §\"0s\" }",
                "zero is no time",
            ),
            (
                "{ ttl = \"1h\", max_object = §\"2MiB\" }",
                "`max_object` is larger than `[cache] object`, which is 1048576 B",
            ),
        ] {
            let column = cache.find('§').unwrap() + "cache = ".len() + 1;
            let told = faults(&cache.replace('§', ""));
            assert_eq!(told.len(), 1, "{cache}: {told:?}");
            assert_eq!(told[0].0, column, "{cache}: {told:?}");
            assert!(told[0].1.contains(said), "{cache}: {told:?}");
        }
    }

    #[test]
    fn all_faults_of_a_cache_are_told_at_once() {
        let told = faults(
            "{ override = 1, statuses = [100, 206], negative = { \"1\" = \"x\" }, \
             key = [\"a\", \"b\"], max_object = \"2MiB\", ttl = \"0s\" }",
        );
        assert_eq!(told.len(), 9, "{told:#?}");
    }

    #[test]
    fn a_list_without_end_is_a_fault() {
        for (key, word, most) in [("vary", "X-", 16), ("ignore_query", "q", 64)] {
            let list = |many: usize| {
                let words: Vec<_> = (0..many).map(|number| format!("{word}{number}")).collect();
                format!("{{ ttl = \"1h\", {key} = {words:?} }}")
            };
            assert!(policy(&list(most)).is_some());
            let told = faults(&list(most + 1));
            assert!(told[0].1.contains(&format!("at most {most}")), "{told:?}");
        }
    }

    #[test]
    fn an_answer_as_large_as_the_store_takes_may_be_kept() {
        assert!(policy("{ ttl = \"1h\", max_object = \"1MiB\" }").is_some());
        // `[cache] object` misspelt is one fault, not one more on every route.
        let source = format!(
            "[cache]\nobjects = \"4MiB\"\n{HEAD}cache = {{ ttl = \"1h\", max_object = \"2MiB\" }}\n"
        );
        let told = Config::read("", &source).unwrap_err().list;
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(Config::read("", &source.replace("objects", "object")).is_ok());
    }

    #[test]
    fn the_whole_policy_is_told() {
        let source = format!(
            "{HEAD}cache = {{ ttl = \"off\", heuristic = \"10%\", negative = {{ 404 = \"10s\" }}, \
             key = [\"path\", \"query:page\"], vary = \"Accept\", private_by = \"identity\", \
             stale_if_error = \"1h\" }}\n"
        );
        let told = Config::read("", &source).unwrap().to_string();
        let expected = "  \
  cache      ttl off, override false, ttl_min off, heuristic 10%
             methods GET HEAD, statuses 200 203 204 300 301 308
             negative 404 10s
             key path query:page, ignore_query none, vary accept
             private_by identity, max_object 1048576 B
             stale_while_revalidate off, stale_if_error 1h, unreachable 1h
";
        assert!(told.contains(expected.trim_start()), "{told}");
    }
}
