//! Writes SVG: a few shapes, each with a class, and texts that cannot break out.

use std::fmt::Write;

/// A drawing that grows.
#[derive(Debug)]
pub struct Svg(String);

/// A point.
pub type Point = (f64, f64);

impl Svg {
    /// An empty one. The style is taken as it is.
    pub fn new(size: Point, title: &str, style: &str) -> Self {
        let ((width, height), title) = (size, escaped(title));
        let mut svg = Self(String::new());
        svg.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             width=\"{width}\" height=\"{height}\" role=\"img\">"
        ));
        svg.put(format_args!("<title>{title}</title>"));
        svg.put(format_args!("<style>{style}</style>"));
        svg
    }

    /// A box, by its corner above on the left.
    pub fn rect(&mut self, class: &str, (x, y): Point, (width, height): Point) {
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ));
    }

    /// A straight line.
    pub fn line(&mut self, class: &str, from: Point, to: Point) {
        self.path(class, &[from, to], false);
    }

    /// A line through all of these; closed, it is an area.
    pub fn path(&mut self, class: &str, points: &[Point], closed: bool) {
        let mut path = String::new();
        for (number, (x, y)) in points.iter().enumerate() {
            let step = if number == 0 { 'M' } else { 'L' };
            // A text takes whatever is written to it.
            let _ = write!(path, "{step}{x:.1} {y:.1}");
        }
        let end = if closed { "Z" } else { "" };
        self.put(format_args!("<path class=\"{class}\" d=\"{path}{end}\"/>"));
    }

    /// A dot.
    pub fn dot(&mut self, class: &str, (x, y): Point, radius: f64) {
        self.put(format_args!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>"
        ));
    }

    /// A text on its line.
    pub fn text(&mut self, class: &str, (x, y): Point, text: &str) {
        let text = escaped(text);
        self.put(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
        ));
    }

    /// The file.
    pub fn done(mut self) -> String {
        self.put(format_args!("</svg>"));
        self.0
    }

    fn put(&mut self, element: std::fmt::Arguments) {
        // A text takes whatever is written to it.
        let _ = writeln!(self.0, "{element}");
    }
}

/// Nothing in it is markup, nor a character that XML does not have.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter if letter.is_control() => safe.push(' '),
            letter => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_breaks_out() {
        let hostile = "</text><script>a & \"b\"\u{0}\u{1b}</script>";
        let mut svg = Svg::new((10.0, 10.0), hostile, "");
        svg.text("a", (1.0, 2.0), hostile);
        let svg = svg.done();
        let read = roxmltree::Document::parse(&svg).unwrap();
        let texts: Vec<_> = read
            .descendants()
            .filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")))
            .collect();
        assert_eq!(
            texts[0].text().unwrap(),
            "</text><script>a & \"b\"  </script>"
        );
        assert!(!svg.contains("<script"));
    }
}
