// One turn of a conversation, as it is shown.

const seconds = (value) => (value < 0.1 ? "< 0.1" : value < 10 ? value.toFixed(1) : String(Math.round(value)));
const number = (value) => value.toLocaleString("en").replaceAll(",", "\u2009");

/** A turn's element. `actions` says what its buttons do. */
class TurnView {
  constructor(turn, actions) {
    this.turn = turn;
    this.actions = actions;
    this.element = h("li", { class: `turn ${turn.role}` });
    if (turn.role === "user") this.showUser();
    else this.buildAssistant();
  }

  showUser() {
    const { turn, actions } = this;
    const bar = h(
      "div",
      { class: "turn-bar" },
      iconButton("edit", "Edit", () => this.edit()),
      copyButton(() => turn.text),
    );
    this.element.replaceChildren(h("div", { class: "bubble" }, turn.text), bar);
    this.element.setAttribute("aria-label", "You");
    actions.changed?.();
  }

  edit() {
    const field = h("textarea", { class: "edit", value: this.turn.text, "aria-label": "Edit the message", input: () => fit(field) });
    const cancel = () => this.showUser();
    const send = () => {
      const text = field.value.trim();
      if (text) this.actions.edited(this.turn, text);
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        cancel();
      } else if (isSendKey(event)) {
        event.preventDefault();
        send();
      }
    });
    const bar = h(
      "div",
      { class: "edit-bar" },
      h("span", { class: "note" }, "What came after it is replaced."),
      h("button", { type: "button", class: "quiet", click: cancel }, "Cancel"),
      h("button", { type: "button", class: "primary", click: send }, "Send"),
    );
    this.element.replaceChildren(field, bar);
    fit(field);
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  buildAssistant() {
    this.thought = h("pre", { class: "thought" });
    this.thinkingLabel = h("span", {});
    this.thinking = h("details", { class: "thinking", hidden: true }, h("summary", {}, this.thinkingLabel), this.thought);
    this.waiting = h("p", { class: "waiting", hidden: true });
    const text = h("div", { class: "text" });
    this.markdown = new Markdown(text);
    this.calls = h("div", { class: "calls" });
    this.notice = h("div", { class: "notice", hidden: true });
    this.bar = h("div", { class: "turn-bar" });
    this.element.append(this.thinking, this.waiting, text, this.calls, this.notice, this.bar);
    this.element.setAttribute("aria-label", "Assistant");
    this.shownThought = "";
    this.update();
  }

  /** Shows the turn as it is now. */
  update() {
    const { turn } = this;
    const isRunning = turn.state === "running";
    this.element.classList.toggle("running", isRunning);
    if (turn.reasoning !== this.shownThought) {
      // Only what is new: the reasoning may be long.
      if (turn.reasoning.startsWith(this.shownThought)) this.thought.append(turn.reasoning.slice(this.shownThought.length));
      else this.thought.textContent = turn.reasoning;
      this.shownThought = turn.reasoning;
    }
    this.thinking.hidden = !turn.reasoning;
    const isThinking = isRunning && turn.reasoning && !turn.text && !turn.calls.length;
    this.thinking.classList.toggle("active", Boolean(isThinking));
    const time = turn.thinkSeconds ? ` for ${seconds(turn.thinkSeconds)} s` : "";
    this.thinkingLabel.textContent = isThinking ? `Thinking${time}` : `Thought${time}`;
    this.waiting.hidden = !isRunning || Boolean(turn.reasoning || turn.text || turn.calls.length);
    this.waiting.textContent = turn.waitSeconds >= 1 ? `Reading the prompt · ${seconds(turn.waitSeconds)} s` : "Reading the prompt";
    this.markdown.update(turn.text);
    if (this.shownCalls !== this.callsKey()) this.showCalls();
    this.showNotice();
    if (!isRunning && this.shownState !== turn.state) this.showBar();
    this.shownState = turn.state;
  }

  callsKey() {
    return JSON.stringify([this.turn.calls, this.turn.state]);
  }

  showCalls() {
    const { turn } = this;
    this.shownCalls = this.callsKey();
    const isOpen = turn.state === "done" && this.actions.isLast(turn) && turn.calls.some((call) => call.result === undefined);
    const fields = [];
    const cards = turn.calls.map((call) => {
      const card = h(
        "div",
        { class: "call" },
        h("div", { class: "call-head" }, h("span", { class: "tag" }, "Tool"), h("code", {}, call.name)),
        h("pre", { tabIndex: 0 }, pretty(call.arguments)),
      );
      if (call.result !== undefined) {
        card.append(h("div", { class: "call-head" }, h("span", { class: "tag" }, "Result")), h("pre", { tabIndex: 0 }, call.result));
      } else if (isOpen) {
        const field = h("textarea", { class: "code", rows: 1, placeholder: "Its result", "aria-label": `Result of ${call.name}`, input: () => fit(field) });
        fields.push([call, field]);
        card.append(field);
      }
      return card;
    });
    this.calls.replaceChildren(...cards);
    if (isOpen) {
      const send = () => {
        for (const [call, field] of fields) call.result = field.value;
        this.actions.answered(turn);
      };
      this.calls.append(h("button", { type: "button", class: "primary", click: send }, turn.calls.length > 1 ? "Send results" : "Send result"));
    }
  }

  showNotice() {
    const { turn } = this;
    const said = {
      failed: turn.error,
      stopped: "You stopped the answer.",
      length: "The answer was cut at the limit of tokens.",
    }[turn.state];
    this.notice.hidden = !said;
    this.notice.classList.toggle("problem", turn.state === "failed");
    this.notice.textContent = said ?? "";
  }

  showBar() {
    const { turn, actions } = this;
    const canContinue = (turn.state === "stopped" || turn.state === "length") && actions.isLast(turn) && actions.canContinue(turn);
    const buttons = [
      turn.text && copyButton(() => turn.text),
      iconButton("retry", "Answer again", () => actions.again(turn)),
      canContinue && iconButton("forward", "Go on with this answer", () => actions.goOn(turn)),
    ];
    this.bar.replaceChildren(...buttons.filter(Boolean), h("span", { class: "stats" }, statistics(turn.stats)));
  }
}

/** What an answer took. */
function statistics(stats) {
  if (!stats) return "";
  const parts = [`${number(stats.tokens)} tokens`];
  if (stats.rate) parts.push(`${stats.rate.toFixed(1)} tokens/s`);
  if (stats.first !== undefined) parts.push(`first after ${seconds(stats.first)} s`);
  parts.push(`${number(stats.cached)} of ${number(stats.prompt)} prompt tokens cached`);
  return parts.join(" · ");
}

/** Arguments as they are easiest to read. What is no JSON is shown as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/** Enter sends, unless it ends the composition of a character. On a touch screen it is a new line. */
function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && !matchMedia("(pointer: coarse)").matches;
}
