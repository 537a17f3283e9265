//! The picture of a run, as SVG: what was answered, how fast, and which faults there were at the time.

pub(super) mod series;

use std::fmt::Write as _;

use super::check::Case;
use series::Series;

/// The whole picture.
const WIDTH: f64 = 1_280.0;
/// Room for names on the left, and none to speak of on the right.
const LEFT: f64 = 170.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 76.0;
/// Height of a panel, and of a kind of fault.
const PANEL: f64 = 200.0;
const LANE: f64 = 18.0;
const GAP: f64 = 46.0;
/// Latencies are drawn from 1 ms to 100 s, each decade as high as the next.
const DECADES: f64 = 5.0;
/// The narrowest bar that is seen.
const NARROWEST: f64 = 2.0;

/// Colours that are told apart by people who see few, on white.
const ANSWERS: &str = "#0072b2";
const DUE: &str = "#b0b7bd";
const MEDIAN: &str = "#009e73";
const SLOWEST: &str = "#d55e00";
const FAULT: &str = "#7b5ea7";
const UNHEALED: &str = "#c00000";
const INK: &str = "#222222";
const GRID: &str = "#e4e7ea";
const SHADE: &str = "#7b5ea7";

/// Draws a run under a title of one or two lines.
pub fn svg(case: &Case<'_>, title: &str) -> String {
    Picture::new(Series::of(case)).draw(title)
}

struct Picture {
    series: Series,
    out: String,
}

