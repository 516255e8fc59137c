//! Grammars that clients bring for the texts of free-form tools.

mod support;

use ds4_chat::json::Json;
use ds4_chat::special::Special;
use ds4_grammar::{Arguments, Entry, Grammar, GrammarError, InputGrammar, Shape, Syntax, ToolShape};

use support::{GRAMMARS, TOKENIZER, passes, stops, tokens};

fn tool(name: &str, syntax: Syntax, definition: &str) -> ToolShape {
    let grammar = InputGrammar { syntax, definition: definition.to_owned() };
    ToolShape { name: name.to_owned(), arguments: Arguments::Input(grammar) }
}

fn compile(syntax: Syntax, definition: &str) -> Result<Grammar, GrammarError> {
    GRAMMARS.compile(&Shape::calls(Entry::Call("edit".to_owned()), vec![tool("edit", syntax, definition)]))
}

/// A call with this text, after its opening tag.
fn call(text: &str) -> String {
    format!(
        "<{{D}}parameter name=\"input\" string=\"true\">{text}</{{D}}parameter>\n</{{D}}invoke>\n</{{D}}tool_calls>"
    )
}

/// Edits of files: a header, then for each file lines to add or take away.
const EDITS: &str = r#"
start: "BEGIN" LF file+ "END" LF?
file: "file " name LF line*
name: /[^\n]+/
line: SIGN /[^\n]*/ LF -> changed
SIGN: "+" | "-"
%import common.LF
"#;

#[test]
fn texts_follow_the_grammar_of_their_tool() {
    let grammar = compile(Syntax::Lark, EDITS).expect("a grammar like this");
    passes(&grammar, &call("BEGIN\nfile a.html\n+<p>x</p>\n-</div>\n+\nEND"));
    passes(&grammar, &call("BEGIN\nfile a\nfile b\n+x\nEND\n"));
    for wrong in [
        "",
        "BEGIN\nEND",
        "BEGIN\nfile a\n x\nEND",
        "BEGIN\nfile a\n+x\nEND\n\n",
        "BEGIN\nfile a\n+x\n",
        "begin\nfile a\nEND",
        "Sure:\nBEGIN\nfile a\nEND",
    ] {
        stops(&grammar, &call(wrong));
    }
    // The parameter is the only one, and a text.
    stops(&grammar, "</{D}invoke>\n</{D}tool_calls>");
    stops(&grammar, &call("BEGIN\nfile a\nEND").replace("input", "text"));
    stops(&grammar, &call("\"BEGIN\"").replace("true", "false"));
}

#[test]
fn regular_expressions_match_the_whole_text() {
    let grammar = compile(Syntax::Regex, r"^[a-z]+/\d{2,3}$").expect("an expression like this");
    passes(&grammar, &call("abc/12"));
    passes(&grammar, &call("abc/123"));
    for wrong in ["abc/1", "abc/1234", "xabc/12 ", "/12", ""] {
        stops(&grammar, &call(wrong));
    }
    let either = compile(Syntax::Regex, "yes|no").expect("an expression like this");
    passes(&either, &call("no"));
    stops(&either, &call("yesno"));
    let empty = compile(Syntax::Regex, "^$").expect("nothing is a text, too");
    passes(&empty, &call(""));
    stops(&empty, &call(" "));
}

/// What closes the text, `</` and a token, is decided by the token where the text may hold `</`.
#[test]
fn a_text_may_hold_what_closes_it() {
    for (syntax, definition) in [
        (Syntax::Regex, r"(?s:.+)"),
        (Syntax::Lark, "start: /(?s:.)+/"),
        (Syntax::Lark, "start: part+\npart: /[^<]+/ | TAG | /<+/\nTAG: /<[^<>]*>?/"),
    ] {
        let grammar = compile(syntax, definition).expect(definition);
        for text in ["a", "a</", "</a>", "x</y></</", "<<", "multi\nline)</b>"] {
            passes(&grammar, &call(text));
        }
        stops(&grammar, &call(""));
    }
    // The text itself has to be whole, with the `</` that it must end with and without the one that closes it.
    let ends_so = compile(Syntax::Regex, "a+</").expect("an expression like this");
    passes(&ends_so, &call("aa</"));
    stops(&ends_so, &call("aa"));
    let lines = compile(Syntax::Lark, "start: (/[^\\n;]*/ \"\\n\")+ /[^\\n;]+/ \";\"").expect("a grammar like this");
    passes(&lines, &call("a</\nb</;"));
    stops(&lines, &call("a</\nb</"));
}

