//! The plot: for each promise its times second by second, and below them how many there were.

use crate::measured::Measured;
use crate::quantile::Quantiles;
use crate::series::{Series, Shown};
use crate::svg::{Point, Svg};
use crate::table::{beside, offered};
use crate::verdict::Timed;

const WIDTH: f64 = 960.0;
/// Where the charts begin and end from left to right.
const LEFT: f64 = 72.0;
const RIGHT: f64 = 836.0;
/// From above: the head, then for each panel its title, times, and numbers.
const HEAD: f64 = 88.0;
const TITLE: f64 = 38.0;
const TIMES: f64 = 150.0;
const BETWEEN: f64 = 12.0;
const NUMBERS: f64 = 48.0;
const AXIS: f64 = 40.0;
const PANEL: f64 = TITLE + TIMES + BETWEEN + NUMBERS + AXIS;
/// A line of the foot.
const LINE: f64 = 18.0;

/// Colors for light pages, and for dark ones where the page says that it is one.
const STYLE: &str = "
text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif;\
fill:#57606a;font-variant-numeric:tabular-nums}
.page{fill:#fff}.end{text-anchor:end}.middle{text-anchor:middle}
.head{font-size:19px;font-weight:600;fill:#1f2328}.title{font-size:14px;font-weight:600;fill:#1f2328}
.verdict{font-size:13px;font-weight:700;text-anchor:middle;fill:#fff}
.pass{fill:#1a7f37}.fail{fill:#cf222e}
.grid{stroke:#d8dee4;stroke-width:1}.axis{stroke:#8c959f;stroke-width:1}
.p50,.p95,.p99,.bound,.full,.offered{fill:none;stroke-linejoin:round;stroke-linecap:round}
.p50{stroke:#54aeff;stroke-width:1.5}.p95{stroke:#0550ae;stroke-width:2.5}
.p99{stroke:#8250df;stroke-width:1.5}
.k50{fill:#54aeff}.k95{fill:#0550ae}.k99{fill:#8250df}
.band{fill:#54aeff;fill-opacity:.13}
.bound{stroke:#cf222e;stroke-width:1.5;stroke-dasharray:6 4}.limit{fill:#cf222e}
.over,.failed{fill:#cf222e}.limited{fill:#d4a72c}.done{fill:#8c959f;fill-opacity:.75}
.full,.offered{stroke:#8c959f;stroke-dasharray:2 4}
@media (prefers-color-scheme:dark){
text{fill:#9198a1}.page{fill:#0d1117}.head,.title{fill:#f0f6fc}
.pass{fill:#238636}.fail{fill:#da3633}
.grid{stroke:#262c36}.axis{stroke:#6e7681}
.p50{stroke:#388bfd}.p95{stroke:#a5d6ff}.p99{stroke:#bc8cff}
.k50{fill:#388bfd}.k95{fill:#a5d6ff}.k99{fill:#bc8cff}
.band{fill:#388bfd;fill-opacity:.16}.bound{stroke:#ff7b72}.limit{fill:#ff7b72}
.over,.failed{fill:#ff7b72}.limited{fill:#bb8009}.done{fill:#6e7681;fill-opacity:.8}.full,.offered{stroke:#6e7681}
}
";

/// One promise, as it is drawn.
struct Panel<'a> {
    timed: &'a Timed,
    seconds: Vec<Shown>,
    /// What the bars count, and how many there are in each second.
    unit: &'static str,
    bars: Vec<Bar>,
    offered: f64,
}

/// How many came, were limited, and failed, one upon the other.
type Bar = [f64; 3];

/// What their parts are called in the style.
const PARTS: [&str; 3] = ["done", "limited", "failed"];

/// Draws it.
pub fn plot(measured: &Measured) -> String {
    let panels = panels(measured);
    let foot = beside(measured);
    let height = HEAD + PANEL * number(panels.len()) + LINE * number(foot.len()) + 16.0;
    let kept = measured.verdict.kept();
    let promises = if kept {
        "every promise is kept"
    } else {
        "a promise is broken"
    };
    let title = format!("Load on {}: {promises}", measured.place);
    let mut svg = Svg::new((WIDTH, height), &title, STYLE);
    svg.rect("page", (0.0, 0.0), (WIDTH, height));
    head(&mut svg, measured, kept);
    let scale = Scale::of(measured, &panels);
    let mut top = HEAD;
    for panel in &panels {
        panel.draw(&mut svg, &scale, top);
        top += PANEL;
    }
    for line in foot {
        svg.text("foot", (LEFT, top + 4.0), &line);
        top += LINE;
    }
    svg.done()
}

fn head(svg: &mut Svg, measured: &Measured, kept: bool) {
    svg.text("head", (LEFT, 38.0), &format!("Load on {}", measured.place));
    let errors: u64 = measured.verdict.errors.values().sum();
    let limited: u64 = measured.verdict.limited.values().sum();
    let mut line = format!("{} · {errors} errors", offered(measured));
    if limited > 0 {
        line.push_str(&format!(" · {limited} refused by limits"));
    }
    svg.text("", (LEFT, 60.0), &line);
    let (class, word) = if kept {
        ("pass", "PASS")
    } else {
        ("fail", "FAIL")
    };
    svg.rect(class, (RIGHT - 64.0, 20.0), (64.0, 26.0));
    svg.text("verdict", (RIGHT - 32.0, 38.0), word);
}

/// One for each promise on time.
fn panels(measured: &Measured) -> Vec<Panel<'_>> {
    let offer = &measured.offer;
    let sockets = &measured.sockets;
    let mut times = measured.verdict.times.iter();
    let mut panels = Vec::new();
    let mut add = |series: &Series, unit, offered: u32, bars: Option<Vec<Bar>>| {
        let Some(timed) = times.next() else {
            return;
        };
        let seconds: Vec<_> = series.shown().collect();
        let rates = || {
            let bar = |shown: &Shown| {
                let [limited, failed] = [shown.limited, shown.failed].map(f64::from);
                [number(shown.done), limited, failed]
            };
            seconds.iter().map(bar).collect()
        };
        panels.push(Panel {
            timed,
            bars: bars.unwrap_or_else(rates),
            seconds,
            unit,
            offered: offered.into(),
        });
    };
    if offer.rate > 0 {
        add(&measured.requests.answers, "requests/s", offer.rate, None);
    }
    if offer.sockets > 0 {
        let total = offer.total().as_secs();
        let at = |second| std::time::Duration::from_millis(second * 1_000 + 999);
        let open = (0..total).map(|second| [number(sockets.open_at(at(second))), 0.0, 0.0]);
        add(
            &sockets.upgrades,
            "open",
            offer.sockets,
            Some(open.collect()),
        );
    }
    if offer.sockets > 0 && offer.messages > 0 {
        add(&sockets.echoes, "messages/s", offer.messages, None);
    }
    panels
}

/// Where a second and a time stand: seconds evenly, times by their logarithm, as one of 1 ms and one
/// of 1 s must both be read.
struct Scale {
    seconds: f64,
    full: f64,
    /// The power of ten below all times, and the logarithm of a little more than the longest.
    span: (i32, f64),
}

impl Scale {
    fn of(measured: &Measured, panels: &[Panel<'_>]) -> Self {
        let times = panels.iter().flat_map(|panel| &panel.seconds);
        let times = times.filter_map(|shown| shown.times);
        let (mut least, mut most) = (1.0_f64, 10.0_f64);
        for times in times {
            (least, most) = (least.min(times.p50), most.max(times.p99));
        }
        for panel in panels {
            most = most.max(panel.timed.below);
        }
        Self {
            seconds: measured.offer.total().as_secs_f64().max(1.0),
            full: measured.offer.opening().as_secs_f64(),
            span: span(least, most),
        }
    }

    fn x(&self, second: f64) -> f64 {
        LEFT + (RIGHT - LEFT) * second / self.seconds
    }

    /// How far below the top of the times' chart.
    fn y(&self, millis: f64) -> f64 {
        let (low, high) = (f64::from(self.span.0), self.span.1);
        let share = (millis.max(f64::MIN_POSITIVE).log10() - low) / (high - low);
        TIMES * (1.0 - share.clamp(0.0, 1.0))
    }
}

impl Panel<'_> {
    fn draw(&self, svg: &mut Svg, scale: &Scale, top: f64) {
        svg.text("title", (LEFT, top + 14.0), &self.timed.name);
        self.legend(svg, top + 14.0);
        self.times(svg, scale, top + TITLE);
        self.numbers(svg, scale, top + TITLE + TIMES + BETWEEN);
    }

    /// The percentiles over all of it, each with its line's color.
    fn legend(&self, svg: &mut Svg, y: f64) {
        let Some(times) = self.timed.times else {
            return svg.text("limit end", (RIGHT, y), "nothing came");
        };
        let mut x = RIGHT - 408.0;
        for (key, name, time) in [
            ("k50", "p50", times.p50),
            ("k95", "p95", times.p95),
            ("k99", "p99", times.p99),
        ] {
            svg.rect(key, (x - 18.0, y - 6.0), (12.0, 4.0));
            svg.text("", (x, y), &format!("{name} {} ms", short(time)));
            x += 112.0;
        }
        let max = format!("max {} ms", short(times.max));
        svg.text("end", (RIGHT, y), &max);
    }

    fn times(&self, svg: &mut Svg, scale: &Scale, top: f64) {
        for decade in scale.span.0.. {
            let millis = 10_f64.powi(decade);
            if millis.log10() > scale.span.1 {
                break;
            }
            let y = top + scale.y(millis);
            svg.line("grid", (LEFT, y), (RIGHT, y));
            svg.text("end", (LEFT - 8.0, y + 4.0), &format!("{millis} ms"));
        }
        if scale.full > 0.0 {
            let x = scale.x(scale.full);
            let bottom = top + TIMES + BETWEEN + NUMBERS;
            svg.line("full", (x, top), (x, bottom));
            svg.text("", (x - 4.0, top - 5.0), "full load");
        }
        let at = |shown: &Shown, millis| (middle(scale, shown), top + scale.y(millis));
        for run in runs(&self.seconds) {
            let line = |of: fn(&Quantiles<f64>) -> f64| -> Vec<Point> {
                run.iter()
                    .map(|(shown, times)| at(shown, of(times)))
                    .collect()
            };
            let (p50, p95, p99) = (line(|t| t.p50), line(|t| t.p95), line(|t| t.p99));
            let band: Vec<_> = p99.iter().chain(p50.iter().rev()).copied().collect();
            svg.path("band", &band, true);
            for (class, key, points) in [
                ("p99", "k99", &p99),
                ("p50", "k50", &p50),
                ("p95", "k95", &p95),
            ] {
                match points.as_slice() {
                    [alone] => svg.dot(key, *alone, 2.5),
                    points => svg.path(class, points, false),
                }
            }
            for (shown, times) in &run {
                if times.p95 >= self.timed.below {
                    svg.dot("over", at(shown, times.p95), 3.5);
                }
            }
        }
        let bound = top + scale.y(self.timed.below);
        svg.line("bound", (LEFT, bound), (RIGHT, bound));
        let text = format!("p95 < {} ms", self.timed.below);
        svg.text("limit", (RIGHT + 8.0, bound + 4.0), &text);
    }

    fn numbers(&self, svg: &mut Svg, scale: &Scale, top: f64) {
        let most = self.bars.iter().map(|bar| bar.iter().sum());
        let most = most.fold(self.offered, f64::max).max(1.0);
        let bottom = top + NUMBERS;
        let tall = |value: f64| NUMBERS * value / most;
        let wide = (RIGHT - LEFT) / scale.seconds;
        let gap = if wide > 4.0 { 1.0 } else { 0.0 };
        for (second, bar) in self.bars.iter().enumerate() {
            let x = scale.x(number(second)) + gap / 2.0;
            let mut y = bottom;
            for (class, value) in PARTS.into_iter().zip(*bar) {
                if value > 0.0 {
                    y -= tall(value);
                    svg.rect(class, (x, y), (wide - gap, tall(value)));
                }
            }
        }
        let offered = bottom - tall(self.offered);
        svg.line("offered", (LEFT, offered), (RIGHT, offered));
        svg.text(
            "",
            (RIGHT + 8.0, offered + 4.0),
            &format!("{} {}", self.offered, self.unit),
        );
        svg.text("end", (LEFT - 8.0, bottom + 4.0), "0");
        svg.line("axis", (LEFT, bottom), (RIGHT, bottom));
        let step = step(scale.seconds);
        let mut second = 0.0;
        while second <= scale.seconds {
            let x = scale.x(second);
            svg.line("axis", (x, bottom), (x, bottom + 4.0));
            let label = format!("{second} s");
            svg.text("middle", (x, bottom + 17.0), &label);
            second += step;
        }
    }
}

/// Seconds in which something came, as long as they follow each other.
fn runs(seconds: &[Shown]) -> Vec<Vec<(Shown, Quantiles<f64>)>> {
    let runs = seconds.split(|shown| shown.times.is_none());
    let runs = runs.filter(|run| !run.is_empty());
    let timed = |shown: &Shown| Some((*shown, shown.times?));
    runs.map(|run| run.iter().filter_map(timed).collect())
        .collect()
}

fn middle(scale: &Scale, shown: &Shown) -> f64 {
    scale.x(number(shown.second) + 0.5)
}

/// The power of ten below, and the logarithm of a fifth more than the longest.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the logarithm of a time is small"
)]
fn span(least: f64, most: f64) -> (i32, f64) {
    let low = least.max(0.01).log10().floor() as i32;
    (low, (most * 1.2).log10().max(f64::from(low) + 1.0))
}

/// So many seconds from one label to the next that there are twelve at the most.
fn step(seconds: f64) -> f64 {
    let steps = [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
    let fits = |step: &f64| seconds / step <= 12.0;
    steps.into_iter().find(fits).unwrap_or(600.0)
}

/// Three digits at least.
fn short(millis: f64) -> String {
    match millis {
        0.0..10.0 => format!("{millis:.2}"),
        10.0..100.0 => format!("{millis:.1}"),
        _ => format!("{millis:.0}"),
    }
}

fn number(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offer::Offer;
    use crate::requests::Requests;
    use crate::sockets::Sockets;
    use crate::verdict::Verdict;
    use std::time::Duration;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Three requests in the first second, none in the next, one slow one in the third.
    fn measured(messages: u32) -> Measured {
        let offer = Offer {
            rate: 3,
            connections: 1,
            sockets: 2,
            upgrades: 2,
            messages,
            size: 10,
            seconds: 2,
        };
        let (mut requests, mut sockets) = (Requests::default(), Sockets::default());
        for (due, took) in [(0, 1), (333, 2), (666, 3), (2_100, 400)] {
            requests.answers.note(ms(due), ms(took));
        }
        for (due, word) in [(1_500, "answer: <closed>"), (1_833, "429 client_limit")] {
            requests.answers.lose(ms(due), word.to_owned());
        }
        sockets.upgrades.note(ms(0), ms(9));
        Measured {
            place: "http://a.example/?<b>&\"c\"".to_owned(),
            verdict: Verdict::of(&offer, "/health", &requests, &sockets),
            offer,
            requests,
            sockets,
            late: Series::default(),
            costs: Vec::new(),
            busy: None,
        }
    }

    fn count(plot: &str, class: &str) -> usize {
        let read = roxmltree::Document::parse(plot).unwrap();
        let of = |node: &roxmltree::Node| node.attribute("class") == Some(class);
        read.descendants().filter(of).count()
    }

    #[test]
    fn the_plot_is_well_formed_and_has_a_panel_for_each_promise() {
        assert_eq!(count(&plot(&measured(10)), "title"), 3);
        assert_eq!(count(&plot(&measured(0)), "title"), 2);
    }

    #[test]
    fn nothing_is_drawn_where_nothing_came() {
        let plot = plot(&measured(0));
        // Two seconds of requests that are no neighbours and one of upgrades: no line, but dots.
        assert_eq!((count(&plot, "p95"), count(&plot, "k95")), (0, 2 + 3));
    }

    #[test]
    fn what_breaks_a_promise_is_red_and_a_limit_is_not() {
        let plot = plot(&measured(0));
        let counts = ["over", "failed", "limited"].map(|class| count(&plot, class));
        assert_eq!(counts, [1, 1, 1]);
        assert!(plot.contains(">FAIL<"));
    }

    #[test]
    fn all_of_it_is_inside() {
        let plot = plot(&measured(10));
        let read = roxmltree::Document::parse(&plot).unwrap();
        let attribute = |node: &roxmltree::Node, name| node.attribute(name)?.parse::<f64>().ok();
        let height = attribute(&read.root_element(), "height").unwrap();
        for node in read.descendants() {
            for (at, long, most) in [("x", "width", WIDTH), ("y", "height", height)] {
                let Some(begin) = attribute(&node, at) else {
                    continue;
                };
                let end = begin + attribute(&node, long).unwrap_or(0.0);
                assert!(begin >= 0.0 && end <= most, "{node:?}");
            }
        }
    }

    #[test]
    fn the_longest_time_has_room_above_and_the_shortest_below() {
        assert_eq!(span(0.8, 100.0), (-1, 120_f64.log10()));
        assert_eq!(span(0.0, 0.01), (-2, -1.0));
        let scale = |millis| {
            let scale = Scale {
                seconds: 1.0,
                full: 0.0,
                span: span(0.8, 100.0),
            };
            scale.y(millis)
        };
        assert!(scale(100.0) > 0.0 && scale(0.8) < TIMES);
        assert_eq!((scale(0.0), scale(1e9)), (TIMES, 0.0));
    }

    #[test]
    fn labels_do_not_crowd() {
        for (seconds, label) in [
            (1.0, 1.0),
            (12.0, 1.0),
            (36.0, 5.0),
            (606.0, 60.0),
            (3_600.0, 300.0),
        ] {
            assert_eq!(step(seconds), label, "{seconds}");
        }
    }
}
