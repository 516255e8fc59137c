// What this browser keeps: conversations in a database, settings beside it.

/** Conversations, by id. Without a database (some private modes) they last as long as the page. */
class Conversations {
  constructor(database) {
    this.database = database;
    this.all = new Map();
  }

  static async open() {
    const database = await new Promise((resolve) => {
      let request;
      try {
        request = indexedDB.open("ds4", 1);
      } catch {
        return resolve(undefined);
      }
      request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(undefined);
      request.onblocked = () => resolve(undefined);
    });
    const conversations = new Conversations(database);
    if (database) {
      for (const conversation of await conversations.request("readonly", (store) => store.getAll())) {
        conversations.all.set(conversation.id, conversation);
      }
    }
    return conversations;
  }

  request(mode, make) {
    return new Promise((resolve, reject) => {
      const request = make(this.database.transaction("conversations", mode).objectStore("conversations"));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  }

  /** The conversations, the one that was changed last first. */
  list() {
    return [...this.all.values()].sort((left, right) => right.updated - left.updated);
  }

  async save(conversation) {
    conversation.updated = Date.now();
    this.all.set(conversation.id, conversation);
    if (this.database) await this.request("readwrite", (store) => store.put(conversation));
  }

  async remove(id) {
    this.all.delete(id);
    if (this.database) await this.request("readwrite", (store) => store.delete(id));
  }
}

const newConversation = () => ({
  id: crypto.getRandomValues(new Uint32Array(4)).join("-"),
  title: "",
  created: Date.now(),
  updated: Date.now(),
  system: "",
  tools: "",
  turns: [],
});

/** A setting that stays. Browsers may forbid that. */
const setting = {
  get(name, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(`ds4.${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`ds4.${name}`, JSON.stringify(value));
    } catch {
      // Then it lasts as long as the page.
    }
  },
};

function asMarkdown(conversation) {
  const parts = [`# ${conversation.title || "Conversation"}`];
  if (conversation.system) parts.push("## System", conversation.system);
  for (const turn of conversation.turns) {
    if (turn.role === "user") parts.push("## User", turn.text);
    else {
      parts.push("## Assistant");
      if (turn.reasoning) parts.push(`<details><summary>Reasoning</summary>\n\n${turn.reasoning}\n\n</details>`);
      if (turn.text) parts.push(turn.text);
      for (const call of turn.calls ?? []) {
        parts.push(`**Call of ${call.name}**`, fenced("json", call.arguments));
        if (call.result !== undefined) parts.push("**Result**", fenced("", call.result));
      }
    }
  }
  return `${parts.join("\n\n")}\n`;
}

/** Code in a fence that is longer than any within it. */
function fenced(language, text) {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map((run) => run[0].length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}
