//! Lines over one axis, as SVG that any browser shows: both axes from zero, a legend, no script.

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Left, top, right (the legend) and bottom of what is plotted.
const MARGINS: [f64; 4] = [64.0, 40.0, 150.0, 48.0];
/// Told apart by the colour-blind too (Okabe and Ito); further lines are dashed.
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
/// Steps of an axis, at most.
const STEPS: f64 = 8.0;

/// One line.
#[derive(Debug, Clone)]
pub struct Line {
    /// In the legend.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug, Clone)]
pub struct Plot<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below the horizontal axis.
    pub x: &'a str,
    /// Beside the vertical one.
    pub y: &'a str,
    /// What is plotted.
    pub lines: Vec<Line>,
}

/// The next round number: 1, 2 or 5 times a power of ten.
fn step(range: f64) -> f64 {
    let raw = range.max(f64::MIN_POSITIVE) / STEPS;
    let power = 10_f64.powf(raw.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|n| raw <= n * power);
    round.unwrap_or(10.0) * power
}

fn text(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Plot<'_> {
    /// The document.
    pub fn svg(&self) -> String {
        let [left, top, right, bottom] = MARGINS;
        let (wide, high) = (WIDTH - left - right, HEIGHT - top - bottom);
        let all = || self.lines.iter().flat_map(|l| &l.points);
        let (x_step, y_step) =
            (step(all().map(|p| p.0).fold(0.0, f64::max)), step(all().map(|p| p.1).fold(0.0, f64::max)));
        let most = |step: f64, of: fn(&(f64, f64)) -> f64| {
            (all().map(of).fold(0.0, f64::max) / step).ceil().max(1.0) * step
        };
        let (x_most, y_most) = (most(x_step, |p| p.0), most(y_step, |p| p.1));
        let x = |value: f64| left + wide * value / x_most;
        let y = |value: f64| top + high * (1.0 - value / y_most);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
             <text x=\"{left}\" y=\"24\" font-size=\"15\">{}</text>\n",
            text(self.title)
        );
        let mut add = |line: String| out += &(line + "\n");
        for n in 0..=ticks(x_most, x_step) {
            let (at, value) = (x(f64::from(n) * x_step), f64::from(n) * x_step);
            add(format!("<path d=\"M{at:.1} {top} v{high}\" stroke=\"#e0e0e0\"/>"));
            add(format!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{value}</text>",
                top + high + 18.0
            ));
        }
        for n in 0..=ticks(y_most, y_step) {
            let (at, value) = (y(f64::from(n) * y_step), f64::from(n) * y_step);
            add(format!("<path d=\"M{left} {at:.1} h{wide}\" stroke=\"#e0e0e0\"/>"));
            add(format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                left - 8.0,
                at + 4.0
            ));
        }
        let middle = left + wide / 2.0;
        add(format!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 12.0,
            text(self.x)
        ));
        add(format!("<text x=\"16\" y=\"{:.1}\">{}</text>", top - 6.0, text(self.y)));
        for (n, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let dash = if n < COLOURS.len() { "" } else { " stroke-dasharray=\"6 3\"" };
            let points: Vec<String> =
                line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
            add(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
                points.join(" ")
            ));
            for (px, py) in line.points.iter().map(|p| (x(p.0), y(p.1))) {
                add(format!("<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"3\" fill=\"{colour}\"/>"));
            }
            let at = top + 14.0 + 20.0 * f64::from(u32::try_from(n).unwrap_or(u32::MAX));
            let from = left + wide + 12.0;
            add(format!("<path d=\"M{from:.1} {at:.1} h22\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>"));
            add(format!("<text x=\"{:.1}\" y=\"{:.1}\">{}</text>", from + 28.0, at + 4.0, text(&line.name)));
        }
        out + "</svg>\n"
    }
}

/// How many steps an axis has.
fn ticks(most: f64, step: f64) -> u32 {
    // A handful: at most STEPS and one.
    (0..=16).find(|n| f64::from(*n) * step >= most - step / 2.0).unwrap_or(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_few() {
        assert_eq!([400.0, 1.0, 93.0, 7000.0].map(step), [50.0, 0.2, 20.0, 1000.0]);
        assert_eq!(ticks(400.0, 50.0), 8);
    }

    #[test]
    fn every_point_is_within_the_axes_and_named() {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.into(), points: points.to_vec() };
        let lines = vec![line("a < b", &[(10.0, 70.0), (400.0, 903.0)]), line("c", &[])];
        let svg = Plot { title: "T & U", x: "sent/s", y: "ms", lines }.svg();
        assert!(svg.contains("T &amp; U") && svg.contains("a &lt; b") && svg.ends_with("</svg>\n"));
        let points: Vec<f64> =
            svg.split("cx=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        assert_eq!(points.len(), 2);
        assert!(points.iter().all(|x| (64.0..=610.0).contains(x)), "{points:?}");
        // Nothing at all is a plot as well.
        assert!(Plot { title: "", x: "", y: "", lines: vec![] }.svg().contains("</svg>"));
    }
}
