//! Every SQL text of the store, read from its source, so that none can be forgotten: what the plans and the joins are
//! judged by.
//!
//! A statement is a literal, or a `concat!` of literals and of macros that stand for columns. One that is put together
//! at run time cannot be read here; the only files with such texts are named in [`MADE_AT_RUN_TIME`].

use std::collections::BTreeMap;
use std::path::Path;

/// Files whose texts are no statements of a flow: the schema, the months of the one
/// divided table, the frame around sets, what is asked about PostgreSQL itself.
const MADE_AT_RUN_TIME: &[&str] = &["link.rs", "migrate.rs", "partitions.rs", "set.rs"];

/// For which engine a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    Both,
    Sqlite,
    Postgres,
}

/// One statement of the store.
#[derive(Debug, Clone)]
pub struct Statement {
    /// `payments.rs:312`
    pub place: String,
    /// The SQL.
    pub text: String,
    /// Who runs it.
    pub engine: For,
    /// Columns of the set `r` that it is given, if it works on one.
    pub set: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String, usize),
    Mark(char),
}

/// The rules of a macro without repetition: pattern and body.
type Rules = Vec<(Vec<Token>, Vec<Token>)>;

/// All statements of `src/store`.
pub fn statements() -> Vec<Statement> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let (mut files, mut queue) = (vec![], vec![root]);
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(dir).expect("the store") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                queue.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    let sources: Vec<(String, Vec<Token>)> = files
        .iter()
        .map(|path| {
            let text = std::fs::read_to_string(path).expect("a source");
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, tokens(text.split("#[cfg(test)]").next().unwrap_or_default()))
        })
        .collect();
    // Columns may be named in one file and used in another.
    let mut macros = BTreeMap::new();
    for (_, source) in &sources {
        read_macros(source, &mut macros);
    }
    let mut found = vec![];
    for (name, source) in sources.iter().filter(|(name, _)| !MADE_AT_RUN_TIME.contains(&name.as_str())) {
        read_statements(name, source, &macros, &mut found);
    }
    assert!(found.len() > 100, "the reader lost its way: {} statements", found.len());
    found
}

fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let (mut n, mut line, mut found) = (0, 1, vec![]);
    while n < chars.len() {
        let (c, next) = (chars[n], chars.get(n + 1).copied().unwrap_or(' '));
        if c == '/' && next == '/' {
            while n < chars.len() && chars[n] != '\n' {
                n += 1;
            }
            continue;
        }
        if c == '\'' {
            // A character, or a lifetime; neither is of interest.
            let quoted = if next == '\\' { 4 } else { 3 };
            let is_char = chars.get(n + quoted - 1) == Some(&'\'');
            n += if is_char { quoted } else { 1 };
            continue;
        }
        if c == '"' {
            let (text, end) = literal(&chars, n + 1);
            found.push(Token::Text(text, line));
            line += chars[n..end].iter().filter(|c| **c == '\n').count();
            n = end;
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            let start = n;
            while n < chars.len() && (chars[n].is_alphanumeric() || chars[n] == '_') {
                n += 1;
            }
            found.push(Token::Word(chars[start..n].iter().collect()));
            continue;
        }
        line += usize::from(c == '\n');
        if !c.is_whitespace() {
            found.push(Token::Mark(c));
        }
        n += 1;
    }
    found
}

/// The text of a literal whose first character is at `n`, and where it ends.
fn literal(chars: &[char], mut n: usize) -> (String, usize) {
    let mut text = String::new();
    while let Some(c) = chars.get(n) {
        match (c, chars.get(n + 1)) {
            ('"', _) => return (text, n + 1),
            ('\\', Some('\n')) => {
                n += 2;
                while chars.get(n).is_some_and(|c| c.is_whitespace()) {
                    n += 1;
                }
            }
            ('\\', Some('n')) => (text.push('\n'), n += 2).1,
            ('\\', Some(other)) => (text.push(*other), n += 2).1,
            (c, _) => (text.push(*c), n += 1).1,
        }
    }
    (text, n)
}

/// The tokens between the bracket at `n` and its partner, and the place after the partner.
fn inside(source: &[Token], n: usize) -> (&[Token], usize) {
    let mut depth = 0;
    for (at, token) in source.iter().enumerate().skip(n) {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return (&source[n + 1..at], at + 1);
        }
    }
    panic!("an open bracket");
}

fn word(token: Option<&Token>) -> &str {
    match token {
        Some(Token::Word(word)) => word,
        _ => "",
    }
}

