//! A one-page PDF of text lines, for the documents of simulated invoicing APIs.
//!
//! Written by hand after ISO 32000-1: five objects, a cross-reference table with their offsets, the built-in Helvetica.
//! Polish, Czech and Icelandic letters that its usual encoding lacks are added by their glyph names.

use std::fmt::Write;

/// One line of the page.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Size of the letters in points.
    pub size: u8,
    /// Distance from the left edge in points.
    pub x: u16,
    /// The text; letters that cannot be written become `?`.
    pub text: String,
    /// Whether the next line is printed below this one, or beside it.
    pub ends: bool,
}

impl Line {
    /// A line of its own at the left margin.
    pub fn new(size: u8, text: impl Into<String>) -> Self {
        Line { size, x: 56, text: text.into(), ends: true }
    }

    /// A cell at `x` with further cells beside it.
    pub fn cell(x: u16, text: impl Into<String>) -> Self {
        Line { size: 10, x, text: text.into(), ends: false }
    }

    /// The last cell of its row.
    pub fn last_cell(x: u16, text: impl Into<String>) -> Self {
        Line { ends: true, ..Line::cell(x, text) }
    }
}

/// Letters beyond ASCII, by code from 128, with their glyph names.
const LETTERS: &[(char, &str)] = &[
    ('ą', "aogonek"),
    ('ć', "cacute"),
    ('ę', "eogonek"),
    ('ł', "lslash"),
    ('ń', "nacute"),
    ('ó', "oacute"),
    ('ś', "sacute"),
    ('ź', "zacute"),
    ('ż', "zdotaccent"),
    ('Ą', "Aogonek"),
    ('Ć', "Cacute"),
    ('Ę', "Eogonek"),
    ('Ł', "Lslash"),
    ('Ń', "Nacute"),
    ('Ó', "Oacute"),
    ('Ś', "Sacute"),
    ('Ź', "Zacute"),
    ('Ż', "Zdotaccent"),
    ('á', "aacute"),
    ('č', "ccaron"),
    ('ď', "dcaron"),
    ('é', "eacute"),
    ('ě', "ecaron"),
    ('í', "iacute"),
    ('ň', "ncaron"),
    ('ř', "rcaron"),
    ('š', "scaron"),
    ('ť', "tcaron"),
    ('ú', "uacute"),
    ('ů', "uring"),
    ('ý', "yacute"),
    ('ž', "zcaron"),
    ('Č', "Ccaron"),
    ('Ř', "Rcaron"),
    ('Š', "Scaron"),
    ('Ž', "Zcaron"),
    ('ð', "eth"),
    ('þ', "thorn"),
    ('æ', "ae"),
    ('ö', "odieresis"),
    ('Þ', "Thorn"),
    ('Æ', "AE"),
    ('ä', "adieresis"),
    ('ü', "udieresis"),
    ('ß', "germandbls"),
    ('–', "endash"),
    ('—', "emdash"),
    ('€', "Euro"),
    ('„', "quotedblbase"),
    ('”', "quotedblright"),
    ('§', "section"),
    ('×', "multiply"),
];

/// The page as a whole file. Lines below its lower edge are left out.
pub(crate) fn page(lines: &[Line]) -> Vec<u8> {
    let content = content(lines);
    let names: String = LETTERS.iter().map(|(_, name)| format!("/{name} ")).collect();
    let objects = [
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_owned(),
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 5 0 R >> >> /Contents 4 0 R >>"
            .to_owned(),
        format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()),
        format!(
            "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding << /Type /Encoding /BaseEncoding \
             /WinAnsiEncoding /Differences [128 {names}] >> >>"
        ),
    ];
    let mut file = String::from("%PDF-1.4\n");
    let mut offsets = vec![];
    for (at, object) in objects.iter().enumerate() {
        offsets.push(file.len());
        let _ = write!(file, "{} 0 obj\n{object}\nendobj\n", at + 1);
    }
    let table = file.len();
    let _ = write!(file, "xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1);
    for offset in offsets {
        let _ = writeln!(file, "{offset:010} 00000 n ");
    }
    let _ = write!(file, "trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n", objects.len() + 1);
    file.into_bytes()
}

fn content(lines: &[Line]) -> String {
    let (mut y, mut starts) = (806_i32, true);
    let mut stream = String::new();
    for line in lines {
        if starts {
            y -= i32::from(line.size) + 6;
        }
        if y < 40 {
            break;
        }
        let _ = writeln!(stream, "BT /F1 {} Tf {} {y} Td ({}) Tj ET", line.size, line.x, escaped(&line.text));
        starts = line.ends;
    }
    stream
}

/// Text of a literal string: brackets escaped, letters beyond ASCII as octal codes, so that the file is ASCII.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars().take(110) {
        match c {
            '(' | ')' | '\\' => out.extend(['\\', c]),
            ' '..='~' => out.push(c),
            _ => match LETTERS.iter().position(|(letter, _)| *letter == c) {
                Some(at) => drop(write!(out, "\\{:03o}", 128 + at)),
                None => out.push('?'),
            },
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_points_at_the_objects() {
        let file = String::from_utf8(page(&[Line::new(12, "Zażółć (gęślą) jaźń \\ щ")])).unwrap();
        assert!(file.starts_with("%PDF-1.") && file.ends_with("%%EOF\n"));
        let table: usize = file.rsplit_once("startxref\n").unwrap().1.lines().next().unwrap().parse().unwrap();
        let mut rows = file.get(table..).unwrap().lines();
        assert_eq!((rows.next(), rows.next()), (Some("xref"), Some("0 6")));
        for (number, row) in rows.skip(1).take(5).enumerate() {
            assert_eq!(row.len(), 19, "rows have 20 bytes with their line end");
            let offset: usize = row.get(..10).unwrap().parse().unwrap();
            assert!(file.get(offset..).unwrap().starts_with(&format!("{} 0 obj", number + 1)));
        }
        let length: usize = file.split_once("/Length ").unwrap().1.split_once(' ').unwrap().0.parse().unwrap();
        let stream = file.split_once("stream\n").unwrap().1.split_once("\nendstream").unwrap().0;
        assert_eq!(stream.len(), length);
        assert!(stream.contains("\\(g\\"), "brackets are escaped");
        assert!(stream.contains("\\\\ ?"), "an unknown letter is a question mark");
    }

    #[test]
    fn codes_of_letters_fit_one_byte() {
        assert!(LETTERS.len() <= 128);
    }
}
