//! `sh -c`: just enough of a shell for one-line tests.
//!
//! It knows commands in a row (`;`, newline, `&&`, `||`), quotes, `$NAME`, `$?`, the redirections `>FILE`, `>>FILE`,
//! `>&2`, `2>&1`, and the builtins `exit`, `exec`, `cd`, `:` and `trap '' TERM`. Anything else of a shell's grammar is
//! an error, so that no test passes by being misunderstood.

use protocol::Result;

use crate::{
    process::OnTerminate,
    programs::{Context, Sink},
    sync::lock,
};

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `;`, newline, `&&`, `||`
    Separator(&'static str),
    /// `>`, `>>`, `>&2`, `2>&1`
    Redirect(&'static str),
}

/// Words that begin what this shell does not have.
const RESERVED: &[&str] = &["if", "while", "until", "for", "case", "{", "function", "!"];

/// `sh -c SCRIPT`, `sh SCRIPTFILE`
pub(crate) async fn sh(context: Context) -> Result<i32> {
    let script = match (context.arg(0), context.arg(1)) {
        ("-c", script) => script.to_owned(),
        ("", _) => return context.complain(2, "sh: the fake's shell needs -c or a file").await,
        (path, _) => match context.read_file(path) {
            Ok(script) => String::from_utf8_lossy(&script).into_owned(),
            Err(refusal) => return context.complain(2, format!("sh: can't open {refusal}")).await,
        },
    };
    Shell { context, status: 0 }.run(&script).await
}

struct Shell {
    context: Context,
    status: i32,
}

/// Whether the script goes on after a command.
enum Next {
    GoOn,
    Exit,
}

impl Shell {
    async fn run(mut self, script: &str) -> Result<i32> {
        let mut rest = script;
        let mut separator = ";";
        while !rest.is_empty() {
            // One command at a time, since `$?` and `$NAME` are those of the moment.
            let (tokens, end, after) = match self.next_command(rest) {
                Ok(parsed) => parsed,
                Err(reason) => return self.context.complain(2, format!("sh: {reason}")).await,
            };
            let wanted = match separator {
                "&&" => self.status == 0,
                "||" => self.status != 0,
                _ => true,
            };
            if wanted
                && !tokens.is_empty()
                && let Next::Exit = self.command(tokens).await?
            {
                return Ok(self.status);
            }
            (separator, rest) = (end, after);
        }
        Ok(self.status)
    }

    /// The tokens up to the next separator, that separator, and what follows it.
    fn next_command<'a>(&self, script: &'a str) -> Result<(Vec<Token>, &'static str, &'a str), String> {
        let mut tokens = Vec::new();
        let mut rest = script;
        while let Some((token, after)) = self.next_token(rest)? {
            rest = after;
            match token {
                Token::Separator(separator) => return Ok((tokens, separator, rest)),
                token => tokens.push(token),
            }
        }
        Ok((tokens, ";", ""))
    }

    fn next_token<'a>(&self, script: &'a str) -> Result<Option<(Token, &'a str)>, String> {
        let script = script.trim_start_matches([' ', '\t']);
        if script.is_empty() || script.starts_with('#') && !script.contains('\n') {
            return Ok(None);
        }
        if script.starts_with('#') {
            return Ok(script.find('\n').map(|end| (Token::Separator(";"), &script[end + 1..])));
        }
        for separator in [";", "\n", "&&", "||"] {
            if let Some(rest) = script.strip_prefix(separator) {
                return Ok(Some((Token::Separator(separator), rest)));
            }
        }
        for redirect in ["2>&1", ">&2", "1>&2", ">>", ">"] {
            if let Some(rest) = script.strip_prefix(redirect) {
                let redirect = if redirect == "1>&2" { ">&2" } else { redirect };
                return Ok(Some((Token::Redirect(redirect), rest)));
            }
        }
        self.word(script).map(|(word, rest)| Some((Token::Word(word), rest)))
    }

    fn word<'a>(&self, script: &'a str) -> Result<(String, &'a str), String> {
        let mut word = String::new();
        let mut rest = script;
        let mut quoted = false;
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            match c {
                '"' => {
                    quoted = !quoted;
                    rest = after;
                }
                '\'' if !quoted => {
                    let (text, end) = after.split_once('\'').ok_or("unterminated quoted string")?;
                    word.push_str(text);
                    rest = end;
                }
                '\\' => {
                    let escaped = after.chars().next().ok_or("nothing after a backslash")?;
                    word.push(escaped);
                    rest = &after[escaped.len_utf8()..];
                }
                '$' => {
                    let (value, end) = self.variable(after)?;
                    word.push_str(&value);
                    rest = end;
                }
                ' ' | '\t' | '\n' | ';' | '>' if !quoted => break,
                '&' | '|' if !quoted && (after.starts_with(c)) => break,
                '`' | '|' | '&' | '(' | ')' | '<' | '*' | '?' if !quoted => {
                    return Err(format!("the fake's shell does not know {c:?}"));
                }
                c => {
                    word.push(c);
                    rest = after;
                }
            }
        }
        if quoted { Err("unterminated quoted string".into()) } else { Ok((word, rest)) }
    }

    /// The value of the variable whose name `text` begins with.
    fn variable<'a>(&self, text: &'a str) -> Result<(String, &'a str), String> {
        if let Some(rest) = text.strip_prefix('?') {
            return Ok((self.status.to_string(), rest));
        }
        let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        if name.is_empty() {
            return Err(format!("the fake's shell does not know ${}", text.chars().next().unwrap_or(' ')));
        }
        Ok((self.context.env.get(name).cloned().unwrap_or_default(), rest))
    }

    async fn command(&mut self, tokens: Vec<Token>) -> Result<Next> {
        let mut words = Vec::new();
        let mut context = self.context.clone();
        let mut tokens = tokens.into_iter();
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) => words.push(word),
                Token::Redirect(">&2") => context.stdout = context.stderr.clone(),
                Token::Redirect("2>&1") => context.stderr = context.stdout.clone(),
                Token::Redirect(kind) => {
                    let Some(Token::Word(path)) = tokens.next() else {
                        self.status =
                            self.context.complain(2, "sh: syntax error: no file to redirect to").await?;
                        return Ok(Next::Exit);
                    };
                    match open(&context, &path, kind == ">") {
                        Ok(sink) => context.stdout = sink,
                        Err(refusal) => {
                            let refusal = format!("sh: can't create {refusal}");
                            self.status = self.context.complain(1, refusal).await?;
                            return Ok(Next::GoOn);
                        }
                    }
                }
                Token::Separator(_) => {}
            }
        }
        let Some((name, args)) = words.split_first() else { return Ok(Next::GoOn) };
        context.args = args.to_vec();
        self.execute(name, context).await
    }

    async fn execute(&mut self, name: &str, context: Context) -> Result<Next> {
        match name {
            "exit" => {
                self.status = context.arg(0).parse().unwrap_or(self.status) & 0xff;
                return Ok(Next::Exit);
            }
            ":" => self.status = 0,
            "cd" => self.status = self.change_dir(context.arg(0)).await?,
            "trap" if context.args == ["", "TERM"] => context.on_terminate(OnTerminate::Ignore),
            "trap" => {
                self.status = context.complain(2, "sh: the fake's shell knows only trap '' TERM").await?;
                return Ok(Next::Exit);
            }
            "exec" => {
                let (program, args) =
                    (context.arg(0).to_owned(), context.args[1.min(context.args.len())..].to_vec());
                self.status = run_program(&program, Context { args, ..context }).await?;
                return Ok(Next::Exit);
            }
            name if RESERVED.contains(&name) => {
                self.status =
                    context.complain(2, format!("sh: the fake's shell does not know {name:?}")).await?;
                return Ok(Next::Exit);
            }
            name => self.status = run_program(name, context).await?,
        }
        Ok(Next::GoOn)
    }

    async fn change_dir(&mut self, path: &str) -> Result<i32> {
        let at = {
            let files = lock(&self.context.files);
            let at = files.resolve(&self.context.dir, path, true);
            at.ok().filter(|at| files.get(at).is_some_and(|node| node.is_dir()))
        };
        match at {
            Some(at) => {
                self.context.dir = if at.is_empty() { "/".into() } else { at };
                Ok(0)
            }
            None => self.context.complain(2, format!("sh: cd: can't cd to {path}")).await,
        }
    }
}

async fn run_program(name: &str, context: Context) -> Result<i32> {
    let search = context.env.get("PATH").map_or("", String::as_str);
    match context.programs.find(name, search) {
        Ok(program) => program(context).await,
        Err(_) => context.complain(127, format!("sh: {name}: not found")).await,
    }
}

/// Opens a file for output.
fn open(context: &Context, path: &str, truncate: bool) -> Result<Sink, String> {
    let mut files = lock(&context.files);
    files.write(&context.dir, path, &context.user, b"", truncate)?;
    Ok(Sink::File(files.resolve(&context.dir, path, true)?))
}
