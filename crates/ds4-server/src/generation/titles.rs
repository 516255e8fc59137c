//! What conversations are called in lists of the KV cache: the beginning of their first message.

use ds4_chat::conversation::{Conversation, Message};
use ds4_kvstore::{KvStore, TITLES};

/// Longest title, in characters.
const LONGEST: usize = 80;
/// What some clients put before the user's own words.
const REMINDER: (&str, &str) = ("<system-reminder>", "</system-reminder>");

/// A conversation's title.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Title {
    text: String,
    /// Small requests on the side, such as a client's own question for a title, have no tools.
    has_tools: bool,
}

/// The title of a conversation, if anything was said in it.
pub(super) fn of(conversation: &Conversation) -> Option<Title> {
    let first = conversation.messages.iter().find_map(|message| match message {
        Message::User { content, .. } => Some(content.to_text()),
        _ => None,
    })?;
    let said = without_reminders(&first);
    let line = said.lines().map(str::trim).find(|line| !line.is_empty())?;
    let text = match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    };
    Some(Title { text, has_tools: !conversation.tools.is_empty() })
}

/// Keeps a session's title: its first, until a request with tools has another.
pub(super) fn note(store: Option<&KvStore>, session: &str, title: &Title) {
    let Some(store) = store else { return };
    let is_known = match store.fact(TITLES, session.as_bytes()) {
        Some(known) => !title.has_tools || known == title.text.as_bytes(),
        None => false,
    };
    if !is_known {
        store.put_fact(TITLES, session.as_bytes(), title.text.as_bytes());
    }
}

fn without_reminders(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(REMINDER.0) {
        out.push_str(before);
        rest = after.split_once(REMINDER.1).map_or("", |(_, behind)| behind);
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use ds4_kvstore::StoreOptions;

    use super::*;

    fn title(text: &str) -> Option<String> {
        let messages = vec![Message::user(text)];
        of(&Conversation { messages, ..Conversation::default() }).map(|title| title.text)
    }

    #[test]
    fn a_title_is_what_the_user_said_first() {
        assert_eq!(title("\n  Mend the parser.\nIt fails.").as_deref(), Some("Mend the parser."));
        assert_eq!(title("<system-reminder>a\nb</system-reminder>\nGo on").as_deref(), Some("Go on"));
        assert_eq!(title("<system-reminder>never closed"), None);
        assert_eq!(title(" \n"), None);
        assert_eq!(title(&"é".repeat(81)), Some("é".repeat(80) + "…"));
        assert_eq!(of(&Conversation::default()), None);
    }

    #[test]
    fn side_requests_do_not_rename_a_conversation() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = KvStore::open(StoreOptions::new(folder.path(), 1 << 20)).expect("a store");
        let title = |text: &str, has_tools| Title { text: text.to_owned(), has_tools };
        let after = |title: &Title| {
            note(Some(&store), "s", title);
            store.flush();
            String::from_utf8(store.fact(TITLES, b"s").expect("a title")).expect("text")
        };
        assert_eq!(after(&title("topic?", false)), "topic?");
        assert_eq!(after(&title("Mend it", true)), "Mend it");
        assert_eq!(after(&title("topic?", false)), "Mend it");
    }
}
