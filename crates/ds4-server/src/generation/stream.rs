//! A running generation, from the server's side.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ds4_chat::dsml::End;
use ds4_engine::{CancelHandle, Disconnected, Event, EventSink, FinishReason as EngineFinish, Finished};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout_at};

use super::answer::Answer;
use super::event::{Finish, GenerationEvent, TokenLogprob};
use super::prepare::Prepared;
use crate::error::{ApiError, ErrorKind};
use crate::metrics::Running;
use crate::state::AppState;

/// A running generation: a stream of [`GenerationEvent`]s. Dropping it cancels the generation at the next step.
pub struct GenerationStream {
    state: AppState,
    events: UnboundedReceiver<Event>,
    unread: Arc<AtomicUsize>,
    cancel: CancelHandle,
    /// `None` once it is over.
    answer: Option<Answer>,
    ready: VecDeque<GenerationEvent>,
    last_told: Instant,
    prompt_tokens: usize,
    cached_tokens: usize,
    turn_id: String,
    running: Running,
}

impl std::fmt::Debug for GenerationStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerationStream").field("turn_id", &self.turn_id).finish_non_exhaustive()
    }
}

impl GenerationStream {
    /// Hands a request to the engine.
    ///
    /// # Errors
    /// A full queue, or an engine that has stopped.
    pub(crate) fn start(state: &AppState, prepared: Prepared) -> Result<Self, ApiError> {
        let Prepared { api, request, max_tokens, text, opening, thinking, .. } = prepared;
        let prompt_tokens = request.prompt.len();
        let (sender, events) = unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let capacity = state.engine().options().event_buffer;
        let sink = ChannelSink { sender, unread: Arc::clone(&unread), capacity };
        let running = state.metrics().start(api);
        let cancel = match state.engine().submit_to(request, Box::new(sink)) {
            Ok(cancel) => cancel,
            Err(error) => {
                running.refused();
                return Err(ApiError::from_engine(&error, api, max_tokens));
            }
        };
        let answer = Answer::new(state.tokenizer().clone(), state.ids().clone(), api, text, opening, thinking);
        Ok(Self {
            events,
            unread,
            cancel,
            answer: Some(answer),
            ready: VecDeque::new(),
            last_told: Instant::now(),
            prompt_tokens,
            cached_tokens: 0,
            turn_id: state.ids().next("turn_"),
            running,
            state: state.clone(),
        })
    }

