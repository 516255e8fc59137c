//! Prompts beside those of the hosted service's own library.

use ds4_chat::json::Json;
use ds4_chat::render::{Profile, RenderOptions, render};

use crate::api::Api;
use crate::error::ApiError;
use crate::generation::{ChatPrompt, PromptSource};

/// The conversation that a request asks to continue.
pub(crate) fn chat_of(source: PromptSource) -> ChatPrompt {
    let PromptSource::Chat(chat) = source else { unreachable!("a request with a conversation") };
    *chat
}

/// The text of a prompt.
pub(crate) fn text_of(chat: &ChatPrompt, api: Api) -> Result<String, ApiError> {
    let options = RenderOptions { profile: Profile::Release0731, thinking: chat.thinking, ..RenderOptions::default() };
    let rendered = render(&chat.conversation, &options).map_err(|error| ApiError::from_render(&error, api))?;
    Ok(rendered.prompt.to_display_string())
}

/// Checks that `read` makes the library's prompt of each recorded request of `api`, and an error where the library has
/// one. `different`: notes of the requests on which we differ on purpose, each with the reason.
///
/// # Panics
/// Another prompt; fewer than `least` requests.
pub(crate) fn compare(
    api: Api,
    different: &[(&str, &str)],
    least: usize,
    read: impl Fn(&Json) -> Result<ChatPrompt, ApiError>,
) {
    let text = String::from_utf8(ds4_testdata::bytes("api/official_requests.json")).expect("UTF-8");
    let cases = Json::parse(&text).expect("valid");
    let cases = cases.get("cases").and_then(Json::as_array).expect("cases");
    let field = |case: &Json, name: &str| case.get(name).and_then(Json::as_str).unwrap_or_default().to_owned();
    let own: Vec<&Json> = cases.iter().filter(|case| field(case, "protocol") == api.name()).collect();
    for (note, _) in different {
        assert!(own.iter().any(|case| field(case, "note") == *note), "no request is called {note:?}");
    }
    let mut compared = 0;
    for case in own {
        let (id, note) = (field(case, "id"), field(case, "note"));
        if different.iter().any(|(other, _)| *other == note) {
            continue;
        }
        let ours = read(case.get("body").expect("a body")).and_then(|chat| text_of(&chat, api));
        match case.get("ok").and_then(|ok| ok.get("prompt")) {
            Some(prompt) => assert_eq!(Some(ours.expect(&id).as_str()), prompt.as_str(), "{id} {note}"),
            None => assert!(ours.is_err(), "{id} {note}: {ours:?}"),
        }
        compared += 1;
    }
    assert!(compared >= least, "only {compared} requests");
}
