"""What the agents are asked to do, and what the scripted model answers so that they do it.

Rules are those of `crates/ds4-server/examples/scripted_server.rs`: the first whose `last` is in the last user turn and whose
`prompt` is anywhere in the prompt is played. They see the prompt as the model sees it, so they also tell how the request
was rendered.
"""

import base64
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Optional


@dataclass
class Task:
    """A task for agents."""

    name: str
    # What the user says.
    text: str
    # What the model answers, given the agent and the folder.
    rules: Callable
    # What is wrong afterwards, if anything, given the folder and the prompts in order.
    check: Callable[[Path, list], Optional[str]]
    # Further arguments of the agent.
    arguments: tuple = ()
    # Puts files into the folder.
    prepare: Callable[[Path], None] = lambda folder: None
    # Share of all prompt tokens that has to come from the cache, in percent.
    least_cached: int = 0
    # Further options of the scripted server.
    server: tuple = ()
    # Further environment of the agent.
    environment: dict = field(default_factory=dict)
    # A text within the refusals that belong to the task.
    refusal: Optional[str] = None
    # Seconds that it may take, where that is more than usual.
    patience: int = 0


def says(text, **conditions):
    return {**conditions, "answer": {"text": text}}


def calls(*calls, reasoning="This needs a tool.", **conditions):
    listed = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return {**conditions, "answer": {"reasoning": reasoning, "calls": listed}}


# What is asked beside the task, such as a title, shows no tools.
ASIDE = says("A title")


def create_rules(agent, folder):
    name, arguments = agent.write(folder)
    return [
        says("Created hello.txt.", last="<tool_result>"),
        calls((name, arguments), prompt=f'"name": "{name}"'),
        ASIDE,
    ]


def create_check(folder, prompts):
    file = folder / "hello.txt"
    if not file.exists():
        return "no hello.txt"
    written = file.read_text().strip()
    return None if written == "hi" else f"hello.txt holds {written!r}"


CREATE = Task(
    name="create",
    text="create hello.txt containing hi",
    rules=create_rules,
    check=create_check,
    # The second request's prompt begins with all of the first.
    least_cached=40,
)


# Claude Code shows most tools only once the model has searched for them, by a reference in the search's result. The tool's
# definition has to stand there and nowhere before, or the whole prompt would be computed again. The search of the web is then
# a request of its own, for a tool that Anthropic's service would run.
def find_rules(agent, folder):
    return [
        says("Nothing was found.", last="Perform a web search"),
        calls(("WebSearch", {"query": "news of the day"}), last='<tool_result>{"name": "WebSearch"'),
        says("There is no news.", last="<tool_result>"),
        calls(("ToolSearch", {"query": "select:WebSearch", "max_results": 5}), prompt='"name": "ToolSearch"'),
        ASIDE,
    ]


def find_check(folder, prompts):
    if not any("Perform a web search" in prompt for prompt in prompts):
        return "WebSearch was not called"
    if "Nothing was found." not in prompts[-1]:
        return "the result of the search did not come back"
    return None


FIND_A_TOOL = Task(
    name="find a tool",
    text="search the web for news",
    rules=find_rules,
    check=find_check,
    arguments=("--allowedTools", "WebSearch"),
    # Of three long prompts two begin with what was computed.
    least_cached=60,
)


# One pixel.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def image_rules(agent, folder):
    return [
        says("I cannot see it.", last="[Unsupported image]"),
        says("The image did not come.", last="<tool_result>"),
        calls(("Read", {"file_path": str(folder / "dot.png")}), prompt='"name": "Read"'),
        ASIDE,
    ]


def image_check(folder, prompts):
    return None if "[Unsupported image]" in prompts[-1] else "the image left no mark in the prompt"


READ_AN_IMAGE = Task(
    name="read an image",
    text="look at dot.png",
    rules=image_rules,
    check=image_check,
    prepare=lambda folder: (folder / "dot.png").write_bytes(base64.b64decode(PNG)),
    least_cached=40,
)


# Two conversations beside the first one, at the same time.
def agents_rules(agent, folder):
    def sub_agent(word):
        arguments = {
            "description": f"Say {word}",
            "prompt": f"Say {word}.",
            "subagent_type": "general-purpose",
            "run_in_background": False,
        }
        return ("Agent", arguments)

    return [
        says("One.", last="Say one."),
        says("Two.", last="Say two."),
        says("Both have spoken.", last="<tool_result>"),
        calls(sub_agent("one"), sub_agent("two"), prompt='"name": "Agent"'),
        ASIDE,
    ]


def agents_check(folder, prompts):
    missing = [word for word in ("One.", "Two.") if word not in prompts[-1]]
    return f"no answer {' and '.join(missing)} came back" if missing else None


SUB_AGENTS = Task(
    name="two sub-agents",
    text="let two agents speak",
    rules=agents_rules,
    check=agents_check,
    least_cached=25,
)


# The conversation outgrows the model's window in its third turn. The refusal names both counts, Claude Code recognizes it, has
# the conversation summed up, without its oldest turn where that is still too long, and goes on from the summary.
SUMMARY = "The user wants hello.txt with hi in it; it has been counted to 2000."


def compact_rules(agent, folder):
    # Numbers and not files: what was read is attached to the summary, and that is then too long again for so small a window.
    def count(thousand, **conditions):
        command = f"seq {1000 * thousand - 999} {1000 * thousand}"
        return calls(("Bash", {"command": command, "description": "Count"}), **conditions)

    name, arguments = agent.write(folder)
    return [
        says(f"<summary>{SUMMARY}</summary>", last="<summary> block"),
        says("Created hello.txt.", last="<tool_result>File created"),
        calls((name, arguments), prompt=SUMMARY),
        count(2, last="\n1000</tool_result>"),
        count(1, prompt=f'"name": "{name}"'),
        ASIDE,
    ]


def compact_check(folder, prompts):
    if not any(SUMMARY in prompt for prompt in prompts):
        return "nothing was summed up"
    return create_check(folder, prompts)


COMPACT = Task(
    name="a full context",
    text="count to 2000, then create hello.txt containing hi",
    rules=compact_rules,
    check=compact_check,
    arguments=("--allowedTools", "Bash(seq:*)"),
    server=("--ctx", "26000"),
    refusal="prompt is too long: ",
)


# A prompt that takes longer than the client waits for the next byte, and longer than it waits for the first one. Claude Code's
# timers are set as short as it allows; for events it has another one that is never shorter than five minutes.
def wait_check(folder, prompts):
    if len(prompts) != 2:
        return f"{len(prompts)} requests: one was given up and tried again"
    return create_check(folder, prompts)


WAIT = Task(
    name="a long wait",
    text="create hello.txt containing hi",
    rules=create_rules,
    check=wait_check,
    # 35 steps of 1.5 seconds.
    server=("--prompt-step", "1500"),
    environment={
        "CLAUDE_STREAM_FIRST_BYTE_TIMEOUT_MS": "10000",
        "CLAUDE_ENABLE_BYTE_WATCHDOG": "1",
        "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": "15000",
    },
)

# The same with its timer for events, by which it gives up after ten minutes of nothing but pings: not among the agent's tasks,
# because it takes twelve minutes (`--long-wait`).
LONG_WAIT = replace(
    WAIT,
    name="a very long wait",
    server=("--prompt-step", "20000"),
    environment={},
    patience=1200,
)
