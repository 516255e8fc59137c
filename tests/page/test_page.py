"""The chat page: what people do with it, and what a model must not be able to do with it."""

import json
import re

import pytest
from playwright.sync_api import expect


def say(page, text):
    before = page.locator(".turn").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(before + 2)


def answer(page):
    return page.locator(".turn.assistant").last


def finished(page):
    """Waits for the end of the answer."""
    expect(answer(page)).not_to_have_class(re.compile("running"))
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    return answer(page)


def test_conversation(visit, server):
    page = visit(server)
    expect(page.get_by_role("heading", name="What can I do for you?")).to_be_visible()
    expect(page.locator("#model")).to_have_text("DeepSeek V4 Flash")
    say(page, "Hi there")
    expect(finished(page).locator(".text")).to_have_text("Hello! What would you like to know?")
    expect(page.locator("#title")).to_have_text("Hi there")
    # The reasoning is there and folded.
    thinking = answer(page).locator(".thinking")
    expect(thinking.locator(".thought")).to_be_hidden()
    thinking.locator("summary").click()
    expect(thinking.locator(".thought")).to_have_text("Easy.")
    expect(answer(page).locator(".stats")).to_have_text(re.compile(r"\d+ tokens .* \d+ of \d+ prompt tokens cached"))
    say(page, "And a fruit?")
    expect(finished(page).locator(".text")).to_have_text("A pear.")
    stats = answer(page).locator(".stats").inner_text()
    cached, prompt = map(int, re.search(r"(\d+) of (\d+) prompt", stats).groups())
    assert 0 < cached < prompt, stats
    expect(page.locator("#context")).to_have_text(re.compile(r"\d+ / 4\s096"))
    # It is still there after a reload.
    page.reload()
    expect(page.locator(".turn")).to_have_count(4)
    expect(page.locator(".bubble").first).to_have_text("Hi there")


def test_markdown(visit, server):
    page = visit(server)
    say(page, "markdown please")
    text = finished(page).locator(".text")
    expect(text.locator("strong")).to_have_text("three parts")
    expect(text.locator("ol > li")).to_have_count(3)
    expect(text.locator("ol ul > li")).to_have_count(2)
    expect(text.locator(".code-bar span")).to_have_text("python")
    expect(text.locator("pre code")).to_contain_text('sendall(b"HTTP/1.1 200 OK')
    expect(text.locator("h5")).to_have_text("How the ways compare")
    expect(text.locator("tbody tr")).to_have_count(2)
    expect(text.locator("blockquote em")).to_have_text("fast enough")
    expect(text.locator("del")).to_have_text("clever")
    links = text.locator("a")
    assert [link.get_attribute("href") for link in links.all()] == [
        "https://www.rfc-editor.org/rfc/rfc9112",
        "https://httpwg.org/specs/",
    ]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    text.get_by_role("button", name="Copy code").click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("import socket\n") and copied.endswith("connection.close()")


# Texts that models write, and what they are shown as: pieces of the page in a short form.
SHOWN = [
    ("a *b* **c** ***d*** _e_ __f__ ~~g~~", "p[a |em[b]| |strong[c]| |strong[em[d]]| |em[e]| |strong[f]| |del[g]]"),
    ("snake_case_name and 2 * 3 * 4 and **open", "p[snake_case_name and 2 * 3 * 4 and **open]"),
    ("`a ``b` `` c`d `` \\*e\\*", "p[code[a ``b]| |code[c`d]| *e*]"),
    ("one\ntwo<br>three", "p[one|br[]|two|br[]|three]"),
    ("- a\n- b\n  - c\n\n    d\n- e", "ul[li[p[a]]|li[p[b]|ul[li[p[c]|p[d]]]]|li[p[e]]]"),
    ("3. a\n4. b\n\nc", "ol[li[a]|li[b]]|p[c]"),
    ("```\na\n```\n~~~x\n```\n~~~", "code[a]|code[```]"),
    ("```js\nopen", "code[open]"),
    ("> a\n> > b\n\n---\n# c #", "blockquote[p[a]|blockquote[p[b]]]|hr[]|h3[c]"),
    ("| a |\n|---|\n| `x\\|y` \\| z |", "table[a; x|y | z]"),
    ("(see https://x.example/a_(b).)", "p[(see |a[https://x.example/a_(b)]|.)]"),
    ("[a](https://x.example/(1)) [b] [c](ftp://x)", "p[a[a]| [b] c]"),
    ("<b>x</b> & &amp; <!-- y -->", "p[<b>x</b> & &amp; <!-- y -->]"),
]

SHORT = """element => {
  const short = node => {
    if (node.nodeType === 3) return node.data;
    const tag = node.tagName.toLowerCase();
    if (node.className === "code-block") return `code[${node.querySelector("pre").textContent}]`;
    if (tag === "div") {
      return `table[${[...node.querySelectorAll("tr")].map(row => [...row.cells].map(cell => cell.textContent).join(", ")).join("; ")}]`;
    }
    return `${tag}[${[...node.childNodes].map(short).join("|")}]`;
  };
  element.normalize();
  return [...element.childNodes].map(short).join("|");
}"""