/// `macro_rules! name { ($a:literal) => { … }; }`; rules with repetitions make no SQL.
fn read_macros(source: &[Token], macros: &mut BTreeMap<String, Rules>) {
    for n in 0..source.len() {
        if word(source.get(n)) != "macro_rules" {
            continue;
        }
        let (definition, _) = inside(source, n + 3);
        let (mut at, mut rules) = (0, vec![]);
        while definition.get(at) == Some(&Token::Mark('(')) {
            let (pattern, after) = inside(definition, at);
            let (body, end) = inside(definition, after + 2);
            rules.push((pattern.to_vec(), body.to_vec()));
            at = end + usize::from(definition.get(end) == Some(&Token::Mark(';')));
        }
        macros.insert(word(source.get(n + 2)).to_owned(), rules);
    }
}

/// What the parameters of a rule are for these arguments; `None` when the rule does not fit.
fn fit(pattern: &[Token], given: &[Token]) -> Option<BTreeMap<String, Vec<Token>>> {
    let (mut at, mut n, mut found) = (0, 0, BTreeMap::new());
    while at < pattern.len() {
        if pattern[at] == Token::Mark('$') {
            let mut end = n + 1;
            if word(pattern.get(at + 3)) == "expr" {
                while end < given.len() && given[end] != Token::Mark(',') {
                    end = if matches!(given[end], Token::Mark('(')) { inside(given, end).1 } else { end + 1 };
                }
            }
            found.insert(word(pattern.get(at + 1)).to_owned(), given.get(n..end)?.to_vec());
            (at, n) = (at + 4, end);
        } else {
            if given.get(n) != Some(&pattern[at]) {
                return None;
            }
            (at, n) = (at + 1, n + 1);
        }
    }
    (n == given.len()).then_some(found)
}

/// The text that the expression at `n` stands for, its line, and where it ends.
fn text_at(source: &[Token], n: usize, macros: &BTreeMap<String, Rules>) -> Option<(String, usize, usize)> {
    if let Some(Token::Text(text, line)) = source.get(n) {
        return Some((text.clone(), *line, n + 1));
    }
    let name = word(source.get(n));
    if name.is_empty() || source.get(n + 1) != Some(&Token::Mark('!')) {
        return None;
    }
    if name != "concat" && !macros.contains_key(name) {
        return None;
    }
    let (arguments, end) = inside(source, n + 2);
    let line = arguments.iter().find_map(|t| if let Token::Text(_, line) = t { Some(*line) } else { None });
    if name == "concat" {
        return Some((joined(arguments, macros), line.unwrap_or(0), end));
    }
    let (body, values) = macros[name].iter().find_map(|(pattern, body)| Some((body, fit(pattern, arguments)?)))?;
    let (mut at, mut filled) = (0, vec![]);
    while let Some(token) = body.get(at) {
        let value = values.get(word(body.get(at + 1))).filter(|_| *token == Token::Mark('$'));
        match value {
            Some(value) => filled.extend_from_slice(value),
            None => filled.push(token.clone()),
        }
        at += if value.is_some() { 2 } else { 1 };
    }
    Some((text_at(&filled, 0, macros)?.0, line.unwrap_or(0), end))
}

fn joined(arguments: &[Token], macros: &BTreeMap<String, Rules>) -> String {
    let (mut n, mut text) = (0, String::new());
    while n < arguments.len() {
        match text_at(arguments, n, macros) {
            Some((piece, _, end)) => {
                text.push_str(&piece);
                n = end;
            }
            None if arguments[n] == Token::Mark(',') => n += 1,
            None => panic!("concat! of something that is no text: {:?}", &arguments[n..]),
        }
    }
    text
}

fn read_statements(file: &str, source: &[Token], macros: &BTreeMap<String, Rules>, found: &mut Vec<Statement>) {
    let (mut n, mut picked) = (0, 0);
    while n < source.len() {
        if word(source.get(n)) == "macro_rules" {
            n = inside(source, n + 3).1;
            continue;
        }
        if word(source.get(n)) == "pick" && source.get(n + 1) == Some(&Token::Mark('(')) {
            picked = 2;
        }
        let Some((text, line, end)) = text_at(source, n, macros) else {
            n += 1;
            continue;
        };
        let first = text.split_whitespace().next().unwrap_or_default();
        if !matches!(first, "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "WITH") {
            n = end;
            continue;
        }
        assert!(!text.contains('{') || text.contains("{\""), "{file}:{line} is put together at run time:\n{text}");
        let engine = match picked {
            _ if ["FOR UPDATE", "FOR SHARE", "EXTRACT(EPOCH"].iter().any(|words| text.contains(words)) => For::Postgres,
            2 => For::Sqlite,
            1 => For::Postgres,
            _ => For::Both,
        };
        picked = std::cmp::max(picked, 1) - 1;
        let set = set_of(source, n, &text);
        found.push(Statement { place: format!("{file}:{line}"), text, engine, set });
        n = end;
    }
}