#[test]
fn each_tool_has_its_own_grammar() {
    let free = ToolShape { name: "free".to_owned(), arguments: Arguments::Any };
    let tools = vec![
        tool("digits", Syntax::Regex, "[0-9]+"),
        free,
        tool("letters", Syntax::Lark, "start: WORD\nWORD: /[a-z]+/"),
    ];
    let grammar = GRAMMARS.compile(&Shape::calls(Entry::Opener, tools)).expect("tools like these");
    let one = |name: &str, text: &str| {
        format!(
            "<{{D}}invoke name=\"{name}\">\n<{{D}}parameter name=\"input\" string=\"true\">{text}</{{D}}parameter>\n</{{D}}invoke>\n"
        )
    };
    let block = |calls: &[String]| format!("tool_calls>\n{}</{{D}}tool_calls>", calls.concat());
    passes(&grammar, &block(&[one("digits", "12"), one("letters", "ab"), one("free", "1 </a> b"), one("digits", "3")]));
    stops(&grammar, &block(&[one("digits", "ab")]));
    stops(&grammar, &block(&[one("digits", "12"), one("letters", "12")]));
}

#[test]
fn no_control_token_gets_into_a_text() {
    for definition in ["start: /(?s:.)*/", "start: \"｜DSML｜\" | /[^a]+/"] {
        let grammar = compile(Syntax::Lark, definition).expect(definition);
        let mut matcher = grammar.matcher();
        for token in tokens("<{D}parameter name=\"input\" string=\"true\">x") {
            assert!(matcher.allowed().allows(token));
            matcher.accept(token);
            if Some(token) == TOKENIZER.special(Special::Dsml) {
                continue;
            }
            let allowed = matcher.allowed();
            let let_in = (0..TOKENIZER.vocab_size() as u32).find(|&id| TOKENIZER.is_control(id) && allowed.allows(id));
            // The one that opens the parameter comes after its `<`.
            assert!(let_in.is_none() || let_in == TOKENIZER.special(Special::Dsml), "{let_in:?}");
        }
        let dsml = TOKENIZER.special(Special::Dsml).expect("always there");
        assert!(!matcher.allowed().allows(dsml), "nothing has closed the text");
    }
}

#[test]
fn what_is_wrong_with_a_grammar_is_said() {
    for (syntax, definition, told) in [
        (Syntax::Lark, "start: <[5]>", "line 1: tokens"),
        (Syntax::Lark, "start: \"a\" <｜User｜>", "line 1: tokens"),
        (Syntax::Lark, "start: \"a\"\n  @input0", "line 2: other grammars"),
        (Syntax::Lark, "start: %json {\"type\": \"object\"}", "%json"),
        (Syntax::Lark, "word: \"a\"", "start"),
        (Syntax::Lark, "start: \"a\"\nb: missing", ""),
        (Syntax::Lark, "start: missing", "missing"),
        (Syntax::Lark, "start: WORD\n\nWORD: /(?=a)b/", "line 3"),
        (Syntax::Lark, "start: \"a", "no end"),
        (Syntax::Lark, "start (", "line 1"),
        (Syntax::Lark, "", "start"),
        (Syntax::Lark, "start: start", ""),
        (Syntax::Lark, "start: word{\"a\"}\nword{x}: x", ""),
        (Syntax::Lark, "%import python.NAME\nstart: NAME", "python.NAME"),
        (Syntax::Regex, "a(b", ""),
        (Syntax::Regex, "(a)\\1", ""),
        (Syntax::Regex, "(?=a)b", ""),
        (Syntax::Regex, "(?-u:\\xff)5", ""),
    ] {
        let Err(error) = compile(syntax, definition) else {
            assert_eq!(definition, "start: \"a\"\nb: missing", "what is not used is not looked at");
            continue;
        };
        println!("{error}");
        assert!(matches!(&error, GrammarError::Input { tool, .. } if tool == "edit"), "{definition}: {error}");
        let message = error.to_string();
        assert!(
            message.contains(told) && message.lines().count() == 1 && message.len() < 500,
            "{definition}: {message}"
        );
    }
}

