"""The server under test, clients for it, and the table at the end."""

import re
import subprocess
import threading
import time
import urllib.request
from collections import deque

import anthropic
import openai
import pytest

KEY = "sk-test"
MODEL = "deepseek-v4-flash"

# A context that is small enough to be exceeded in a test.
CONTEXT = 8192


class Server:
    """A server, started here or elsewhere."""

    def __init__(self, url, key):
        self.url = url.rstrip("/")
        self.key = key

    def get(self, path):
        request = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()

    def metric(self, line):
        """The value of a line of /metrics; 0 if it is not there."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    def wait_for(self, line, value, seconds=20):
        """Waits until a line of /metrics has a value."""
        end = time.monotonic() + seconds
        while (now := self.metric(line)) != value:
            assert time.monotonic() < end, f"{line} is {now} and does not become {value}"
            time.sleep(0.05)


def pytest_addoption(parser):
    parser.addoption("--url", help="a running server")
    parser.addoption("--key", default="none", help="its key")
    parser.addoption("--ds4", help="the program to start")


@pytest.fixture(scope="session")
def server(request):
    """`ds4 serve` with the demo model, or the server of --url."""
    if url := request.config.getoption("url"):
        yield Server(url, request.config.getoption("key"))
        return
    command = [request.config.getoption("ds4"), "serve", "--port", "0", "--ctx", str(CONTEXT), "--parallel", "2"]
    process = subprocess.Popen([*command, "--api-key", KEY], stderr=subprocess.PIPE, text=True)
    said = deque(maxlen=20)
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"at (http://\S+?)[ ,)]", line):
            break
    else:
        pytest.exit(f"{command[0]} did not start: {''.join(said)}")
    # Nobody reads what it says from now on, but somebody must take it.
    threading.Thread(target=lambda: deque(process.stderr, maxlen=0), daemon=True).start()
    yield Server(found.group(1), KEY)
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()


@pytest.fixture
def openai_client(server):
    """The official OpenAI client. It would send a failed request again."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
def anthropic_client(server):
    """The official Anthropic client. It would send a failed request again."""
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0, timeout=120) as client:
        yield client


def pytest_terminal_summary(terminalreporter):
    """One row per test, grouped by file."""
    rows = {}
    for outcome in ("passed", "failed", "error", "skipped", "xfailed"):
        for report in terminalreporter.stats.get(outcome, []):
            file, _, name = report.nodeid.partition("::")
            seconds = getattr(report, "duration", 0.0)
            rows[file, name] = (outcome, seconds)
    if not rows:
        return
    terminalreporter.write_line("")
    width = max(len(name) for _, name in rows)
    last = None
    for (file, name), (outcome, seconds) in sorted(rows.items(), key=lambda row: row[0][0]):
        title = file.removeprefix("test_").removesuffix(".py")
        shown = title if title != last else ""
        last = title
        terminalreporter.write_line(f"{shown:<12} {name:<{width}}  {outcome:<7} {seconds:6.2f} s")
    versions = f"openai {openai.__version__}, anthropic {anthropic.__version__}"
    terminalreporter.write_line(f"\nclients: {versions}")
