//! What stands before the cursor, read backwards: a member of something, a path, a name.

/// How an expression is built, from its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// `x`
    Name(String),
    /// `a::B::c`, without the call behind it
    Path(Vec<String>),
    /// The step before it, called.
    Call,
    /// `.x`, called or not
    Member(String),
    /// `?`
    Try,
    /// `[…]`
    Element,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// Behind a dot: the expression before it, empty where it cannot be read.
    Member(Vec<Step>),
    /// Behind `::`: what stands before that.
    Path(Vec<String>),
    Name,
    /// A line that begins with `%` or `:`, with its text so far.
    Directive(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    pub asked: Asked,
    /// Where the word begins, in characters.
    pub start: usize,
    /// The word, as far as it is written.
    pub word: String,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Context {
    pub fn before(code: &[char]) -> Self {
        let line_start = code.iter().rposition(|c| *c == '\n').map_or(0, |at| at + 1);
        let line: String = code[line_start..].iter().collect();
        let length = code.iter().rev().take_while(|c| is_word(**c)).count();
        let start = code.len() - length;
        let word = code[start..].iter().collect();
        let text = line.trim_start();
        let directive = text.starts_with('%') || text.starts_with(':') && !text.starts_with("::");
        // Behind these stands code.
        let timed = ["%time ", "%timeit ", ":time ", ":timeit "].iter().any(|word| text.starts_with(word));
        if directive && !timed {
            let start = if text.contains(' ') { start } else { code.len() - text.chars().count() };
            return Context { asked: Asked::Directive(text.into()), start, word: code[start..].iter().collect() };
        }
        let mut rest = Backwards(&code[..start]);
        let asked = if rest.eat("::") {
            Asked::Path(rest.path())
        } else if rest.eat(".") {
            Asked::Member(rest.expression().unwrap_or_default())
        } else {
            Asked::Name
        };
        Context { asked, start, word }
    }
}

/// The expression that `code` ends with.
pub fn expression(code: &[char]) -> Option<Vec<Step>> {
    Backwards(code).expression()
}

/// Where the innermost bracket that is still open stands, if it is a round one.
pub fn open_call(code: &[char]) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.iter().enumerate().rev() {
        match c {
            ')' | ']' | '}' => depth += 1,
            '(' | '[' | '{' if depth > 0 => depth -= 1,
            '(' => return Some(at),
            '[' | '{' => return None,
            _ => {}
        }
    }
    None
}

struct Backwards<'a>(&'a [char]);

impl Backwards<'_> {
    fn space(&mut self) {
        while self.0.last().is_some_and(|c| c.is_whitespace()) {
            self.0 = &self.0[..self.0.len() - 1];
        }
    }

    fn eat(&mut self, text: &str) -> bool {
        self.space();
        let text: Vec<char> = text.chars().collect();
        let found = self.0.ends_with(&text);
        if found {
            self.0 = &self.0[..self.0.len() - text.len()];
        }
        found
    }

    fn word(&mut self) -> Option<String> {
        self.space();
        let length = self.0.iter().rev().take_while(|c| is_word(**c)).count();
        let (rest, word) = self.0.split_at(self.0.len() - length);
        self.0 = rest;
        (length > 0).then(|| word.iter().collect())
    }

    /// Steps over a bracket that ends here, and what is in it.
    fn group(&mut self, open: char, close: char) -> bool {
        self.space();
        let mut depth = 0;
        for (at, c) in self.0.iter().enumerate().rev() {
            depth += i32::from(*c == close) - i32::from(*c == open);
            // The arrow of a closure or function type is no bracket.
            if close == '>' && *c == '>' && at > 0 && matches!(self.0[at - 1], '-' | '=') {
                depth -= 1;
            }
            if depth == 0 {
                let found = *c == open;
                self.0 = if found { &self.0[..at] } else { self.0 };
                return found;
            }
        }
        false
    }

    /// `::<2>` and `<2>`.
    fn generics(&mut self) {
        if self.0.last() == Some(&'>') && self.group('<', '>') {
            self.eat("::");
        }
    }

    /// The segments of a path that ends here.
    fn path(&mut self) -> Vec<String> {
        let mut segments = Vec::new();
        loop {
            self.generics();
            let Some(word) = self.word() else { break };
            segments.insert(0, word);
            if !self.eat("::") {
                break;
            }
        }
        segments
    }

    fn expression(&mut self) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        loop {
            self.space();
            match self.0.last()? {
                '?' => {
                    self.eat("?");
                    steps.push(Step::Try);
                }
                ']' => {
                    self.group('[', ']').then_some(())?;
                    steps.push(Step::Element);
                }
                ')' => {
                    self.group('(', ')').then_some(())?;
                    self.generics();
                    let mut path = self.path();
                    if path.is_empty() {
                        return None;
                    }
                    steps.push(Step::Call);
                    if path.len() == 1 && self.eat(".") {
                        steps.pop();
                        steps.push(Step::Member(path.remove(0)));
                        continue;
                    }
                    steps.push(Step::Path(path));
                    break;
                }
                _ => {
                    let mut path = self.path();
                    match path.len() {
                        0 => return None,
                        1 if self.eat(".") => steps.push(Step::Member(path.remove(0))),
                        1 => {
                            steps.push(Step::Name(path.remove(0)));
                            break;
                        }
                        _ => {
                            steps.push(Step::Path(path));
                            break;
                        }
                    }
                }
            }
        }
        steps.reverse();
        Some(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(code: &str) -> Context {
        Context::before(&code.chars().collect::<Vec<_>>())
    }

    #[test]
    fn expressions_are_read_from_their_beginning() {
        let steps = |code: &str| match context(code).asked {
            Asked::Member(steps) => steps,
            other => panic!("{other:?}"),
        };
        let name = |text: &str| Step::Name(text.into());
        let member = |text: &str| Step::Member(text.into());
        assert_eq!(steps("let y = x.ma"), [name("x")]);
        assert_eq!(
            steps("f(x.clone().inner[2]?."),
            [name("x"), member("clone"), member("inner"), Step::Element, Step::Try]
        );
        let ones = Step::Path(vec!["Tensor".into(), "ones".into()]);
        assert_eq!(steps("Tensor::<2>::ones([2, (3)], &device)\n    ."), [ones, Step::Call]);
        assert_eq!(steps("make::<2>(a).b."), [Step::Path(vec!["make".into()]), Step::Call, member("b")]);
        assert_eq!(steps("(a + b)."), []);
    }

    #[test]
    fn paths_names_and_directives_are_told_apart() {
        assert_eq!(context("burn::nn::Lin").asked, Asked::Path(vec!["burn".into(), "nn".into()]));
        assert_eq!(context("Tensor::<2>::").asked, Asked::Path(vec!["Tensor".into()]));
        assert_eq!(context("1 + é"), Context { asked: Asked::Name, start: 4, word: "é".into() });
        assert_eq!(context("%va"), Context { asked: Asked::Directive("%va".into()), start: 0, word: "%va".into() });
        assert_eq!(context(":dep ser").start, 5);
        assert_eq!(context("%time a.b").asked, Asked::Member(vec![Step::Name("a".into())]));
    }

    #[test]
    fn the_call_around_the_cursor_is_found() {
        let call = |code: &str| open_call(&code.chars().collect::<Vec<_>>());
        assert_eq!(call("f(a, g(b), "), Some(1));
        assert_eq!(call("f(a)"), None);
    }
}
