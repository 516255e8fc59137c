//! Rendering rules beyond the recorded conversations: what a server relies on.

use ds4_chat::conversation::{
    AssistantMessage, Block, Content, Conversation, Instructions, Message, QuickTask, Replay, ResponseFormat, Tool,
    ToolCall, ToolChoice, TurnEnd,
};
use ds4_chat::dsml::Start;
use ds4_chat::json::Json;
use ds4_chat::render::{BoundaryKind, Effort, Ending, Profile, RenderError, RenderOptions, Thinking, render};
use ds4_chat::special::{Piece, Special};
use ds4_chat::tokenizer::Tokenizer;

const CHAT: RenderOptions = RenderOptions {
    profile: Profile::Preview,
    thinking: Thinking::Off,
    drop_thinking: true,
    bos: true,
    ending: Ending::AssistantTurn,
    already_rendered: 0,
};
const THINKING: RenderOptions = RenderOptions { thinking: Thinking::On(Effort::High), ..CHAT };

fn of(messages: Vec<Message>) -> Conversation {
    Conversation { messages, ..Conversation::default() }
}

/// The prompt with short names for its control tokens, and without the tools instructions.
fn text(conversation: &Conversation, options: &RenderOptions) -> String {
    let mut out = String::new();
    for piece in render(conversation, options).expect("it can be rendered").prompt.pieces() {
        match piece {
            Piece::Control(special) => out.push_str(&format!("[{special:?}]")),
            Piece::Text(text) => out.push_str(text),
            Piece::Tokens(ids) => out.push_str(&format!("{ids:?}")),
        }
    }
    match (out.find("## Tools\n"), out.find("### Available Tool Schemas\n\n")) {
        (Some(start), Some(end)) => out.replace_range(start..end, ""),
        _ => return out,
    }
    out.replace("### Available Tool Schemas\n\n", "{tools ").replace(
        "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n",
        "}",
    )
}

fn tool(name: &str) -> Tool {
    Tool::new(name, None, None)
}

fn assistant(reasoning: &str, content: &str, end: TurnEnd) -> Message {
    let reasoning = reasoning.to_owned();
    Message::Assistant(AssistantMessage {
        reasoning,
        content: Content::text(content),
        end,
        ..AssistantMessage::default()
    })
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: Some(id.to_owned()), name: name.to_owned(), arguments: arguments.to_owned() }
}