@pytest.mark.parametrize("source,shown", SHOWN)
def test_markdown_forms(visit, server, source, shown):
    page = visit(server)

    # The server's part is played, so that the text is exact.
    def play(route):
        chunk = {"choices": [{"index": 0, "delta": {"content": source}, "finish_reason": None}]}
        route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    page.route("**/v1/chat/completions", play)
    say(page, "x")
    assert finished(page).locator(".text").evaluate(SHORT) == shown


def test_long_text_is_shown_in_time(visit, server):
    page = visit(server)
    pieces = ["[" * 20_000, "*a " * 20_000, "` `` ``` " * 5000, "_b" * 20_000, "> " * 2000, "- " * 2000, "|" * 500 + "\n|-|"]
    text = "\n\n".join([*pieces, "[a](" * 5000, "https://" * 5000, "**c** " * 3000])

    def play(route):
        chunk = {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
        route.fulfill(content_type="text/event-stream", body=f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n")

    page.route("**/v1/chat/completions", play)
    say(page, "x")
    expect(answer(page).locator(".text strong")).to_have_count(3000)


def test_attack(visit, server):
    page = visit(server)
    say(page, "attack me")
    turn = finished(page)
    turn.locator("summary").click()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hacked") is None
    assert turn.locator("script, img, iframe, form, style, b").count() == 0
    assert turn.locator("svg[onload], [onclick], [onerror]").count() == 0
    expect(turn.locator(".text")).to_contain_text("<script>window.hacked = 1</script>")
    expect(turn.locator(".thought")).to_contain_text("onerror=window.hacked=21")
    links = turn.locator("a").evaluate_all("links => links.map(({ href, rel, target }) => ({ href, rel, target }))")
    assert links and all(link["href"].startswith("https://") for link in links), links
    assert all(link["rel"] == "noopener noreferrer" and link["target"] == "_blank" for link in links)
    # Also as a title, in the list, in what the user wrote, and as a tool's arguments.
    page.get_by_role("button", name="New chat").click()
    say(page, "<img src=x onerror=window.hacked=40> weather")
    finished(page)
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0


def test_policy(visit, server):
    page = visit(server)
    visit.expected.append("TrustedHTML")
    policy = page.request.get(server).headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "connect-src 'self'" in policy
    with pytest.raises(Exception, match="TrustedHTML|Trusted Type"):
        page.evaluate("document.body.innerHTML = '<p>x</p>'")


def test_stop_go_on_and_edit(visit, slow_server):
    page = visit(slow_server)
    say(page, "Tell me a story")
    expect(answer(page).locator(".text")).to_contain_text("Once upon")
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_visible()
    page.keyboard.press("Escape")
    finished(page)
    expect(answer(page).locator(".notice")).to_have_text("You stopped the answer.")
    before = answer(page).locator(".text").inner_text()
    assert "year 119" not in before
    page.get_by_role("button", name="Go on with this answer").click()
    expect(answer(page).locator(".text")).not_to_have_text(before)
    stop.click()
    finished(page)
    assert answer(page).locator(".text").inner_text().startswith(before)
    # The arrow edits the last message.
    page.get_by_label("Message", exact=True).press("ArrowUp")
    page.get_by_label("Edit the message").fill("A fruit")
    page.keyboard.press("Enter")
    expect(finished(page).locator(".text")).to_have_text("A pear.")
    expect(page.locator(".turn")).to_have_count(2)
    page.get_by_role("button", name="Answer again").click()
    expect(finished(page).locator(".text")).to_have_text("A pear.")
    expect(page.locator(".turn")).to_have_count(2)


def test_thinking_and_sampling_are_asked_for(visit, server):
    page = visit(server)
    bodies = []
    page.on("request", lambda request: request.method == "POST" and bodies.append(request.post_data_json))
    say(page, "A fruit")
    finished(page)
    assert not {"reasoning_effort", "temperature", "seed"} & set(bodies[-1])
    page.get_by_label("Thinking").select_option("Off")
    page.keyboard.press("Control+,")
    page.get_by_label("System prompt").fill("Be kind.")
    page.get_by_label("Temperature").fill("0.5")
    page.get_by_label("Seed").fill("7")
    page.get_by_role("button", name="Done").click()
    say(page, "Another fruit")
    finished(page)
    body = bodies[-1]
    assert (body["reasoning_effort"], body["temperature"], body["seed"]) == ("none", 0.5, 7)
    assert body["messages"][0] == {"role": "system", "content": "Be kind."}
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    page.reload()
    expect(page.get_by_label("Thinking")).to_have_value("none")


def test_tools(visit, server):
    page = visit(server)
    page.keyboard.press("Control+,")
    tools = page.get_by_label("Tools")
    tools.fill("[{")
    expect(page.get_by_role("alert")).to_contain_text("This is no JSON")
    tools.fill('[{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]')
    page.get_by_role("button", name="Done").click()
    say(page, "How is the weather?")
    call = finished(page).locator(".call")
    expect(call).to_contain_text("get_weather")
    expect(call.locator("pre")).to_contain_text('"city": "Oslo"')
    call.get_by_label("Result of get_weather").fill("5 degrees")
    page.get_by_role("button", name="Send result").click()
    expect(answer(page).locator(".text")).to_have_text("It is 5 degrees in Oslo.")
    finished(page)
    expect(page.locator(".call pre").last).to_have_text("5 degrees")


def test_conversations_are_kept_named_exported_and_deleted(visit, server):
    page = visit(server)
    for text in ("First talk", "Second talk"):
        page.get_by_role("button", name="New chat").click()
        say(page, text)
        finished(page)
    entries = page.locator(".conversation .open")
    expect(entries).to_have_text(["Second talk", "First talk"])
    page.get_by_label("Search conversations").fill("first")
    expect(entries).to_have_text(["First talk"])
    page.get_by_label("Search conversations").fill("")

    def choose(title, entry):
        page.locator(".conversation", has_text=title).hover()
        page.get_by_role("button", name=f"More about {title}").click()
        page.get_by_role("menuitem", name=entry).click()

    choose("First talk", "Rename")
    page.get_by_label("Title").fill("Renamed")
    page.keyboard.press("Enter")
    expect(entries).to_contain_text(["Renamed"])
    with page.expect_download() as download:
        choose("Renamed", "Export as Markdown")
    text = open(download.value.path()).read()
    assert download.value.suggested_filename == "Renamed.md"
    assert "# Renamed" in text and "## User\n\nFirst talk" in text and "## Assistant" in text
    with page.expect_download() as download:
        choose("Renamed", "Export as JSON")
    assert json.load(open(download.value.path()))["turns"][0] == {"role": "user", "text": "First talk"}
    choose("Second talk", "Delete")
    page.get_by_role("button", name="Delete").click()
    expect(entries).to_have_text(["Renamed"])
    page.reload()
    expect(entries).to_have_text(["Renamed"])
    entries.first.click()
    expect(page.locator(".bubble")).to_have_text("First talk")
    page.go_back()
    expect(page.locator("#empty")).to_be_visible()


def test_key(visit, locked_server):
    page = visit(locked_server)
    key = page.get_by_label("API key")
    expect(key).to_be_visible()
    key.fill("wrong")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#key-note")).to_contain_text("does not know the key")
    key.fill("open-sesame")
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#model")).to_have_text("DeepSeek V4 Flash")
    say(page, "Hi")
    expect(finished(page).locator(".text")).to_contain_text("Hello!")
    page.reload()
    expect(page.locator("#model")).to_have_text("DeepSeek V4 Flash")


def test_errors_are_told(visit, server):
    page = visit(server)
    # The browser itself tells of the failed request, too; that is not the page's mistake.
    visit.expected.append("ERR_FAILED")
    page.route("**/v1/chat/completions", lambda route: route.abort())
    say(page, "word " * 10)
    expect(finished(page).locator(".notice")).to_have_text("The server cannot be reached. Is it still running?")
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Answer again").click()
    expect(answer(page).locator(".text")).to_contain_text("Hello!")
    chunk = {"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": None}]}
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=f"data: {json.dumps(chunk)}\n\n"))
    say(page, "again")
    expect(finished(page).locator(".notice")).to_have_text("The connection broke off before the end of the answer.")
    expect(answer(page).locator(".text")).to_have_text("Half")