impl Picture {
    fn new(series: Series) -> Self {
        Self { series, out: String::new() }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.series.length().max(1.0)).clamp(0.0, 1.0)
    }

    fn draw(mut self, title: &str) -> String {
        let lanes_top = TOP + 2.0 * (PANEL + GAP);
        let lanes = LANE * self.series.lanes.len() as f64;
        let height = lanes_top + lanes + 56.0;
        let bottom = lanes_top + lanes;
        let _ = writeln!(
            self.out,
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12">"#
        );
        self.rectangle(0.0, 0.0, WIDTH, height, "#ffffff", 1.0, "");
        for (place, line) in title.lines().enumerate() {
            self.text(12.0, 20.0 + 18.0 * place as f64, "start", if place == 0 { 15 } else { 13 }, line);
        }
        self.shades(bottom);
        self.time(bottom);
        self.throughput(TOP);
        self.latency(TOP + PANEL + GAP);
        self.lanes(lanes_top);
        self.phases(bottom);
        self.out.push_str("</svg>\n");
        self.out
    }

    /// The times of faults, lightly over both panels. What was never recovered from would cover all of it.
    fn shades(&mut self, bottom: f64) {
        let spans: Vec<(f64, f64)> =
            self.series.lanes.iter().flat_map(|lane| &lane.bars).filter(|bar| bar.healed).map(|bar| (self.x(bar.from), self.x(bar.to))).collect();
        for (from, to) in spans {
            self.rectangle(from, TOP, (to - from).max(NARROWEST), bottom - TOP, SHADE, 0.07, "");
        }
    }

    fn time(&mut self, bottom: f64) {
        let length = self.series.length();
        let step =
            [1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0, 3_600.0].into_iter().find(|step| length / step <= 14.0);
        let step = step.unwrap_or(7_200.0);
        let mut at = 0.0;
        while at <= length {
            let x = self.x(at);
            self.line(x, TOP, x, bottom, GRID);
            let label = if step >= 60.0 { format!("{} min", at / 60.0) } else { format!("{at} s") };
            self.text(x, bottom + 18.0, "middle", 12, &label);
            at += step;
        }
    }

    /// The run's parts, named at the top.
    fn phases(&mut self, bottom: f64) {
        for (at, name) in std::mem::take(&mut self.series.phases) {
            let x = self.x(at);
            self.line(x, TOP - 14.0, x, bottom, "#8a9299");
            let (x, anchor) = if x > WIDTH - 80.0 { (x - 4.0, "end") } else { (x + 4.0, "start") };
            self.text(x, TOP - 6.0, anchor, 12, &name);
        }
    }

    fn throughput(&mut self, top: f64) {
        let highest = self.series.answers.iter().chain(&self.series.due).fold(1.0_f64, |most, value| most.max(*value));
        let step = nice(highest / 4.0);
        let scale = (highest / step).ceil() * step;
        let y = |value: f64| top + PANEL * (1.0 - value / scale);
        let mut value = 0.0;
        while value <= scale {
            self.line(LEFT, y(value), WIDTH - RIGHT, y(value), GRID);
            self.text(LEFT - 8.0, y(value) + 4.0, "end", 12, &format!("{value}"));
            value += step;
        }
        self.text(12.0, top + 14.0, "start", 13, "wishes a second");
        self.legend(top + 34.0, &[(DUE, "due"), (ANSWERS, "known end")]);
        for (values, colour) in [(self.series.due.clone(), DUE), (self.series.answers.clone(), ANSWERS)] {
            let points = values.iter().map(|value| Some(y(*value))).collect();
            self.path(points, colour);
        }
    }

    fn latency(&mut self, top: f64) {
        let y = |ms: f64| top + PANEL * (1.0 - (ms.max(1.0).log10() / DECADES).min(1.0));
        for (ms, label) in [(1.0, "1 ms"), (10.0, "10 ms"), (100.0, "100 ms"), (1e3, "1 s"), (1e4, "10 s"), (1e5, "100 s")] {
            self.line(LEFT, y(ms), WIDTH - RIGHT, y(ms), GRID);
            self.text(LEFT - 8.0, y(ms) + 4.0, "end", 12, label);
        }
        self.text(12.0, top + 14.0, "start", 13, "latency");
        self.legend(top + 34.0, &[(SLOWEST, "p99"), (MEDIAN, "p50")]);
        for (values, colour) in [(self.series.p99.clone(), SLOWEST), (self.series.p50.clone(), MEDIAN)] {
            let points = values.iter().map(|value| value.map(y)).collect();
            self.path(points, colour);
        }
    }

    fn lanes(&mut self, top: f64) {
        self.text(12.0, top - 10.0, "start", 13, "faults until recovery");
        for (place, lane) in std::mem::take(&mut self.series.lanes).into_iter().enumerate() {
            let y = top + LANE * place as f64;
            self.text(LEFT - 8.0, y + 13.0, "end", 12, &format!("{} ({})", lane.kind.replace('_', " "), lane.bars.len()));
            self.line(LEFT, y + LANE, WIDTH - RIGHT, y + LANE, GRID);
            for bar in lane.bars {
                let (from, to) = (self.x(bar.from), self.x(bar.to));
                let colour = if bar.healed { FAULT } else { UNHEALED };
                let end = if bar.healed { format!("{:.1} s", bar.to - bar.from) } else { "never recovered from".to_owned() };
                self.rectangle(from, y + 3.0, (to - from).max(NARROWEST), LANE - 6.0, colour, 0.9, &format!("{} {}: {end}", lane.kind, bar.target));
            }
        }
    }

    fn legend(&mut self, top: f64, entries: &[(&str, &str)]) {
        for (place, (colour, name)) in entries.iter().enumerate() {
            let y = top + 18.0 * place as f64;
            self.rectangle(14.0, y - 7.0, 18.0, 4.0, colour, 1.0, "");
            self.text(38.0, y, "start", 12, name);
        }
    }

    /// A line through the values of all stretches, broken where there is none; a value between two gaps is a dot.
    fn path(&mut self, points: Vec<Option<f64>>, colour: &str) {
        let mut commands = String::new();
        let mut pen_up = true;
        for (place, y) in points.iter().enumerate() {
            let Some(y) = y else {
                pen_up = true;
                continue;
            };
            let x = self.x((place as f64 + 0.5) * self.series.width as f64);
            let _ = write!(commands, "{}{x:.1} {y:.1} ", if pen_up { 'M' } else { 'L' });
            if pen_up {
                let _ = write!(commands, "h0.1 ");
            }
            pen_up = false;
        }
        let _ = writeln!(
            self.out,
            r#"<path d="{}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-linejoin="round" stroke-linecap="round"/>"#,
            commands.trim_end()
        );
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, colour: &str) {
        let _ = writeln!(self.out, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#);
    }

    #[expect(clippy::too_many_arguments, reason = "a rectangle has as many properties, and a type for it would be used here alone")]
    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str, opacity: f64, tip: &str) {
        let tip = if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escaped(tip)) };
        let _ = writeln!(
            self.out,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}" fill-opacity="{opacity}">{tip}</rect>"#
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, size: u32, text: &str) {
        let _ = writeln!(self.out, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" font-size="{size}" fill="{INK}">{}</text>"#, escaped(text));
    }
}

/// 1, 2 or 5 times a power of ten, not below.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(0.1).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= value).unwrap_or(10.0 * power)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::{
        check::kit,
        history::{FaultSpan, What},
    };

    #[test]
    fn the_picture_names_every_kind_of_fault_and_marks_what_never_recovered() {
        let mut run = kit::good();
        run.add(What::Fault { span: FaultSpan { index: 1, kind: "step_down", target: "<EVENTS>".into(), detail: String::new() } });
        let picture = svg(&Case::new(&run.records, &run.facts), "seed 7 & more");
        for part in ["seed 7 &amp; more", "kill (1)", "step down (1)", "worker-1: 1.5 s", "&lt;EVENTS&gt;: never recovered from", "p99"] {
            assert!(picture.contains(part), "{part} is not in {picture}");
        }
        assert_eq!(picture.matches(UNHEALED).count(), 1);
        assert_eq!(picture.matches("<svg").count(), picture.matches("</svg>").count());
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }

    #[test]
    fn an_empty_run_can_be_drawn() {
        let facts = crate::chaos::facts::Facts::default();
        let picture = svg(&Case::new(&[], &facts), "nothing");
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }

    #[test]
    fn steps_of_an_axis_are_round() {
        assert_eq!([0.3, 1.0, 1.1, 7.0, 23.0, 120.0].map(nice), [0.5, 1.0, 2.0, 10.0, 50.0, 200.0]);
    }
}