/// The columns of the set that the statement at `n` reads: the nearest list of names that all stand in its text.
fn set_of(source: &[Token], n: usize, text: &str) -> Vec<String> {
    let sql = Sql::of(text);
    if !sql.scopes().iter().flat_map(|scope| tables(scope)).any(|u| u.table == "r") {
        return vec![];
    }
    let words = sql.0;
    let fits =
        |names: &Vec<String>| names.iter().all(|name| words.iter().any(|w| w == name || *w == format!("r.{name}")));
    let mut lists: Vec<(usize, Vec<String>)> =
        (0..source.len()).filter_map(|at| Some((at.abs_diff(n), column_names(source, at).filter(fits)?))).collect();
    lists.sort();
    lists.into_iter().next().unwrap_or_else(|| panic!("no list of names fits\n{text}")).1
}

/// `["merchant_id", "id"]`, as a set's columns are named.
fn column_names(source: &[Token], n: usize) -> Option<Vec<String>> {
    if source.get(n) != Some(&Token::Mark('[')) {
        return None;
    }
    let (between, _) = inside(source, n);
    let mut names = vec![];
    for token in between {
        match token {
            Token::Text(name, _) => names.push(name.clone()),
            Token::Mark(',') => {}
            _ => return None,
        }
    }
    (!names.is_empty()).then_some(names)
}

/// The words and marks of an SQL text; strings are one word.
pub struct Sql(pub Vec<String>);

impl Sql {
    /// Cuts a text.
    pub fn of(text: &str) -> Sql {
        let chars: Vec<char> = text.chars().collect();
        let (mut n, mut found) = (0, vec![]);
        while n < chars.len() {
            let start = n;
            let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '$');
            if chars[n] == '\'' {
                n += 1;
                while n < chars.len() && chars[n] != '\'' {
                    n += 1;
                }
                n += 1;
            } else if is_word(chars[n]) {
                while n < chars.len() && is_word(chars[n]) {
                    n += 1;
                }
            } else {
                n += 1;
            }
            let token: String = chars[start..n.min(chars.len())].iter().collect();
            if !token.trim().is_empty() {
                found.push(token);
            }
        }
        Sql(found)
    }

    /// The highest `$n`.
    pub fn parameters(&self) -> usize {
        self.0.iter().filter_map(|t| t.strip_prefix('$')?.parse().ok()).max().unwrap_or(0)
    }

    /// Each query in the text, the outer one and those in brackets: its own words, with brackets of inner ones emptied.
    pub fn scopes(&self) -> Vec<Vec<String>> {
        let (mut open, mut done) = (vec![vec![]], vec![]);
        for (n, token) in self.0.iter().enumerate() {
            let next = self.0.get(n + 1).map_or("", String::as_str);
            match token.as_str() {
                "(" => {
                    let begins_query = matches!(next, "SELECT" | "INSERT" | "UPDATE" | "DELETE");
                    open.last_mut().expect("a scope").push("(".to_owned());
                    // An expression in brackets belongs to the query around it.
                    open.push(if begins_query { vec![] } else { vec!["\0".to_owned()] });
                }
                ")" => {
                    let closed = open.pop().expect("a bracket to close");
                    let outer = open.last_mut().expect("a scope");
                    if closed.first().is_some_and(|t| t == "\0") {
                        outer.extend(closed.into_iter().skip(1));
                    } else {
                        done.push(closed);
                    }
                    outer.push(")".to_owned());
                }
                "UNION" => {
                    let outer = open.last_mut().expect("a scope");
                    done.push(std::mem::take(outer));
                }
                _ => open.last_mut().expect("a scope").push(token.clone()),
            }
        }
        done.extend(open);
        done.into_iter().filter(|scope| !scope.is_empty()).collect()
    }
}

/// A table that a query names, and how it calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableUse {
    /// `payments`
    pub table: String,
    /// `p`; the table's own name without an alias.
    pub alias: String,
    /// Rows are added to it.
    pub is_target_of_insert: bool,
}

