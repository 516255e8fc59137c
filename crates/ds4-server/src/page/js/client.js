// Talking to the server.

/** An answer of the server that is an error, in its words. */
class ServerError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

class Client {
  constructor() {
    this.key = sessionStorage.getItem("ds4.key") ?? setting.get("key", "");
  }

  setKey(key, isToStay) {
    this.key = key;
    sessionStorage.setItem("ds4.key", key);
    if (isToStay) setting.set("key", key);
  }

  async fetch(path, options = {}) {
    const headers = { "content-type": "application/json" };
    if (this.key) headers.authorization = `Bearer ${this.key}`;
    let response;
    try {
      // Relative, so that the page works below a path of a proxy.
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server cannot be reached. Is it still running?", 0);
    }
    if (!response.ok) {
      const body = await response.json().catch(() => undefined);
      throw new ServerError(body?.error?.message ?? `The server answered ${response.status}.`, response.status);
    }
    return response;
  }

  async json(path) {
    return (await this.fetch(path)).json();
  }

  /** The chunks of an answer as they come. */
  async *chat(body, signal) {
    const response = await this.fetch("v1/chat/completions", { method: "POST", body: JSON.stringify(body), signal });
    let isOver = false;
    for await (const data of frames(response.body)) {
      if (data === "[DONE]") {
        isOver = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(chunk.error.message, 500);
      yield chunk;
    }
    if (!isOver) throw new ServerError("The connection broke off before the end of the answer.", 0);
  }
}

/** The data of server-sent events. */
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const frame = buffer.slice(0, end);
        buffer = buffer.slice(end + 2);
        if (frame.startsWith("data: ")) yield frame.slice(6);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The connection broke off before the end of the answer.", 0);
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What the chat API gets: the conversation up to and without turn `count`. */
function chatMessages(conversation, count) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const turn of conversation.turns.slice(0, count)) {
    if (turn.role === "user") {
      messages.push({ role: "user", content: turn.text });
      continue;
    }
    // An answer that failed before its first word is none.
    if (!turn.text && !turn.reasoning && !turn.calls?.length) continue;
    const message = { role: "assistant", content: turn.text };
    if (turn.reasoning) message.reasoning_content = turn.reasoning;
    const calls = turn.calls ?? [];
    if (calls.length > 0) {
      message.tool_calls = calls.map(({ id, name, arguments: text }) => ({
        id,
        type: "function",
        function: { name, arguments: text },
      }));
    }
    messages.push(message);
    // Every call needs a result; the user may have gone on without.
    for (const call of calls) {
      messages.push({ role: "tool", tool_call_id: call.id, content: call.result ?? "No result." });
    }
  }
  return messages;
}
