// The page: which conversation is open, what is being answered, and the controls.

const client = new Client();
const scroller = byId("scroller");
const draft = byId("draft");
const dialogs = { settings: byId("settings"), help: byId("help") };

// Until the database is open there are none, and the page can be used already.
let conversations = new Conversations();
let current = newConversation();
let model;
/** Answers that are being written, by the conversation's id. */
const running = new Map();
/** Views of the turns that are shown. */
let views = new Map();
let sampling = setting.get("sampling", {});

const sidebar = new Sidebar({
  open: (id) => {
    open(id);
    sidebar.chosen();
  },
  rename,
  remove,
  exportAs(conversation, kind) {
    const name = (conversation.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60);
    if (kind === "md") download(`${name}.md`, "text/markdown", asMarkdown(conversation));
    else download(`${name}.json`, "application/json", `${JSON.stringify(conversation, null, 2)}\n`);
  },
});

// --- Conversations ---

function open(id) {
  const known = conversations.all.get(id);
  current = known ?? newConversation();
  for (const turn of current.turns) {
    // The page was closed while it was written.
    if (turn.state === "running" && !running.has(current.id)) turn.state = "stopped";
  }
  const hash = known ? `#${id}` : "";
  if (location.hash !== hash) history.pushState(null, "", hash || location.pathname);
  show();
  scroller.scrollTop = scroller.scrollHeight;
  if (!matchMedia("(pointer: coarse)").matches) draft.focus();
}

const actions = {
  isLast: (turn) => current.turns.at(-1) === turn,
  canContinue: (turn) => turn.calls.length === 0 && !current.tools.trim() && Boolean(turn.text || turn.reasoning),
  edited(turn, text) {
    if (running.has(current.id)) return;
    current.turns.splice(current.turns.indexOf(turn));
    ask(text);
  },
  again(turn) {
    if (running.has(current.id)) return;
    current.turns.splice(current.turns.indexOf(turn));
    show();
    answer(current);
  },
  answered() {
    if (!running.has(current.id)) answer(current);
  },
  goOn(turn) {
    if (!running.has(current.id)) answer(current, turn);
  },
};

/** Shows the open conversation. */
function show() {
  views = new Map();
  const elements = current.turns.map((turn) => {
    const view = new TurnView(turn, actions);
    views.set(turn, view);
    return view.element;
  });
  byId("turns").replaceChildren(...elements);
  byId("empty").hidden = current.turns.length > 0;
  showState();
}

/** What depends on more than the turns. */
function showState() {
  const title = current.title || "New chat";
  byId("title").textContent = title;
  document.title = current.title ? `${title} · ds4` : "ds4";
  const isRunning = running.has(current.id);
  byId("send").hidden = isRunning;
  byId("stop").hidden = !isRunning;
  const used = current.turns.findLast((turn) => turn.stats)?.stats;
  const context = byId("context");
  context.hidden = !(used && model?.context);
  if (!context.hidden) {
    const total = used.prompt + used.tokens;
    context.textContent = `${number(total)} / ${number(model.context)}`;
    context.title = `${Math.round((100 * total) / model.context)} % of the context is in use`;
    context.classList.toggle("nearly-full", total > 0.85 * model.context);
  }
  sidebar.show(conversations.list(), current.id, running);
}

function rename(conversation) {
  const dialog = byId("rename-dialog");
  const field = byId("rename");
  field.value = conversation.title;
  byId("rename-form").onsubmit = async () => {
    conversation.title = field.value.trim() || conversation.title;
    await keep(conversation);
    showState();
  };
  byId("rename-cancel").onclick = () => dialog.close();
  dialog.showModal();
  field.select();
}

function remove(conversation) {
  const dialog = byId("delete-dialog");
  byId("delete-name").textContent = `“${conversation.title || "New chat"}” is kept nowhere else.`;
  byId("delete-form").onsubmit = async () => {
    running.get(conversation.id)?.abort();
    running.delete(conversation.id);
    await conversations.remove(conversation.id);
    if (conversation === current) open();
    else showState();
  };
  byId("delete-cancel").onclick = () => dialog.close();
  dialog.showModal();
}

async function keep(conversation) {
  try {
    await conversations.save(conversation);
  } catch (error) {
    byId("status").textContent = `This browser could not keep the conversation: ${error.message}`;
  }
}

// --- Asking and answering ---

async function ask(text) {
  const conversation = current;
  conversation.turns.push({ role: "user", text });
  conversation.title ||= text.split("\n")[0].slice(0, 80);
  if (location.hash !== `#${conversation.id}`) history.replaceState(null, "", `#${conversation.id}`);
  keep(conversation);
  await answer(conversation);
}

