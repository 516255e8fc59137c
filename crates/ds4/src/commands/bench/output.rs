//! A report as a table, JSON, CSV or a drawing.

use std::fmt::Write;

use plotters::prelude::*;
use serde::Serialize;

use super::measure::{OperationTime, Report};
use crate::units;

/// A table for people.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    line(&mut text, format_args!("model      {}", report.weights));
    line(&mut text, format_args!("device     {}", report.device));
    line(&mut text, format_args!("numerics   compute {}, cache {}", report.compute, report.kv_precision));
    if let Some(bandwidth) = report.bandwidth {
        line(&mut text, format_args!("bandwidth  {:.1} GB/s, measured reading", bandwidth / 1e9));
    }
    line(&mut text, format_args!(""));
    line(
        &mut text,
        format_args!(
            "{:>7} {:>7} {:>7} {:>10} {:>8} {:>7} {:>8}",
            "context", "prefill", "decode", "read/token", "roofline", "reached", "state"
        ),
    );
    line(
        &mut text,
        format_args!("{:>7} {:>7} {:>7} {:>10} {:>8} {:>7} {:>8}", "tokens", "t/s", "t/s", "", "t/s", "", ""),
    );
    let optional = |value: Option<f64>| value.map_or("–".to_owned(), units::rate);
    for point in &report.points {
        line(
            &mut text,
            format_args!(
                "{:>7} {:>7} {:>7} {:>10} {:>8} {:>7} {:>8}",
                point.context,
                optional(point.prefill),
                units::rate(point.decode),
                format!("{:.3} GB", (point.weight_bytes + point.cache_bytes) as f64 / 1e9),
                optional(point.roofline),
                point.fraction.map_or("–".to_owned(), |f| format!("{:.0} %", f * 100.0)),
                units::bytes(point.state_bytes),
            ),
        );
    }
    if !report.scaling.is_empty() {
        line(&mut text, format_args!(""));
        let header = ["threads", "prefill", "", "decode", "", "bandwidth"];
        let row = |cells: [&str; 6]| {
            let [threads, prefill, gain, decode, decode_gain, bandwidth] = cells;
            format!("{threads:>8} {prefill:>9} {gain:>8} {decode:>9} {decode_gain:>8} {bandwidth:>12}")
        };
        line(&mut text, format_args!("{}", row(header)));
        line(&mut text, format_args!("{}", row(["", "t/s", "", "t/s", "", ""])));
        let first = &report.scaling[0];
        let times = |now: f64, first: f64| format!("{:.2} ×", now / first);
        for s in &report.scaling {
            let gain = s.prefill.zip(first.prefill).map_or("–".to_owned(), |(now, first)| times(now, first));
            let bandwidth = s.bandwidth.map_or("–".to_owned(), |b| format!("{:.1} GB/s", b / 1e9));
            line(
                &mut text,
                format_args!(
                    "{}",
                    row([
                        &s.threads.to_string(),
                        &optional(s.prefill),
                        &gain,
                        &units::rate(s.decode),
                        &times(s.decode, first.decode),
                        &bandwidth,
                    ])
                ),
            );
        }
    }
    text
}

/// Where the time of each point went.
pub fn profile(report: &Report) -> String {
    let mut text = String::new();
    for point in &report.points {
        line(&mut text, format_args!(""));
        line(&mut text, format_args!("{:<14} {:>18} {:>18}", format!("at {}", point.context), "prefill", "decode"));
        line(&mut text, format_args!("{:<14} {:>18} {:>18}", "", "ms/token", "ms/token"));
        let total = |of: fn(&OperationTime) -> f64| point.operations.iter().map(of).sum::<f64>();
        let totals = [total(|o| o.prefill_ms), total(|o| o.decode_ms)];
        let cell = |ms: f64, total: f64| match total > 0.0 {
            true => format!("{ms:.3} {:>4.0} %", ms / total * 100.0),
            false => "–".to_owned(),
        };
        for o in &point.operations {
            let (prefill, decode) = (cell(o.prefill_ms, totals[0]), cell(o.decode_ms, totals[1]));
            line(&mut text, format_args!("{:<14} {prefill:>18} {decode:>18}", o.operation));
        }
    }
    text
}

/// Adds a line.
pub fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{arguments}");
}

