// The list of conversations, and what can be done with one.

const DAY = 24 * 60 * 60 * 1000;

/** How long ago a time is, in words. */
function age(time) {
  const today = new Date();
  today.setHours(0, 0, 0, 0);
  const days = Math.ceil((today - time) / DAY);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days <= 7 ? "Last 7 days" : "Earlier";
}

class Sidebar {
  /** `actions`: open, rename, remove, exportAs. */
  constructor(actions) {
    this.actions = actions;
    this.list = byId("conversations");
    this.filter = byId("filter");
    this.filter.addEventListener("input", () => this.show(...this.last));
    byId("sidebar-open").append(icon("menu"));
    byId("sidebar-close").append(icon("close"));
    byId("new-chat").prepend(icon("plus"));
    byId("sidebar-open").addEventListener("click", () => this.toggle(true));
    byId("sidebar-close").addEventListener("click", () => this.toggle(false));
    byId("scrim").addEventListener("click", () => this.toggle(false));
    document.addEventListener("pointerdown", (event) => {
      if (this.menu && !this.menu.contains(event.target)) this.closeMenu();
    });
  }

  /** On a narrow screen it lies over the page; on a wide one it can be put away. */
  toggle(isOpen) {
    document.body.classList.toggle("sidebar-open", isOpen);
    document.body.classList.toggle("sidebar-away", !isOpen);
    byId("scrim").hidden = !isOpen;
    byId(isOpen ? "sidebar-close" : "sidebar-open").focus();
  }

  /** After a conversation was chosen: out of the way where it covers the page. */
  chosen() {
    document.body.classList.remove("sidebar-open");
    byId("scrim").hidden = true;
  }

  show(conversations, current, running) {
    this.last = [conversations, current, running];
    const wanted = this.filter.value.trim().toLowerCase();
    const matches = ({ title, turns }) =>
      !wanted || title.toLowerCase().includes(wanted) || turns.some((turn) => turn.text.toLowerCase().includes(wanted));
    const items = [];
    let lastAge;
    for (const conversation of conversations.filter(matches)) {
      const itsAge = age(conversation.updated);
      if (itsAge !== lastAge) items.push(h("li", { class: "age", "aria-hidden": "true" }, itsAge));
      lastAge = itsAge;
      items.push(this.item(conversation, conversation.id === current, running.has(conversation.id)));
    }
    if (items.length === 0) items.push(h("li", { class: "none" }, wanted ? "Nothing found" : "No conversations yet"));
    this.list.replaceChildren(...items);
  }

  item(conversation, isCurrent, isRunning) {
    const title = conversation.title || "New chat";
    const open = h(
      "button",
      { type: "button", class: "open", title, click: () => this.actions.open(conversation.id), "aria-current": isCurrent ? "page" : undefined },
      title,
    );
    const more = iconButton("more", `More about ${title}`, () => this.openMenu(more, conversation));
    more.setAttribute("aria-haspopup", "menu");
    const classes = `conversation${isCurrent ? " current" : ""}${isRunning ? " running" : ""}`;
    return h("li", { class: classes }, open, more);
  }

  openMenu(button, conversation) {
    this.closeMenu();
    const { actions } = this;
    const entry = (text, act) =>
      h("button", { type: "button", role: "menuitem", click: () => {
        this.closeMenu();
        act();
      } }, text);
    const entries = [
      entry("Rename", () => actions.rename(conversation)),
      entry("Export as Markdown", () => actions.exportAs(conversation, "md")),
      entry("Export as JSON", () => actions.exportAs(conversation, "json")),
      entry("Delete", () => actions.remove(conversation)),
    ];
    entries.at(-1).classList.add("danger");
    const menu = h("div", { class: "menu", role: "menu" }, ...entries);
    menu.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape" || event.key === "Tab") {
        event.stopPropagation();
        this.closeMenu();
        button.focus();
      } else if (step) {
        event.preventDefault();
        const at = entries.indexOf(document.activeElement);
        entries[(at + step + entries.length) % entries.length].focus();
      }
    });
    document.body.append(menu);
    const place = button.getBoundingClientRect();
    menu.style.left = `${Math.min(place.left, innerWidth - menu.offsetWidth - 8)}px`;
    menu.style.top = `${Math.min(place.bottom + 4, innerHeight - menu.offsetHeight - 8)}px`;
    this.menu = menu;
    entries[0].focus();
  }

  closeMenu() {
    this.menu?.remove();
    this.menu = undefined;
  }
}