const NO_ALIAS: &[&str] = &[
    "WHERE",
    "ON",
    "SET",
    "VALUES",
    "SELECT",
    "ORDER",
    "LIMIT",
    "JOIN",
    "LEFT",
    "INNER",
    "CROSS",
    "GROUP",
    "FOR",
    "FROM",
    "RETURNING",
    "USING",
    "UNION",
    "AND",
    "DO",
    "OFFSET",
    "HAVING",
    "INDEXED",
];

/// The tables of one query.
pub fn tables(scope: &[String]) -> Vec<TableUse> {
    let mut found = vec![];
    let mut in_from = false;
    for (n, token) in scope.iter().enumerate() {
        let is_target_of_insert = token == "INTO";
        // `DO UPDATE`, `FOR UPDATE` and `IS DISTINCT FROM` name no table.
        let before = n.checked_sub(1).and_then(|n| scope.get(n)).map_or("", String::as_str);
        let names_one = match token.as_str() {
            "FROM" => before != "DISTINCT",
            "JOIN" | "INTO" | "USING" => true,
            "UPDATE" => !matches!(before, "DO" | "FOR"),
            "," => in_from,
            _ => false,
        };
        match token.as_str() {
            "FROM" | "USING" => in_from = true,
            "WHERE" | "SET" | "ON" | "ORDER" | "SELECT" | "RETURNING" | "GROUP" => in_from = false,
            _ => {}
        }
        let Some(table) = scope.get(n + 1).filter(|t| names_one && t.starts_with(|c: char| c.is_ascii_lowercase()))
        else {
            continue;
        };
        let at = if scope.get(n + 2).is_some_and(|t| t == "AS") { n + 3 } else { n + 2 };
        let alias = scope.get(at).filter(|t| t.starts_with(|c: char| c.is_ascii_lowercase()));
        let alias = alias.filter(|t| !NO_ALIAS.contains(&t.as_str())).unwrap_or(table);
        found.push(TableUse { table: table.clone(), alias: alias.clone(), is_target_of_insert });
    }
    found
}

#[test]
fn statements_are_read_as_they_are_written() {
    let source = r#"
        macro_rules! columns { () => { "id, 'x' || \"y\"" }; }
        macro_rules! oldest { ($t:literal) => { concat!("SELECT ", columns!(), " FROM ", $t) }; }
        // "SELECT not this"
        fn f<'a>() { let c = 'c'; self.pick(oldest!("a"), "SELECT 1
            FROM b b2"); }
        macro_rules! claim {
            ($lane:ident, sqlite) => { claim!(concat!("rowid IN ", lane!($lane))) };
            ($which:expr) => { concat!("UPDATE jobs SET x = 1 WHERE ", $which, ";") };
        }
        macro_rules! lane { (a) => { "(1)" }; (b) => { "(2)" }; }
        fn g() { x.run_set(&["n", "m"], rows, "UPDATE c SET n = r.n FROM r WHERE m = o"); claim!(b, sqlite); f(&["n", "o"]) }
    "#;
    let (source, mut macros, mut found) = (tokens(source), BTreeMap::new(), vec![]);
    read_macros(&source, &mut macros);
    read_statements("x.rs", &source, &macros, &mut found);
    assert_eq!(found.len(), 4);
    assert_eq!(found[3].text, "UPDATE jobs SET x = 1 WHERE rowid IN (2);");
    assert_eq!((found[0].text.as_str(), found[0].engine), ("SELECT id, 'x' || \"y\" FROM a", For::Sqlite));
    assert_eq!((found[1].engine, found[1].place.as_str()), (For::Postgres, "x.rs:5"));
    assert_eq!((found[2].engine, found[2].set.as_slice()), (For::Both, ["n".to_owned(), "m".to_owned()].as_slice()));
}

#[test]
fn queries_in_brackets_are_queries_of_their_own() {
    let sql = Sql::of(
        "UPDATE a SET x = 1 WHERE (a.y = $2 OR z IS NULL) AND k IN (SELECT k FROM b AS bb, c WHERE b.m = 'it, FROM d')",
    );
    let scopes = sql.scopes();
    let all: Vec<Vec<TableUse>> = scopes.iter().map(|s| tables(s)).collect();
    let names: Vec<Vec<(&str, &str)>> =
        all.iter().map(|uses| uses.iter().map(|u| (u.table.as_str(), u.alias.as_str())).collect()).collect();
    assert_eq!(names, [vec![("b", "bb"), ("c", "c")], vec![("a", "a")]]);
    assert_eq!(sql.parameters(), 2);
    assert!(scopes[1].contains(&"a.y".to_owned()), "an expression in brackets stays in its query");
}