/// The report as it is.
pub fn json<T: Serialize>(report: &T) -> String {
    // Plain numbers and strings: nothing that JSON cannot hold.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}

/// One line per context length.
pub fn csv(report: &Report) -> String {
    let mut text = String::new();
    line(
        &mut text,
        format_args!("context,prefill_tps,decode_tps,weight_bytes,cache_bytes,state_bytes,roofline_tps,fraction"),
    );
    let optional = |value: Option<f64>| value.map_or(String::new(), |v| v.to_string());
    for p in &report.points {
        line(
            &mut text,
            format_args!(
                "{},{},{},{},{},{},{},{}",
                p.context,
                optional(p.prefill),
                p.decode,
                p.weight_bytes,
                p.cache_bytes,
                p.state_bytes,
                optional(p.roofline),
                optional(p.fraction)
            ),
        );
    }
    text
}

/// Prefill, decode and roofline over the context length, both axes logarithmic.
///
/// # Errors
/// The drawing library fails.
pub fn svg(report: &Report) -> anyhow::Result<String> {
    let series = [
        ("prefill", BLUE, report.points.iter().filter_map(|p| Some((p.context, p.prefill?))).collect::<Vec<_>>()),
        ("decode", RED, report.points.iter().map(|p| (p.context, p.decode)).collect()),
        ("decode roofline", BLACK, report.points.iter().filter_map(|p| Some((p.context, p.roofline?))).collect()),
    ];
    let values = || series.iter().flat_map(|(_, _, points)| points.iter().map(|&(_, speed)| speed));
    let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
    let first = report.points.first().map_or(1, |p| p.context).max(1) as f64;
    let last = report.points.last().map_or(1, |p| p.context).max(1) as f64;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (720, 440)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&report.weights, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d((first * 0.9..last * 1.1).log_scale(), (low * 0.8..high * 1.25).log_scale())?;
        chart.configure_mesh().x_desc("context, tokens").y_desc("tokens per second").draw()?;
        for (name, color, points) in series {
            let points: Vec<(f64, f64)> =
                points.into_iter().map(|(context, speed)| (context.max(1) as f64, speed)).collect();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), &color))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color));
            chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
        area.present()?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::measure::{Point, Scaling};
    use super::*;

    fn report() -> Report {
        let point = |context: usize| Point {
            context,
            prefill: Some(20.0),
            decode: 2.0,
            weight_bytes: 9_000_000_000,
            cache_bytes: 10_000_000,
            state_bytes: 5 << 20,
            roofline: Some(3.0),
            fraction: Some(2.0 / 3.0),
            operations: vec![
                OperationTime { operation: "moe", prefill_ms: 30.0, decode_ms: 100.0 },
                OperationTime { operation: "head", prefill_ms: 10.0, decode_ms: 300.0 },
            ],
            bandwidth: Some(27e9),
            passes: Vec::new(),
        };
        Report {
            weights: "test".to_owned(),
            device: "CPU".to_owned(),
            compute: "int8".to_owned(),
            kv_precision: "model".to_owned(),
            bandwidth: Some(27e9),
            points: vec![point(512), point(2048)],
            scaling: vec![scaling(1, 10.0, 1.0), scaling(2, 20.0, 1.5)],
        }
    }

    fn scaling(threads: usize, prefill: f64, decode: f64) -> Scaling {
        Scaling { threads, bandwidth: Some(20e9), prefill: Some(prefill), decode }
    }

    #[test]
    fn tables_fit_sixty_columns() {
        let text = table(&report());
        let rows = text.lines().filter(|line| !line.starts_with("model"));
        assert!(rows.clone().count() > 8 && rows.clone().all(|line| crate::terminal::columns(line) <= 60), "{text}");
    }

    #[test]
    fn numbers_of_threads_are_compared_with_the_first() {
        let text = table(&report());
        let two = text.lines().last().expect("a line for two threads");
        assert!(two.contains("2.00 ×") && two.contains("1.50 ×"), "{two}");
    }

    #[test]
    fn every_form_holds_every_point() {
        let report = report();
        assert_eq!(csv(&report).lines().count(), 3);
        let parsed: serde_json::Value = serde_json::from_str(&json(&report)).expect("JSON");
        assert_eq!(parsed["points"][1]["context"], 2048);
        assert!(table(&report).contains("67 %"));
        assert!(svg(&report).expect("a drawing").contains("decode roofline"));
    }

    #[test]
    fn a_profile_gives_shares_of_prefill_and_decode() {
        let text = profile(&report());
        let moe = text.lines().find(|line| line.starts_with("moe")).expect("a line for the experts");
        assert!(moe.contains("30.000   75 %") && moe.contains("100.000   25 %"), "{moe}");
    }

    #[test]
    fn a_table_fits_eighty_columns() {
        assert!(table(&report()).lines().all(|line| line.chars().count() <= 80));
        assert!(profile(&report()).lines().all(|line| line.chars().count() <= 80));
    }
}