/** Lets the model answer. `continued`: the last turn, with which it goes on. */
async function answer(conversation, continued) {
  byId("status").textContent = "";
  const fresh = { role: "assistant", reasoning: "", text: "", calls: [], state: "running" };
  const turn = continued ?? fresh;
  const before = conversation.turns.length - (continued ? 1 : 0);
  const messages = chatMessages(conversation, conversation.turns.length);
  if (continued) {
    turn.state = "running";
    messages.at(-1).prefix = true;
  } else conversation.turns.push(turn);
  const controller = new AbortController();
  running.set(conversation.id, controller);
  if (conversation === current) {
    show();
    follow(true);
  }
  const body = { model: model?.id, messages, stream: true, stream_options: { include_usage: true }, ...sampling };
  const effort = byId("thinking").value;
  if (effort) body.reasoning_effort = effort;
  if (conversation.tools.trim() && !continued) body.tools = JSON.parse(conversation.tools);

  const clock = new Clock(turn);
  const painter = new Painter(conversation, turn);
  try {
    for await (const chunk of await withKey(() => firstChunk(client.chat(body, controller.signal)))) take(chunk, turn, clock);
    if (turn.state === "running") turn.state = "done";
  } catch (error) {
    turn.state = error.name === "AbortError" ? "stopped" : "failed";
    if (turn.state === "failed") turn.error = error.message;
  }
  painter.end();
  clock.end();
  running.delete(conversation.id);
  // A deleted conversation does not come back.
  const isKept = conversations.all.has(conversation.id);
  if (turn.state === "stopped" && !turn.text && !turn.reasoning && !turn.calls.length) conversation.turns.splice(before, 1);
  if (isKept) await keep(conversation);
  if (conversation !== current) return showState();
  const wasAtEnd = isAtEnd();
  if (conversation.turns.includes(turn)) views.get(turn)?.update();
  else show();
  showState();
  follow(wasAtEnd);
}

/** The same chunks, but errors before the first one come at once. */
async function firstChunk(chunks) {
  const first = await chunks.next();
  return (async function* () {
    if (!first.done) yield first.value;
    yield* chunks;
  })();
}

function take(chunk, turn, clock) {
  const choice = chunk.choices[0];
  const delta = choice?.delta ?? {};
  if (delta.reasoning_content) {
    clock.token();
    turn.reasoning += delta.reasoning_content;
  }
  if (delta.content) {
    clock.token();
    turn.text += delta.content;
  }
  for (const call of delta.tool_calls ?? []) {
    clock.token();
    turn.calls[call.index] ??= { id: call.id, name: call.function.name, arguments: "" };
    turn.calls[call.index].arguments += call.function.arguments ?? "";
  }
  if (choice?.finish_reason === "length") turn.state = "length";
  if (chunk.usage) {
    const usage = chunk.usage;
    turn.stats = {
      tokens: usage.completion_tokens,
      prompt: usage.prompt_tokens,
      cached: usage.prompt_tokens_details?.cached_tokens ?? 0,
      ...clock.figures(usage.completion_tokens),
    };
  }
}

/** Measures an answer as the reader sees it. */
class Clock {
  constructor(turn) {
    this.turn = turn;
    this.start = performance.now();
    this.ticking = setInterval(() => this.tick(), 100);
  }

  token() {
    this.first ??= performance.now();
    this.last = performance.now();
  }

  tick() {
    const now = performance.now();
    const { turn } = this;
    if (this.first === undefined) turn.waitSeconds = (now - this.start) / 1000;
    else if (turn.reasoning && !turn.text && !turn.calls.length) turn.thinkSeconds = (now - this.first) / 1000;
  }

  figures(tokens) {
    if (this.first === undefined) return {};
    const time = (this.last - this.first) / 1000;
    // What came in one piece cannot be measured.
    return { first: (this.first - this.start) / 1000, rate: tokens > 1 && time > 0.05 ? (tokens - 1) / time : undefined };
  }

  end() {
    clearInterval(this.ticking);
    delete this.turn.waitSeconds;
  }
}

/** Shows a growing turn, once per frame at most, and keeps what there is now and then. */
class Painter {
  constructor(conversation, turn) {
    const paint = () => {
      if (this.isOver) return;
      if (conversation === current && views.has(turn)) {
        const wasAtEnd = isAtEnd();
        views.get(turn).update();
        if (wasAtEnd) follow(true);
      }
      // Fifteen times a second is smooth, and leaves a phone time for the rest.
      this.next = setTimeout(() => requestAnimationFrame(paint), 66);
    };
    paint();
    this.keeping = setInterval(() => conversations.all.has(conversation.id) && keep(conversation), 5000);
  }

  end() {
    this.isOver = true;
    clearTimeout(this.next);
    clearInterval(this.keeping);
  }
}

/** Asks for the server's key where it wants one. */
async function withKey(request) {
  for (;;) {
    try {
      return await request();
    } catch (error) {
      if (error.status !== 401 || !(await askForKey())) throw error;
    }
  }
}

let askingForKey;