@pytest.mark.parametrize("name", ["desk-light", "desk-dark", "phone-light", "phone-dark"])
def test_shots(visit, server, shots, name):
    device, scheme = name.split("-")
    options = {"color_scheme": scheme, "device_scale_factor": 2}
    if device == "phone":
        options |= {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    page = visit(server, **options)
    page.screenshot(path=shots / f"{name}-empty.png")

    def send(text):
        before = page.locator(".turn").count()
        page.get_by_label("Message", exact=True).fill(text)
        page.get_by_role("button", name="Send", exact=True).click()
        expect(page.locator(".turn")).to_have_count(before + 2)
        return finished(page)

    for text in ("A fruit, please", "What is a story without an end?"):
        if device == "phone":
            page.get_by_label("Show conversations").click()
        page.get_by_role("button", name="New chat").click()
        send(text)
    if device == "phone":
        page.get_by_label("Show conversations").click()
    page.get_by_role("button", name="New chat").click()
    send("How is a small HTTP server built? In markdown, please.").locator("summary").click()
    page.locator("#scroller").evaluate("element => (element.scrollTop = 0)")
    page.screenshot(path=shots / f"{name}-top.png")
    page.locator("#scroller").evaluate("element => (element.scrollTop = element.scrollHeight)")
    page.screenshot(path=shots / f"{name}-end.png")
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Tools").fill('[{"type": "function", "function": {"name": "get_weather"}}]')
    page.screenshot(path=shots / f"{name}-settings.png")
    page.get_by_role("button", name="Done").click()
    send("How is the weather?")
    page.screenshot(path=shots / f"{name}-tool.png")
    if device == "phone":
        page.get_by_label("Show conversations").click()
        page.screenshot(path=shots / f"{name}-list.png")