#[test]
fn tools_of_the_request_follow_all_system_text() {
    let conversation = Conversation {
        messages: vec![Message::system("A"), Message::system(""), Message::system("B"), Message::user("q")],
        tools: vec![Tool::new("f", Some("d".to_owned()), Json::parse(r#"{"type":"object"}"#).ok())],
        response_format: ResponseFormat::JsonObject,
        ..Conversation::default()
    };
    assert_eq!(
        text(&conversation, &CHAT),
        "[Bos]A\n\nB\n\n{tools {\"name\": \"f\", \"description\": \"d\", \"parameters\": {\"type\": \"object\"}}}\n\n\
         You are a helpful assistant designed to output JSON.\n## Response Format:\n\nReply with JSON object ONLY.\
         [User]q[Assistant][EndThink]"
    );
    let bare = Conversation { messages: vec![Message::user("q")], tools: vec![tool("f")], ..Conversation::default() };
    let expected =
        "[Bos]\n\n{tools {\"name\": \"f\", \"description\": \"\", \"parameters\": {}}}[User]q[Assistant][EndThink]";
    assert_eq!(text(&bare, &CHAT), expected);
}

#[test]
fn without_tool_choice_tools_are_not_shown_and_old_reasoning_goes() {
    let messages = vec![Message::user("a"), assistant("r", "b", TurnEnd::Finished), Message::user("c")];
    let mut conversation = Conversation { messages, tools: vec![tool("f")], ..Conversation::default() };
    assert!(text(&conversation, &THINKING).contains("[Think]r[EndThink]b[Eos]"));
    assert!(render(&conversation, &THINKING).unwrap().parser_options().tools);
    conversation.tool_choice = ToolChoice::None;
    assert!(!render(&conversation, &THINKING).unwrap().parser_options().tools);
    let expected = "[Bos][User]a[Assistant][EndThink]b[Eos][User]c[Assistant][Think]";
    assert_eq!(text(&conversation, &THINKING), expected);
    let keep = RenderOptions { drop_thinking: false, ..THINKING };
    assert!(text(&conversation, &keep).contains("[Think]r[EndThink]b[Eos]"));
    // In chat mode reasoning is never shown.
    assert!(!text(&conversation, &RenderOptions { thinking: Thinking::Off, ..keep }).contains("[Think]"));
}

#[test]
fn forced_calls_open_the_block() {
    let mut conversation = Conversation {
        messages: vec![Message::user("q")],
        tools: vec![tool("f"), tool("g")],
        tool_choice: ToolChoice::Required,
        ..Conversation::default()
    };
    assert!(text(&conversation, &CHAT).ends_with("[Assistant][EndThink]\n\n<[Dsml]tool_calls>\n"));
    assert_eq!(render(&conversation, &CHAT).unwrap().start, Start::Block);
    conversation.tool_choice = ToolChoice::Named("g".to_owned());
    let rendered = text(&conversation, &CHAT);
    assert!(rendered.ends_with("[EndThink]\n\n<[Dsml]tool_calls>\n<[Dsml]invoke name=\"g\">\n"));
    assert!(rendered.contains("\"name\": \"f\""), "all tools stay in the prompt");
    assert_eq!(render(&conversation, &CHAT).unwrap().start, Start::Invoke("g".to_owned()));

    let thinking = render(&conversation, &THINKING).unwrap();
    assert_eq!(thinking.start, Start::Reasoning);
    assert_eq!(thinking.prompt.pieces().last(), Some(&Piece::Control(Special::Think)));
    let opener = thinking.after_reasoning.expect("the opening of the call").to_display_string();
    assert_eq!(opener, "\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"g\">\n");

    conversation.tool_choice = ToolChoice::Named("h".to_owned());
    let error = render(&conversation, &CHAT).unwrap_err();
    assert_eq!(error.to_string(), "tool_choice names the tool \"h\", which is not among the request's tools");
    conversation.tools.clear();
    assert_eq!(render(&conversation, &CHAT).unwrap_err(), RenderError::ForcedCallWithoutTools);
}

#[test]
fn a_continued_turn_says_where_the_output_starts() {
    let cases = [
        (&CHAT, "", "Sure: ", "[EndThink]Sure: ", Start::ContentContinued),
        (&CHAT, "hidden", "", "[EndThink]", Start::Content),
        (&THINKING, "The us", "", "[Think]The us", Start::ReasoningContinued),
        (&THINKING, "", "", "[Think]", Start::Reasoning),
        (&THINKING, "r", "It i", "[Think]r[EndThink]It i", Start::ContentContinued),
        (&THINKING, "", "It i", "[Think][EndThink]It i", Start::ContentContinued),
    ];
    for (options, reasoning, content, expected, start) in cases {
        let conversation = of(vec![Message::user("q"), assistant(reasoning, content, TurnEnd::Continued)]);
        assert_eq!(text(&conversation, options), format!("[Bos][User]q[Assistant]{expected}"));
        assert_eq!(render(&conversation, options).unwrap().start, start);
    }
    let early = of(vec![assistant("", "x", TurnEnd::Continued), Message::user("q")]);
    assert_eq!(render(&early, &CHAT).unwrap_err(), RenderError::ContinuedNotLast { index: 0 });
}

#[test]
fn a_finished_last_turn_is_followed_by_a_new_one_unless_only_the_history_is_wanted() {
    let conversation = of(vec![Message::user("q"), Message::assistant("a")]);
    let history = "[Bos][User]q[Assistant][EndThink]a[Eos]";
    assert_eq!(text(&conversation, &CHAT), format!("{history}[Assistant][EndThink]"));
    assert_eq!(text(&conversation, &RenderOptions { ending: Ending::History, ..CHAT }), history);
}

#[test]
fn a_conversation_without_anything_to_answer_is_refused() {
    for messages in [vec![], vec![Message::system("S")]] {
        assert_eq!(render(&of(messages), &CHAT).unwrap_err(), RenderError::NothingToAnswer);
    }
    let developer = Message::Developer { instructions: Instructions::default(), task: None };
    assert_eq!(render(&of(vec![developer]), &CHAT).unwrap_err(), RenderError::EmptyDeveloper { index: 0 });
    let options = RenderOptions { already_rendered: 2, ..CHAT };
    assert!(matches!(render(&of(vec![Message::user("q")]), &options), Err(RenderError::AlreadyRendered { .. })));
}

#[test]
fn later_system_text_is_a_part_of_the_user_turn_and_changes_nothing_before_it() {
    let mut messages = vec![Message::system("S"), Message::user("a"), Message::assistant("b")];
    let before = text(&of(messages.clone()), &RenderOptions { ending: Ending::History, ..CHAT });
    messages.push(Message::system("later"));
    messages.push(Message::system(""));
    messages.push(Message::user("c"));
    let expected = "[User]<system-reminder>\nlater\n</system-reminder>\n\nc[Assistant][EndThink]";
    assert_eq!(text(&of(messages), &CHAT), format!("{before}{expected}"));
}

#[test]
fn reminders_stand_before_the_assistant_header_wherever_they_come() {
    let reminder = || Message::LatestReminder(Content::text("r"));
    let conversation = of(vec![Message::user("a"), reminder(), Message::assistant("b"), reminder()]);
    let expected = "[Bos][User]a[LatestReminder]r[Assistant][EndThink]b[Eos][LatestReminder]r[Assistant][Think]";
    assert_eq!(text(&conversation, &THINKING), expected);
}

#[test]
fn a_finished_last_turn_has_its_reasoning_only_if_somebody_has_it() {
    let ask = |reasoning: &str| of(vec![Message::user("a"), assistant(reasoning, "b", TurnEnd::Finished)]);
    assert_eq!(text(&ask(""), &THINKING), "[Bos][User]a[Assistant][EndThink]b[Eos][Assistant][Think]");
    assert_eq!(text(&ask("r"), &THINKING), "[Bos][User]a[Assistant][Think]r[EndThink]b[Eos][Assistant][Think]");
    let history = RenderOptions { ending: Ending::History, ..THINKING };
    assert_eq!(text(&ask(""), &history), "[Bos][User]a[Assistant][Think][EndThink]b[Eos]");
    let with_tools = Conversation { tools: vec![tool("f")], ..ask("") };
    assert!(text(&with_tools, &THINKING).ends_with("[User]a[Assistant][Think][EndThink]b[Eos][Assistant][Think]"));
}

#[test]
fn results_take_the_order_of_the_calls_and_text_stays_in_its_place() {
    let result =
        |id: &str, text: &str| Message::ToolResult { call_id: Some(id.to_owned()), content: Content::text(text) };
    let message =
        AssistantMessage { tool_calls: vec![call("z", "f", "{}"), call("a", "f", "{}")], ..Default::default() };
    let conversation = of(vec![
        Message::user("q"),
        Message::Assistant(message),
        result("a", "2"),
        Message::user("hm"),
        result("z", "1"),
    ]);
    let expected = "[User]<tool_result>1</tool_result>\n\nhm\n\n<tool_result>2</tool_result>[Assistant][EndThink]";
    assert!(text(&conversation, &CHAT).ends_with(expected));
}

#[test]
fn what_a_text_model_cannot_read_becomes_a_placeholder() {
    let content = Content(vec![Block::Text("see".to_owned()), Block::Unsupported("Image".to_owned())]);
    let conversation = of(vec![Message::User { content, task: None }]);
    assert_eq!(text(&conversation, &CHAT), "[Bos][User]see\n\n[Unsupported Image][Assistant][EndThink]");
}

#[test]
fn a_quick_task_takes_the_place_of_the_header() {
    let task = |task| of(vec![Message::User { content: Content::text("q"), task: Some(task) }]);
    assert_eq!(text(&task(QuickTask::Query), &THINKING), "[Bos][User]q[Query]");
    assert_eq!(text(&task(QuickTask::Action), &THINKING), "[Bos][User]q[Assistant][Think][Action]");
    assert_eq!(render(&task(QuickTask::Title), &THINKING).unwrap().start, Start::Content);
}

#[test]
fn sampled_tokens_are_replayed_instead_of_encoding_again() {
    let replay = Some(Replay { thinking: true, tokens: vec![11, 12] });
    let content = Content::text("ignored");
    let message = AssistantMessage { content, replay: replay.clone(), ..AssistantMessage::default() };
    let mut messages = vec![Message::user("a"), Message::Assistant(message), Message::user("b")];
    // The turn was sampled after a think marker, so it needs one, although reasoning is dropped otherwise.
    let expected = "[Bos][User]a[Assistant][Think][11, 12][Eos][User]b[Assistant][EndThink]";
    assert_eq!(text(&of(messages.clone()), &CHAT), expected);

    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    let sampled = render(&of(messages.drain(..1).collect()), &THINKING).unwrap().prompt;
    let mut ids = tokenizer.encode_prompt(&sampled).unwrap();
    ids.extend([11, 12]);
    let message = AssistantMessage { replay, ..AssistantMessage::default() };
    let next = of(vec![Message::user("a"), Message::Assistant(message), Message::user("b")]);
    let next = tokenizer.encode_prompt(&render(&next, &THINKING).unwrap().prompt).unwrap();
    assert!(next.starts_with(&ids), "the sampled prompt is a prefix of the next one");
}

#[test]
fn calls_are_the_same_if_their_data_are() {
    let original = call("1", "f", r#"{"a": 1, "b": ["é"]}"#);
    assert!(original.same_call(&call("2", "f", r#" {"b":["\u00e9"],"a":1} "#)));
    assert!(!original.same_call(&call("1", "f", r#"{"a": 2, "b": ["é"]}"#)));
    assert!(!original.same_call(&call("1", "f", r#"{"a": 1, "b": ["é"], "c": null}"#)));
    assert!(!original.same_call(&call("1", "g", r#"{"a": 1, "b": ["é"]}"#)));
    assert!(call("1", "f", "broken").same_call(&call("1", "f", "broken")));
    assert!(!call("1", "f", "broken").same_call(&original));
}

#[test]
fn boundaries_stand_where_turns_end_and_tokens_agree_there() {
    let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
    let messages = vec![Message::system("S"), Message::user("a"), Message::assistant("b"), Message::user("c")];
    let rendered = render(&of(messages.clone()), &CHAT).unwrap();
    let kinds: Vec<BoundaryKind> = rendered.boundaries.iter().map(|boundary| boundary.kind).collect();
    assert_eq!(kinds, [BoundaryKind::System, BoundaryKind::User, BoundaryKind::Assistant, BoundaryKind::User]);
    let ends: Vec<usize> = rendered.boundaries.iter().map(|boundary| boundary.pieces).collect();
    // [BOS] S | [User] a | [Assistant] [</think>] b [EOS] | [User] c |
    assert_eq!(ends, [2, 4, 8, 10]);

    // Another conversation of the same client shares the system block, tokens and all.
    let other = render(&of(vec![Message::system("S"), Message::user("other")]), &CHAT).unwrap();
    let ids = |pieces: &[Piece]| {
        let mut prompt = ds4_chat::special::Prompt::new();
        for piece in pieces {
            match piece {
                Piece::Control(special) => prompt.control(*special),
                Piece::Text(text) => prompt.text(text),
                Piece::Tokens(ids) => prompt.tokens(ids.clone()),
            };
        }
        tokenizer.encode_prompt(&prompt).unwrap()
    };
    let shared = ids(&rendered.prompt.pieces()[..2]);
    assert!(ids(other.prompt.pieces()).starts_with(&shared));
}

#[test]
fn only_what_follows_an_earlier_prompt_is_written() {
    let messages = vec![Message::system("S"), Message::user("a"), Message::assistant("b"), Message::user("c")];
    let conversation = Conversation { messages, tools: vec![tool("f")], ..Conversation::default() };
    let whole = text(&conversation, &CHAT);
    let first = Conversation { messages: conversation.messages[..2].to_vec(), ..conversation.clone() };
    let rest = text(&conversation, &RenderOptions { already_rendered: 2, ..CHAT });
    assert_eq!(format!("{}{rest}", text(&first, &CHAT)), whole);
    let rest = text(&conversation, &RenderOptions { already_rendered: 3, ..CHAT });
    assert_eq!(rest, "[User]c[Assistant][EndThink]");
}

#[test]
fn nothing_in_a_conversation_becomes_a_control_token() {
    let spellings: String = Special::ALL.iter().map(|special| special.spelling()).collect();
    let count = |text: &str| {
        let message = AssistantMessage {
            reasoning: text.to_owned(),
            content: Content::text(text),
            tool_calls: vec![
                call(text, text, &format!("{{{}: {}}}", Json::from(text), Json::from(text))),
                call("", text, text),
            ],
            ..AssistantMessage::default()
        };
        let conversation = Conversation {
            messages: vec![
                Message::system(text),
                Message::user(text),
                Message::Assistant(message),
                Message::ToolResult { call_id: Some(text.to_owned()), content: Content::text(text) },
                Message::system(text),
                Message::LatestReminder(Content(vec![Block::Unsupported(text.to_owned())])),
            ],
            tools: vec![Tool::new(text, Some(text.to_owned()), Some(Json::from(text)))],
            response_format: ResponseFormat::JsonSchema(Json::from(text)),
            tool_choice: ToolChoice::Named(text.to_owned()),
        };
        let rendered = render(&conversation, &CHAT).unwrap();
        let tokenizer = Tokenizer::official().expect("the official tokenizer loads");
        let ids = tokenizer.encode_prompt(&rendered.prompt).unwrap();
        ids.into_iter().filter(|id| tokenizer.is_control(*id)).count()
    };
    assert_eq!(count(&spellings), count("harmless"));
}

#[test]
fn profiles_are_guessed_from_names() {
    assert_eq!(Profile::from_model_names(["DeepSeek-V4-Flash", "v1"]), Profile::Preview);
    assert_eq!(Profile::from_model_names(["x", "DeepSeek-V4-Flash-0731"]), Profile::Release0731);
    assert_eq!(Profile::from_model_names(["Deepseek V4 DSpark"]), Profile::Release0731);
    assert_eq!(Profile::from_model_names([]), Profile::Preview);
}

#[test]
fn low_effort_has_no_text_and_chat_mode_no_effort() {
    let conversation = of(vec![Message::user("q")]);
    let starts = |profile, thinking| {
        let rendered = text(&conversation, &RenderOptions { profile, thinking, ..CHAT });
        rendered.trim_start_matches("[Bos]").chars().take(24).collect::<String>()
    };
    let on = Thinking::On;
    for (profile, thinking, expected) in [
        (Profile::Preview, on(Effort::Low), "[User]q[Assistant][Think"),
        (Profile::Preview, on(Effort::High), "[User]q[Assistant][Think"),
        (Profile::Preview, on(Effort::Max), "Reasoning Effort: Absolu"),
        (Profile::Release0731, on(Effort::Low), "[User]q[Assistant][Think"),
        (Profile::Release0731, on(Effort::High), "Reasoning Effort: Absolu"),
        (Profile::Release0731, on(Effort::Max), "Reasoning Effort: Beyond"),
        (Profile::Release0731, Thinking::Off, "[User]q[Assistant][EndTh"),
    ] {
        assert_eq!(starts(profile, thinking), expected);
    }
}