/// What costs too much is refused, or stays cheap.
#[test]
fn hostile_grammars_cost_little() {
    let many = (0..5_000).map(|n| format!("r{n}: \"{n}\" r{}?\n", (n + 1) % 5_000)).collect::<String>();
    let deep = format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
    let nested =
        format!("start: a0\n{}a25: \"x\"\n", (0..25).map(|n| format!("a{n}: a{0} a{0}\n", n + 1)).collect::<String>());
    for (syntax, definition) in [
        (Syntax::Lark, format!("start: r0\n{many}")),
        (Syntax::Lark, deep),
        (Syntax::Lark, nested),
        (Syntax::Lark, "start: \"a\"~1000000000".to_owned()),
        (Syntax::Lark, "start: (\"a\"~0..1000)~0..1000".to_owned()),
        (Syntax::Lark, "start: start start | \"a\" | ".to_owned()),
        (Syntax::Lark, "start: a\na: b | \nb: a a | \"a\"".to_owned()),
        (Syntax::Lark, "start: /(([a-z]{1,500}){1,500}){1,500}/".to_owned()),
        (Syntax::Lark, "start: A\nA: B B B B\nB: C C C C\nC: /(a|aa){0,300}/".to_owned()),
        (Syntax::Lark, "x".repeat(100_000)),
        (Syntax::Regex, "(x|y){0,9}.{900}(z|.{800}){100}".to_owned()),
        (Syntax::Regex, "((a*)*)*b".to_owned()),
        (Syntax::Regex, "(".repeat(30_000)),
    ] {
        let label: String = definition.chars().take(60).collect();
        let Ok(grammar) = compile(syntax, &definition) else { continue };
        let mut matcher = grammar.matcher();
        for token in
            tokens("<{D}parameter name=\"input\" string=\"true\">").into_iter().chain(tokens("aaaa").repeat(20))
        {
            if matcher.allowed().allows(token) {
                matcher.accept(token);
            }
        }
        // It may come to its limits only when it is used; then it says so.
        let limited = |reason: &str| reason.contains("omplex") || reason.contains("too many");
        assert!(matcher.failure().is_none_or(limited), "{label}: {:?}", matcher.failure());
    }
    let tools = (0..200).map(|n| tool(&format!("t{n}"), Syntax::Regex, "a")).collect();
    assert!(matches!(GRAMMARS.compile(&Shape::calls(Entry::Block, tools)), Err(GrammarError::Input { .. })));
}

/// A grammar and a schema side by side.
#[test]
fn strict_tools_stand_beside_free_form_ones() {
    let schema = Json::parse(r#"{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}"#);
    let strict = ToolShape { name: "count".to_owned(), arguments: Arguments::Schema(schema.expect("valid")) };
    let tools = vec![strict, tool("edit", Syntax::Lark, EDITS)];
    let grammar = GRAMMARS.compile(&Shape::calls(Entry::Block, tools)).expect("tools like these");
    let count =
        "<{D}invoke name=\"count\">\n<{D}parameter name=\"n\" string=\"false\">5</{D}parameter>\n</{D}invoke>\n";
    passes(&grammar, &format!("{count}<{{D}}invoke name=\"edit\">\n{}", call("BEGIN\nfile a\nEND")));
    stops(&grammar, &format!("{count}<{{D}}invoke name=\"edit\">\n{}", call("BEGIN")));
}