function askForKey() {
  askingForKey ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    const field = byId("key");
    let isGiven = false;
    byId("key-note").textContent = client.key ? "It does not know the key that this browser has." : "It is one of those that the server was started with.";
    byId("key-form").onsubmit = () => {
      isGiven = true;
      client.setKey(field.value.trim(), byId("key-remember").checked);
    };
    byId("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => {
      field.value = "";
      askingForKey = undefined;
      resolve(isGiven);
    };
    dialog.showModal();
  });
  return askingForKey;
}

// --- Scrolling ---

const isAtEnd = () => scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;

/** Keeps the end in view where the reader is there. */
function follow(isCertain = isAtEnd()) {
  if (isCertain) scroller.scrollTop = scroller.scrollHeight;
  byId("latest").hidden = isAtEnd();
}

scroller.addEventListener("scroll", () => (byId("latest").hidden = isAtEnd()), { passive: true });
byId("latest").addEventListener("click", () => follow(true));

// --- Controls ---

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = draft.value.trim();
  if (!text || running.has(current.id)) return;
  draft.value = "";
  fit(draft);
  ask(text);
});
byId("stop").addEventListener("click", () => running.get(current.id)?.abort());
byId("new-chat").addEventListener("click", () => {
  open();
  sidebar.chosen();
});
draft.addEventListener("input", () => fit(draft));
draft.addEventListener("keydown", (event) => {
  if (isSendKey(event)) {
    event.preventDefault();
    byId("composer").requestSubmit();
  } else if (event.key === "ArrowUp" && !draft.value && !running.has(current.id)) {
    const last = current.turns.findLast((turn) => turn.role === "user");
    if (last) {
      event.preventDefault();
      views.get(last).edit();
    }
  }
});

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.defaultPrevented) return;
  const isTyping = event.target.matches("input, textarea, select");
  const hasControl = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") running.get(current.id)?.abort();
  else if (hasControl && event.shiftKey && event.key.toLowerCase() === "o") {
    event.preventDefault();
    open();
  } else if (hasControl && event.key === ",") {
    event.preventDefault();
    openSettings();
  } else if (event.key === "/" && !isTyping) {
    event.preventDefault();
    draft.focus();
  } else if (event.key === "?" && !isTyping) dialogs.help.showModal();
});

addEventListener("popstate", () => open(location.hash.slice(1)));
byId("open-help").addEventListener("click", () => dialogs.help.showModal());
byId("open-settings").append(icon("settings"));
byId("open-settings").addEventListener("click", openSettings);
for (const button of document.querySelectorAll("dialog .close")) button.append(icon("close"));

// --- Settings ---

const samplingFields = [...document.querySelectorAll("[data-sampling]")];

function openSettings() {
  byId("system").value = current.system;
  byId("tools").value = current.tools;
  byId("tools-problem").textContent = "";
  for (const field of samplingFields) field.value = sampling[field.dataset.sampling] ?? "";
  dialogs.settings.showModal();
}

function toolsProblem(text) {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "The tools must be a list.";
  } catch (error) {
    return `This is no JSON: ${error.message}`;
  }
}

byId("tools").addEventListener("input", (event) => (byId("tools-problem").textContent = toolsProblem(event.target.value)));
byId("reset-sampling").addEventListener("click", () => {
  for (const field of samplingFields) field.value = "";
});
dialogs.settings.querySelector("form").addEventListener("submit", (event) => {
  const problem = toolsProblem(byId("tools").value);
  byId("tools-problem").textContent = problem;
  if (problem) event.preventDefault();
});
dialogs.settings.addEventListener("close", async () => {
  current.system = byId("system").value;
  if (!toolsProblem(byId("tools").value)) current.tools = byId("tools").value;
  sampling = {};
  for (const field of samplingFields) {
    if (field.value !== "" && field.checkValidity()) sampling[field.dataset.sampling] = Number(field.value);
  }
  setting.set("sampling", sampling);
  if (conversations.all.has(current.id)) await keep(current);
});

byId("thinking").value = setting.get("thinking", "");
byId("thinking").addEventListener("change", (event) => setting.set("thinking", event.target.value));

const THEMES = ["auto", "light", "dark"];

function showTheme() {
  const theme = setting.get("theme", "auto");
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
}

byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(setting.get("theme", "auto")) + 1) % THEMES.length];
  setting.set("theme", next);
  showTheme();
});

// --- Start ---

async function start() {
  showTheme();
  show();
  const wanted = location.hash.slice(1);
  const opened = await Conversations.open();
  const begun = conversations.list();
  conversations = opened;
  for (const conversation of begun) await keep(conversation);
  if (opened.all.has(wanted)) open(wanted);
  else showState();
  try {
    const { data } = await withKey(() => client.json("v1/models"));
    model = { id: data[0].id, context: data[0].context_length };
    byId("model").textContent = data[0].name ?? model.id;
    byId("model").title = model.id;
    showState();
    const props = await client.json("props");
    byId("sampling-note").hidden = props.client_sampling_in_thinking !== false;
  } catch (error) {
    byId("status").textContent = error.message;
  }
}

start();
