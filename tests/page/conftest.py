"""A server over a scripted model, and a browser at its page."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

HERE = Path(__file__).resolve().parent

# No outside host is needed, and none may be asked: also not by the browser for itself.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def pytest_addoption(parser):
    parser.addoption("--browser-program")
    parser.addoption("--server")
    parser.addoption("--shots")


def start(program, folder, *options):
    """Starts a server. Returns the process and its URL."""
    log = folder / "server.log"
    command = [program, HERE / "script.json", "--ctx", "4096", *options]
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
    end = time.monotonic() + 60
    while not (found := re.search(r"at (http://[\d.:]+)", log.read_text())):
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return process, found.group(1)


def serving(*options):
    @pytest.fixture(scope="session")
    def server(request, tmp_path_factory):
        folder = tmp_path_factory.mktemp("server")
        process, url = start(request.config.getoption("server"), folder, *options)
        yield url
        process.terminate()
        process.wait(timeout=10)

    return server


server = serving()
slow_server = serving("--step", "40")
locked_server = serving("--api-key", "open-sesame")


@pytest.fixture(scope="session")
def browser(request):
    with sync_playwright() as playwright:
        program = request.config.getoption("browser_program")
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Opens the page in a browser of its own; what goes wrong in the page fails the test."""
    contexts, problems, expected = [], [], []

    def visit(url, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        # A request to anywhere else is told to the test, which has none to expect.
        page.on("request", lambda request: request.url.startswith((url, "data:", "blob:")) or problems.append(request.url))

        def console(message):
            if message.type == "error" and "status of 401" not in message.text:
                problems.append(message.text)

        page.on("console", console)
        page.goto(url)
        return page

    # What a test makes go wrong on purpose.
    visit.expected = expected
    yield visit
    for context in contexts:
        context.close()
    assert [problem for problem in problems if not any(text in problem for text in expected)] == []


@pytest.fixture
def shots(request):
    folder = request.config.getoption("shots")
    if not folder:
        pytest.skip("no --shots")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def script():
    return json.loads((HERE / "script.json").read_text())
