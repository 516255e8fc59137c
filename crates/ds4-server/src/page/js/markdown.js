// Markdown, block by block. While an answer grows, only the blocks that changed are built anew.

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*))?$/;
const RULE = /^ {0,3}(?:(?:-[ \t]*){3,}|(?:\*[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:( {1,4})(?=\S)|[ \t]*$| {5,})/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

// Lists in lists in quotes: deeper than this it is taken as text.
const DEEPEST = 16;

const isBlank = (line) => line.trim() === "";
const startsBlock = (line) => FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || /^ {0,3}>/.test(line);

/** The blocks of some lines. Each has the text that it was made of, by which it is recognized. */
function blocks(lines, depth = 0) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const start = at;
    const block = (depth < DEEPEST && nextBlock()) || paragraph();
    block.source = lines.slice(start, at).join("\n");
    found.push(block);
  }
  return found;

  function nextBlock() {
    const line = lines[at];
    const fence = FENCE.exec(line);
    if (fence && !(fence[1][0] === "`" && fence[2].includes("`"))) return code(fence);
    const heading = HEADING.exec(line);
    if (heading) {
      at += 1;
      return { kind: "heading", level: heading[1].length, text: (heading[2] ?? "").replace(/[ \t]+#+[ \t]*$/, "") };
    }
    if (RULE.test(line)) {
      at += 1;
      return { kind: "rule" };
    }
    if (/^ {0,3}>/.test(line)) {
      const inner = [];
      while (at < lines.length && /^ {0,3}>/.test(lines[at])) inner.push(lines[at++].replace(/^ {0,3}> ?/, ""));
      return { kind: "quote", blocks: blocks(inner, depth + 1) };
    }
    if (ITEM.test(line)) return list();
    if (line.includes("|") && at + 1 < lines.length && TABLE_RULE.test(lines[at + 1])) return table();
    return undefined;
  }

  function code(fence) {
    const indent = /^ */.exec(lines[at])[0].length;
    const language = fence[2].trim().split(/\s/)[0];
    const content = [];
    at += 1;
    for (; at < lines.length; at += 1) {
      const end = FENCE.exec(lines[at]);
      if (end && end[1][0] === fence[1][0] && end[1].length >= fence[1].length && isBlank(end[2])) {
        at += 1;
        break;
      }
      content.push(lines[at].startsWith(" ".repeat(indent)) ? lines[at].slice(indent) : lines[at].trimStart());
    }
    return { kind: "code", language, text: content.join("\n") };
  }

  function list() {
    const first = ITEM.exec(lines[at]);
    const isOrdered = /\d/.test(first[2]);
    const sort = first[2].at(-1);
    const items = [];
    let isLoose = false;
    while (at < lines.length) {
      const item = ITEM.exec(lines[at]);
      if (!item || item[2].at(-1) !== sort || (!isOrdered && RULE.test(lines[at]))) break;
      const width = item[1].length + item[2].length + (item[3]?.length ?? 1);
      const inner = [lines[at].slice(width)];
      at += 1;
      while (at < lines.length) {
        const line = lines[at];
        if (isBlank(line)) {
          // The item goes on after blank lines if what follows is indented.
          let next = at;
          while (next < lines.length && isBlank(lines[next])) next += 1;
          if (next === lines.length || !lines[next].startsWith(" ".repeat(width))) break;
          isLoose = true;
          inner.push("");
          at += 1;
        } else if (line.startsWith(" ".repeat(width))) {
          inner.push(line.slice(width));
          at += 1;
        } else if (startsBlock(line) || isBlank(inner.at(-1))) break;
        else inner.push(lines[at++].trimStart());
      }
      items.push(blocks(inner, depth + 1));
      let next = at;
      while (next < lines.length && isBlank(lines[next])) next += 1;
      if (next < lines.length && next > at && ITEM.exec(lines[next])?.[2].at(-1) === sort) {
        isLoose = true;
        at = next;
      }
    }
    return { kind: "list", isOrdered, start: isOrdered ? Number.parseInt(first[2], 10) : 1, isLoose, items };
  }

  function table() {
    const head = cells(lines[at]);
    const sides = cells(lines[at + 1]).map((rule) =>
      rule.endsWith(":") ? (rule.startsWith(":") ? "center" : "end") : "start",
    );
    at += 2;
    const rows = [];
    while (at < lines.length && !isBlank(lines[at]) && lines[at].includes("|")) rows.push(cells(lines[at++]));
    return { kind: "table", head, sides, rows };
  }

  function paragraph() {
    const content = [];
    do content.push(lines[at++].trim());
    while (at < lines.length && !isBlank(lines[at]) && !(depth < DEEPEST && startsBlock(lines[at])));
    return { kind: "paragraph", text: content.join("\n") };
  }
}

/** The cells of a table's line. A bar after a backslash or within code is text. */
function cells(line) {
  const found = [""];
  let inCode = false;
  const text = line.trim().replace(/^\|/, "").replace(/([^\\])\|$/, "$1");
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\" && text[at + 1] === "|") {
      found[found.length - 1] += "|";
      at += 1;
    } else if (text[at] === "|" && !inCode) found.push("");
    else {
      if (text[at] === "`") inCode = !inCode;
      found[found.length - 1] += text[at];
    }
  }
  return found.map((cell) => cell.trim());
}

function blockElement(block) {
  switch (block.kind) {
    case "heading":
      // The page has headings of its own above these.
      return h(`h${Math.min(block.level + 2, 6)}`, {}, ...inline(block.text));
    case "rule":
      return h("hr");
    case "quote":
      return h("blockquote", {}, ...block.blocks.map(blockElement));
    case "code":
      return codeElement(block);
    case "list": {
      const items = block.items.map((item) => h("li", {}, ...item.flatMap((inner) => itemContent(inner, block.isLoose))));
      return h(block.isOrdered ? "ol" : "ul", block.isOrdered && block.start !== 1 ? { start: block.start } : {}, ...items);
    }
    case "table": {
      const cell = (tag) => (text, column) => h(tag, { class: block.sides[column] }, ...inline(text));
      const row = (tag) => (texts) => h("tr", {}, ...block.head.map((_, column) => cell(tag)(texts[column] ?? "", column)));
      const parts = [h("thead", {}, row("th")(block.head)), h("tbody", {}, ...block.rows.map(row("td")))];
      return h("div", { class: "table" }, h("table", {}, ...parts));
    }
    default:
      return h("p", {}, ...inline(block.text));
  }
}

/** Items of a list without blank lines have their text without paragraphs. */
function itemContent(block, isLoose) {
  return block.kind === "paragraph" && !isLoose ? inline(block.text) : [blockElement(block)];
}

function codeElement(block) {
  const code = h("code", {}, block.text);
  const bar = h("div", { class: "code-bar" }, h("span", {}, block.language || "text"), copyButton(() => block.text, "Copy code"));
  return h("div", { class: "code-block" }, bar, h("pre", { tabIndex: 0 }, code));
}

/** An element that shows a growing text. */
class Markdown {
  constructor(element) {
    this.element = element;
    this.shown = [];
  }

  update(text) {
    const next = blocks(text.split("\n"));
    let same = 0;
    while (same < next.length && same < this.shown.length && next[same].source === this.shown[same].source) same += 1;
    for (const { element } of this.shown.splice(same)) element.remove();
    for (const block of next.slice(same)) {
      const element = blockElement(block);
      this.element.append(element);
      this.shown.push({ source: block.source, element });
    }
  }
}