    /// Id of the turn that is being generated. A client that sends it back lets the very tokens be used again
    /// ([`ChatPrompt::turn_ids`](super::ChatPrompt::turn_ids)), also of turns without calls.
    pub fn turn_id(&self) -> &str {
        &self.turn_id
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Waits until the generation has left the queue, or for `patience`. Returns how many tokens of the prompt are cached,
    /// or `None` if that is not known yet. The event [`GenerationEvent::Started`] still comes.
    pub async fn cached_tokens(&mut self, patience: Duration) -> Option<usize> {
        let deadline = Instant::now() + patience;
        if self.ready.is_empty()
            && let Ok(Some(event)) = timeout_at(deadline, self.events.recv()).await
        {
            self.take(event);
        }
        self.ready.iter().find_map(|event| match event {
            GenerationEvent::Started { cached_tokens, .. } => Some(*cached_tokens),
            _ => None,
        })
    }

    /// The next event; `None` after the last one. When nothing has been told for the server's keepalive time, the next
    /// event is [`GenerationEvent::KeepAlive`].
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last_told = Instant::now();
                return Some(event);
            }
            self.answer.as_ref()?;
            let keepalive = self.last_told + self.state.config().keepalive;
            match timeout_at(keepalive, self.events.recv()).await {
                Ok(Some(event)) => self.take(event),
                // The engine ends every generation with an event; without one it is gone.
                Ok(None) => self.fail(ApiError::new(ErrorKind::Engine, "server error: the engine has ended")),
                Err(_) => {
                    self.last_told = Instant::now();
                    return Some(GenerationEvent::KeepAlive);
                }
            }
        }
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// The generation failed.
    pub async fn collect(mut self) -> Result<Turn, ApiError> {
        let mut turn = Turn { turn_id: self.turn_id.clone(), ..Turn::default() };
        let mut is_over = false;
        while let Some(event) = self.next().await {
            match event {
                GenerationEvent::Started { .. } | GenerationEvent::KeepAlive => {}
                GenerationEvent::Reasoning(delta) => {
                    turn.reasoning.push_str(&delta.text);
                    turn.reasoning_logprobs.extend(delta.logprobs);
                }
                GenerationEvent::Text(delta) => {
                    turn.text.push_str(&delta.text);
                    turn.logprobs.extend(delta.logprobs);
                }
                GenerationEvent::CallStart { id, name, .. } => {
                    turn.calls.push(TurnCall { id, name, arguments: String::new(), complete: false });
                }
                GenerationEvent::CallArguments { index, delta } => {
                    if let Some(call) = turn.calls.get_mut(index) {
                        call.arguments.push_str(&delta);
                    }
                }
                GenerationEvent::CallEnd { index, complete } => {
                    if let Some(call) = turn.calls.get_mut(index) {
                        call.complete = complete;
                    }
                }
                GenerationEvent::Finished(finish) => {
                    turn.finish = finish;
                    is_over = true;
                }
                GenerationEvent::Failed(error) => return Err(error),
            }
        }
        if !is_over {
            return Err(ApiError::new(ErrorKind::Engine, "server error: the answer has no end"));
        }
        Ok(turn)
    }

    fn take(&mut self, event: Event) {
        self.unread.fetch_sub(1, Ordering::Relaxed);
        match event {
            Event::Started(started) => {
                self.cached_tokens = started.reused_tokens;
                self.running.started(started.prompt_tokens, started.reused_tokens);
                self.ready.push_back(GenerationEvent::Started {
                    prompt_tokens: started.prompt_tokens,
                    cached_tokens: started.reused_tokens,
                });
            }
            Event::Prefill(_) => {}
            Event::Token(token) => {
                self.running.token();
                if let Some(answer) = &mut self.answer {
                    answer.push(token, &mut self.ready);
                }
            }
            Event::Finished(finished) => self.finish(finished),
        }
    }

    fn finish(&mut self, finished: Finished) {
        let end = match finished.reason {
            EngineFinish::Stop | EngineFinish::StopSequence(_) => End::Stop,
            EngineFinish::Length => End::Length,
            EngineFinish::Cancelled => {
                let message = "server error: the generation was cancelled; the server is shutting down or overloaded";
                return self.fail(ApiError::new(ErrorKind::Unavailable, message));
            }
            EngineFinish::Error(error) => {
                return self.fail(ApiError::new(ErrorKind::Engine, format!("server error: {error}")));
            }
            reason => {
                let message = format!("server error: the generation ended early ({reason:?})");
                return self.fail(ApiError::new(ErrorKind::Engine, message));
            }
        };
        let Some(mut answer) = self.answer.take() else { return };
        let unanswered = end == End::Stop && answer.is_reasoning();
        let reason = answer.finish(end, &mut self.ready);
        self.running.parsed(answer.recoveries(), unanswered);
        let usage = answer.usage(self.prompt_tokens, self.cached_tokens);
        self.running.finished(&finished.timings);
        if let Some(turn) = answer.into_turn(&reason) {
            self.state.replay().insert(self.turn_id.clone(), turn);
        }
        self.ready.push_back(GenerationEvent::Finished(Finish { reason, usage, timings: finished.timings }));
    }

    fn fail(&mut self, error: ApiError) {
        self.answer = None;
        self.running.failed();
        self.ready.push_back(GenerationEvent::Failed(error));
    }
}

impl Drop for GenerationStream {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Turn {
    /// Id of the turn; see [`GenerationStream::turn_id`].
    pub turn_id: String,
    /// The reasoning.
    pub reasoning: String,
    /// Its tokens, if log-probabilities were asked for.
    pub reasoning_logprobs: Vec<TokenLogprob>,
    /// The answer.
    pub text: String,
    /// Its tokens, if log-probabilities were asked for.
    pub logprobs: Vec<TokenLogprob>,
    /// The calls.
    pub calls: Vec<TurnCall>,
    /// How it ended.
    pub finish: Finish,
}

/// A tool call of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCall {
    /// Its id.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// JSON text; cut off where the call is not complete.
    pub arguments: String,
    /// Whether it was written to its end.
    pub complete: bool,
}

/// The engine's end of a stream's channel. The engine thread must not wait for a slow client: a generation with many unread
/// events pauses, and is cancelled if that lasts.
struct ChannelSink {
    sender: UnboundedSender<Event>,
    unread: Arc<AtomicUsize>,
    capacity: usize,
}

impl EventSink for ChannelSink {
    fn has_room(&mut self) -> bool {
        self.unread.load(Ordering::Relaxed) < self.capacity
    }

    fn send(&mut self, event: Event) -> Result<(), Disconnected> {
        // Counted first: the receiver may have it before `send` returns.
        self.unread.fetch_add(1, Ordering::Relaxed);
        self.sender.send(event).map_err(|_| Disconnected)
    }
}
