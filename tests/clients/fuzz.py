#!/usr/bin/env python3
"""Sends a server with the demo model what its own /openapi.json allows, and what it does not, with schemathesis.

    tests/clients/fuzz.py [--seconds 120] [--ds4 PROGRAM] [schemathesis arguments...]

No answer may be a server error, and each must have the status, the type and the shape that the document promises. The
context is small, so that answers are short. Makes a virtual environment with the pinned schemathesis below the target folder,
and builds ds4 unless --ds4 names it. Needs Python 3.10 or newer with venv, and a package index for the first run.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True

import venv

from building import build, retry, target_folder

PINNED = "schemathesis==4.32.5"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def schemathesis(target):
    """The program, installed once."""
    folder = target / "clients" / f"venv-{PINNED.replace('==', '-')}"
    complete = folder / "complete"
    if not complete.exists():
        venv.create(folder, with_pip=True, clear=True)
        if not retry([folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", PINNED]):
            sys.exit(f"{PINNED} could not be installed; is a package index reachable?")
        complete.touch()
    return folder / "bin" / "schemathesis"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--ds4", type=Path, help="the program to start instead of building one")
    args, rest = parser.parse_known_args()
    if not args.ds4:
        build("--package", "ds4")
    target = target_folder()
    program = args.ds4 or target / "debug" / "ds4"
    fuzz = schemathesis(target)
    command = [program, "serve", "--port", "0", "--parallel", "4", "--ctx", "256"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in server.stderr if "serving " in line)
        url = "http://127.0.0.1:" + line.split("http://127.0.0.1:")[1].split()[0].split("/")[0]
        options = ["--checks", CHECKS, "--max-time", str(args.seconds), "--seed", "1", "--warnings", "off", "--workers", "2"]
        ended = subprocess.run([fuzz, "run", f"{url}/openapi.json", *options, *rest], cwd=target / "clients", env={**os.environ, "NO_COLOR": "1"})
        survived = server.poll() is None
        if not survived:
            print("the server ended", file=sys.stderr)
    finally:
        server.terminate()
        server.wait()
    sys.exit(ended.returncode if survived else 1)


if __name__ == "__main__":
    main()
