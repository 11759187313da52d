//! What the load measured, as SVG: latency against load, cost against size.

use std::error::Error;
use std::path::Path;

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::drive::Run;

/// A chart whose vertical axis is linear.
type Chart<'a, X> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<X, RangedCoordf64>>;

/// Draws a line with its points, and remembers its name.
fn draw_line<'a, X: Ranged<ValueType = f64> + 'a>(
    chart: &mut Chart<'a, X>,
    name: &str,
    colour: RGBColor,
    points: &[(f64, f64)],
) -> Result<(), Box<dyn Error>> {
    let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
    chart
        .draw_series(line)?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
    Ok(())
}

/// Draws the names of the lines, in a box.
fn draw_names<'a, X: Ranged<ValueType = f64> + 'a>(chart: &mut Chart<'a, X>) -> Result<(), Box<dyn Error>> {
    chart
        .configure_series_labels()
        .border_style(BLACK)
        .background_style(WHITE)
        .draw()?;
    Ok(())
}

/// Draws p50 and p99 over resets per second, one point for each number of connections.
pub fn latency_against_load(path: &Path, curve: &[(usize, Run)]) -> Result<(), Box<dyn Error>> {
    let most = |value: fn(&Run) -> f64| curve.iter().map(|(_, run)| value(run)).fold(0.0, f64::max) * 1.15;
    let root = SVGBackend::new(path, (800, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Latency against load", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..most(|run| run.per_second), 0.0..most(|run| run.p99_ms))?;
    chart
        .configure_mesh()
        .x_desc("resets per second")
        .y_desc("ms")
        .draw()?;
    let lines: [(&str, RGBColor, fn(&Run) -> f64); 2] =
        [("p50", BLUE, |run| run.p50_ms), ("p99", RED, |run| run.p99_ms)];
    for (name, colour, value) in lines {
        let points: Vec<(f64, f64)> = curve
            .iter()
            .map(|(_, run)| (run.per_second, value(run)))
            .collect();
        draw_line(&mut chart, name, colour, &points)?;
    }
    let labels = curve.iter().map(|(connections, run)| {
        Text::new(
            format!("{connections}"),
            (run.per_second, run.p99_ms),
            ("sans-serif", 13),
        )
    });
    chart.draw_series(labels)?;
    draw_names(&mut chart)?;
    root.present()?;
    Ok(())
}

/// Draws what a reset costs over how many users and entries there are already: one line for users without
/// entries, one for entries with as many users as the most of them have.
pub fn cost_against_size(path: &Path, costs: &[(usize, u64, f64)]) -> Result<(), Box<dyn Error>> {
    let most = costs.iter().map(|(.., cost)| *cost).fold(0.0, f64::max) * 1.3;
    let largest = costs
        .iter()
        .map(|(users, entries, _)| (*users as f64).max(*entries as f64))
        .fold(1e4, f64::max);
    let root = SVGBackend::new(path, (800, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("CPU of a reset against size", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d((900.0..largest * 1.2).log_scale(), 0.0..most)?;
    chart
        .configure_mesh()
        .x_labels(5)
        .light_line_style(TRANSPARENT)
        .x_desc("users, or entries in the trail")
        .y_desc("µs")
        .draw()?;
    let users = costs.iter().filter(|(_, entries, _)| *entries == 0);
    let entries = costs.iter().filter(|(_, entries, _)| *entries > 0);
    let lines: [(&str, RGBColor, Vec<(f64, f64)>); 2] = [
        (
            "users",
            BLUE,
            users.map(|(users, _, cost)| (*users as f64, *cost)).collect(),
        ),
        (
            "entries",
            RED,
            entries
                .map(|(_, entries, cost)| (*entries as f64, *cost))
                .collect(),
        ),
    ];
    for (name, colour, points) in lines {
        draw_line(&mut chart, name, colour, &points)?;
    }
    draw_names(&mut chart)?;
    root.present()?;
    Ok(())
}
