"""The coding agents that tests/clients/agents runs, and how each is pointed at a server.

An agent is installed from npm in the version that stands here, runs headless in an empty folder with a HOME of its own,
and is told to do the tasks of agent_tasks.py. `write` is the call of its own tool that writes hello.txt.
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from agent_tasks import COMPACT, CREATE, FIND_A_TOOL, READ_AN_IMAGE, SUB_AGENTS, WAIT

MODEL = "deepseek-v4-flash"
CONTEXT = 131072


@dataclass
class Agent:
    """A coding agent over one API."""

    name: str
    # As npm knows it, with the version.
    package: str
    # What the server counts its requests under: chat, messages or responses.
    api: str
    # Below the folder where npm installs: the script, or a program where `is_program`.
    entry: Callable[[], str]
    # The arguments for a task.
    arguments: Callable[[str], list]
    # The call that writes hello.txt, given the folder: name and arguments of the tool.
    write: Callable[[Path], tuple]
    # Environment beside HOME and PATH, given the server's URL.
    environment: Callable[[str], dict] = lambda url: {}
    # Files below HOME, given the server's URL.
    files: Callable[[str], dict] = lambda url: {}
    is_program: bool = False
    tasks: tuple = (CREATE,)


def platform():
    """This machine as npm packages name it."""
    system = {"linux": "linux", "darwin": "darwin"}[sys.platform]
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}[os.uname().machine]
    return f"{system}-{machine}"


def claude_environment(url):
    return {
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_AUTH_TOKEN": "none",
        "ANTHROPIC_MODEL": MODEL,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": MODEL,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(CONTEXT),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }


CLAUDE_CODE = Agent(
    name="Claude Code",
    package="@anthropic-ai/claude-code@2.1.331",
    api="messages",
    # The launcher of the package would have to be finished by an install script; this is what it starts.
    entry=lambda: f"@anthropic-ai/claude-code-{platform()}/claude",
    is_program=True,
    arguments=lambda task: ["-p", task, "--permission-mode", "acceptEdits"],
    write=lambda folder: ("Write", {"file_path": str(folder / "hello.txt"), "content": "hi"}),
    environment=claude_environment,
    tasks=(CREATE, FIND_A_TOOL, READ_AN_IMAGE, SUB_AGENTS, COMPACT, WAIT),
)


def pi(api, pi_api):
    """Pi speaks every API. Its messages client adds /v1 itself."""

    def models(url):
        provider = {
            "baseUrl": url if api == "messages" else f"{url}/v1",
            "api": pi_api,
            "apiKey": "none",
            "models": [{"id": MODEL, "reasoning": True, "contextWindow": CONTEXT, "maxTokens": 32768}],
        }
        return {".pi/agent/models.json": json.dumps({"providers": {"ds4": provider}})}

    return Agent(
        name="Pi",
        package="@earendil-works/pi-coding-agent@0.87.1",
        api=api,
        entry=lambda: "@earendil-works/pi-coding-agent/dist/cli.js",
        arguments=lambda task: ["-p", "--offline", "--provider", "ds4", "--model", MODEL, task],
        write=lambda folder: ("write", {"path": "hello.txt", "content": "hi"}),
        files=models,
    )


CODEX_SETTINGS = """\
model = "{model}"
model_provider = "ds4"
model_context_window = {context}
[model_providers.ds4]
name = "ds4"
base_url = "{url}/v1"
wire_api = "responses"
"""

CODEX = Agent(
    name="Codex",
    package="@openai/codex@0.169.0",
    api="responses",
    entry=lambda: "@openai/codex/bin/codex.js",
    # The folder is empty and one's own: no sandbox, no questions, no repository.
    arguments=lambda task: ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", task],
    write=lambda folder: ("exec_command", {"cmd": "printf hi > hello.txt"}),
    files=lambda url: {".codex/config.toml": CODEX_SETTINGS.format(model=MODEL, context=CONTEXT, url=url)},
)


PATCH = "*** Begin Patch\n*** Add File: hello.txt\n+hi\n*** End Patch\n"

# With a name of a model that it knows, Codex has files edited by a free-form tool with a grammar.
CODEX_PATCHING = replace(
    CODEX,
    name="Codex, free-form tool",
    arguments=lambda task: CODEX.arguments(task)[:-1] + ["--model", "gpt-5.5", task],
    write=lambda folder: ("apply_patch", {"input": PATCH}),
)


def opencode(api, npm):
    """opencode speaks every API by a library that its configuration names."""

    def settings(url):
        model = {"reasoning": True, "tool_call": True, "limit": {"context": CONTEXT, "output": 32768}}
        options = {"baseURL": f"{url}/v1", "apiKey": "none"}
        provider = {"npm": npm, "name": "ds4", "options": options, "models": {MODEL: model}}
        return {".config/opencode/opencode.json": json.dumps({"autoupdate": False, "provider": {"ds4": provider}})}

    return Agent(
        name="opencode",
        package="opencode-ai@1.18.33",
        api=api,
        # The package's own program is put there by an install script; this is what it starts.
        entry=lambda: f"opencode-{platform()}/bin/opencode",
        is_program=True,
        arguments=lambda task: ["run", "--model", f"ds4/{MODEL}", task],
        write=lambda folder: ("write", {"filePath": "hello.txt", "content": "hi"}),
        environment=lambda url: {"OPENCODE_DISABLE_MODELS_FETCH": "1"},
        files=settings,
    )


AGENTS = [
    CLAUDE_CODE,
    pi("messages", "anthropic-messages"),
    pi("chat", "openai-completions"),
    pi("responses", "openai-responses"),
    CODEX,
    CODEX_PATCHING,
    opencode("responses", "@ai-sdk/openai"),
    opencode("chat", "@ai-sdk/openai-compatible"),
    opencode("messages", "@ai-sdk/anthropic"),
]
