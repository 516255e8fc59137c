//! From messages as they came to the turns of the prompt format: system text first, user messages and tool results
//! merged, results in the order of their calls.

use crate::conversation::{AssistantMessage, Content, Instructions, Message, QuickTask};
use std::collections::HashMap;

/// A conversation in the shape of the prompt format.
pub(super) struct Turns<'a> {
    /// The leading system messages that say something, with their message index.
    pub(super) system: Vec<(usize, &'a Instructions)>,
    /// Everything after them.
    pub(super) turns: Vec<Turn<'a>>,
}

/// One turn.
pub(super) struct Turn<'a> {
    /// Index of the first message that it is made of.
    pub(super) first_message: usize,
    pub(super) kind: TurnKind<'a>,
}

pub(super) enum TurnKind<'a> {
    User {
        parts: Vec<Part<'a>>,
        task: Option<QuickTask>,
    },
    Developer {
        instructions: &'a Instructions,
        task: Option<QuickTask>,
    },
    Assistant(&'a AssistantMessage),
    Reminder(&'a Content),
    /// A developer turn that is left out.
    Dropped,
}

impl Turn<'_> {
    /// Whether the model's answer follows this turn.
    pub(super) fn is_user(&self) -> bool {
        matches!(self.kind, TurnKind::User { .. } | TurnKind::Developer { .. })
    }
}

/// A part of a user turn.
pub(super) enum Part<'a> {
    Text(&'a Content),
    ToolResult { call_id: Option<&'a str>, content: &'a Content },
    SystemReminder(&'a Instructions),
}

/// Groups `messages`. Nothing merges across the message index `barrier`.
pub(super) fn group(messages: &[Message], barrier: usize) -> Turns<'_> {
    let mut system = Vec::new();
    let mut turns: Vec<Turn<'_>> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let (part, task) = match message {
            Message::System(instructions) => {
                if instructions.is_empty() {
                    continue;
                }
                if turns.iter().all(|turn| matches!(turn.kind, TurnKind::Reminder(_))) {
                    system.push((index, instructions));
                    continue;
                }
                (Part::SystemReminder(instructions), None)
            }
            Message::User { content, task } => (Part::Text(content), *task),
            Message::ToolResult { call_id, content } => {
                (Part::ToolResult { call_id: call_id.as_deref(), content }, None)
            }
            Message::Developer { instructions, task } => {
                let kind = TurnKind::Developer { instructions, task: *task };
                turns.push(Turn { first_message: index, kind });
                continue;
            }
            Message::Assistant(assistant) => {
                turns.push(Turn { first_message: index, kind: TurnKind::Assistant(assistant) });
                continue;
            }
            Message::LatestReminder(content) => {
                turns.push(Turn { first_message: index, kind: TurnKind::Reminder(content) });
                continue;
            }
        };
        let is_result = matches!(part, Part::ToolResult { .. });
        match turns.last_mut() {
            // Only a tool result may still join a turn that a task closes.
            Some(Turn { kind: TurnKind::User { parts, task: open_task }, .. })
                if (is_result || open_task.is_none()) && index != barrier =>
            {
                parts.push(part);
            }
            _ => {
                let kind = TurnKind::User { parts: vec![part], task };
                turns.push(Turn { first_message: index, kind });
            }
        }
    }
    order_results(&mut turns);
    Turns { system, turns }
}

/// Puts the results within each user turn into the order of the latest calls. Only results change places among each
/// other; one with an unknown id counts as an answer to the first call.
fn order_results(turns: &mut [Turn<'_>]) {
    let mut order: HashMap<&str, usize> = HashMap::new();
    for turn in turns {
        match &mut turn.kind {
            TurnKind::Assistant(assistant) if !assistant.tool_calls.is_empty() => {
                let ids = assistant.tool_calls.iter().enumerate();
                order = ids
                    .filter_map(|(place, call)| Some((call.id.as_deref().filter(|id| !id.is_empty())?, place)))
                    .collect();
            }
            TurnKind::User { parts, .. } if !order.is_empty() => {
                let slots: Vec<usize> =
                    (0..parts.len()).filter(|slot| matches!(parts[*slot], Part::ToolResult { .. })).collect();
                let mut results: Vec<(usize, Part<'_>)> = slots
                    .iter()
                    .filter_map(|slot| match parts[*slot] {
                        Part::ToolResult { call_id, content } => {
                            let place = call_id.and_then(|id| order.get(id).copied()).unwrap_or(0);
                            Some((place, Part::ToolResult { call_id, content }))
                        }
                        _ => None,
                    })
                    .collect();
                results.sort_by_key(|(place, _)| *place);
                for (slot, (_, result)) in slots.into_iter().zip(results) {
                    parts[slot] = result;
                }
            }
            _ => {}
        }
    }
}
