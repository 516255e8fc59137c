// Markdown within a line: emphasis, code, links. One pass, whatever the text is.

const isSpace = (character) => character === undefined || /\s/.test(character);
const isWord = (character) => character !== undefined && /[\p{L}\p{N}]/u.test(character);

/** An address that may be a link: nothing but the web. */
function webAddress(text) {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : undefined;
  } catch {
    return undefined;
  }
}

function link(address, ...children) {
  return h("a", { href: address, target: "_blank", rel: "noopener noreferrer", title: address }, ...children);
}

/** For each opening bracket of `text` the place of its closing one. */
function bracketPairs(text) {
  const pairs = new Map();
  const open = [];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length > 0) pairs.set(open.pop(), at);
  }
  return pairs;
}

// More nesting than this is no writing.
const DEEPEST_INLINE = 12;

/** The nodes of a text. */
function inline(text, depth = 0) {
  const nodes = [];
  const openers = [];
  const missing = new Set();
  const pairs = bracketPairs(text);
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  const push = (node) => {
    flush();
    nodes.push(node);
  };

  // Ends the emphasis that `mark` began, if it did.
  const close = (mark) => {
    if (!openers.some((opener) => opener.mark === mark)) return false;
    flush();
    let opener;
    do opener = openers.pop();
    while (opener.mark !== mark);
    const content = nodes.splice(opener.at).slice(1);
    nodes.push(h(mark === "~~" ? "del" : mark.length === 2 ? "strong" : "em", {}, ...content));
    return true;
  };

  for (let at = 0; at < text.length; ) {
    const character = text[at];
    const rest = () => text.slice(at, at + 2000);
    if (character === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      plain += text[at + 1];
      at += 2;
    } else if (character === "\n") {
      push(h("br"));
      at += 1;
    } else if (character === "`") {
      let end = at;
      while (text[end] === "`") end += 1;
      const fence = text.slice(at, end);
      const closing = missing.has(fence.length) ? -1 : codeEnd(text, end, fence);
      if (closing < 0) {
        missing.add(fence.length);
        plain += fence;
        at = end;
      } else {
        let code = text.slice(end, closing).replaceAll("\n", " ");
        if (code.startsWith(" ") && code.endsWith(" ") && code.trim()) code = code.slice(1, -1);
        push(h("code", {}, code));
        at = closing + fence.length;
      }
    } else if (character === "<") {
      const tag = /^<(?:br\s*\/?|(https?:\/\/[^\s<>]+))>/i.exec(rest());
      const address = tag?.[1] && webAddress(tag[1]);
      if (tag && !tag[1]) push(h("br"));
      else if (address) push(link(address, tag[1]));
      else plain += "<";
      at += tag && (address || !tag[1]) ? tag[0].length : 1;
    } else if (character === "[" || (character === "!" && text[at + 1] === "[")) {
      const start = character === "!" ? at + 1 : at;
      const end = pairs.get(start);
      // The target has no blanks and brackets, or stands in angle brackets; a title is dropped.
      const target =
        end !== undefined && /^\(\s*(?:<([^<>\n]*)>|([^\s()]*(?:\([^\s()]*\)[^\s()]*)*))(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/.exec(text.slice(end + 1, end + 2001));
      if (target && depth < DEEPEST_INLINE) {
        const label = text.slice(start + 1, end);
        const address = webAddress(target[1] ?? target[2]);
        const content = label ? inline(label, depth + 1) : [address ?? ""];
        // Pictures are not fetched; neither is anything else that is not a page.
        if (address) push(link(address, ...content));
        else {
          flush();
          nodes.push(...content);
        }
        at = end + 1 + target[0].length;
      } else {
        plain += text.slice(at, start + 1);
        at = start + 1;
      }
    } else if (character === "h" && !isWord(text[at - 1]) && /^https?:\/\//.test(text.slice(at, at + 8))) {
      const address = bareAddress(rest());
      const target = webAddress(address);
      if (target) push(link(target, address));
      else plain += address;
      at += address.length;
    } else if (character === "*" || character === "_" || (character === "~" && text[at + 1] === "~")) {
      let end = at;
      while (text[end] === character) end += 1;
      const [before, after] = [text[at - 1], text[end]];
      const isWithin = character === "_" && isWord(before) && isWord(after);
      let run = text.slice(at, end);
      at = end;
      if (run.length > 3 || isWithin || (character === "~" && run.length !== 2)) {
        plain += run;
        continue;
      }
      // Three marks are two and one.
      if (!isSpace(before)) {
        for (const length of run.length === 3 ? [1, 2] : [run.length]) {
          if (close(character.repeat(length))) run = run.slice(length);
        }
      }
      if (run && !isSpace(after) && openers.length < 100) {
        for (const length of run.length === 3 ? [2, 1] : [run.length]) {
          flush();
          openers.push({ mark: character.repeat(length), at: nodes.length });
          nodes.push(document.createTextNode(character.repeat(length)));
        }
      } else plain += run;
    } else {
      plain += character;
      at += 1;
    }
  }
  flush();
  return nodes;
}

/** Where the run of backticks that ends a piece of code begins; -1 if there is none. */
function codeEnd(text, from, fence) {
  let at = text.indexOf(fence, from);
  while (at >= 0) {
    let end = at + fence.length;
    if (text[end] !== "`") return at;
    while (text[end] === "`") end += 1;
    at = text.indexOf(fence, end);
  }
  return -1;
}

/** The address at the start of a text, without what ends the sentence around it. */
function bareAddress(text) {
  let address = /^[^\s<>"`]+/.exec(text)[0];
  for (;;) {
    const last = address.at(-1);
    const isUnpaired = last === ")" && address.split(")").length > address.split("(").length;
    if (!isUnpaired && !".,;:!?*_~'".includes(last)) return address;
    address = address.slice(0, -1);
  }
}
